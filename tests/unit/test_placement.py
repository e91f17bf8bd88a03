"""The table of --plan, and what is said of threads that do not fit."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from pipeinfer_cli.cli.parsing.values import integers
from pipeinfer_cli.commands.generate_config import GenerateConfig, Prompt
from pipeinfer_cli.engine.cpu.variants import CpuCode
from pipeinfer_cli.errors import UserError
from pipeinfer_cli.launch.environment import RankResources
from pipeinfer_cli.models.layer_split import LayerRange
from pipeinfer_cli.runtime import placement
from pipeinfer_cli.runtime.placement import Layout
from plans import model_info

MODEL = model_info((1000, 2000, 4000), bytes_input=10, bytes_output=500)
HASWELL = CpuCode(variant="haswell", usable=("haswell", "sse42"))
RESOURCES = (
    RankResources(host="a", n_threads=2, cpus=frozenset({0, 1, 8})),
    RankResources(host="b", n_threads=4, cpu=HASWELL, cpus=frozenset(range(4)), memory_bytes=8000),
    RankResources(
        host="b", n_threads=4, cpu=HASWELL, cpus=frozenset(range(4, 8)), memory_bytes=8000
    ),
)
LAYERS = (LayerRange(0, 0), LayerRange(0, 2), LayerRange(2, 3))
LAYOUT = Layout(model=MODEL, layers=LAYERS, kv_bytes=(0, 200, 100))
Capture = pytest.CaptureFixture[str]


def config(**more: Any) -> GenerateConfig:
    return GenerateConfig(model="m", prompt=Prompt(text="p"), **more)


def test_plan_is_a_table_on_stdout(capsys: Capture) -> None:
    placement.report(LAYOUT, RESOURCES, config(plan_only=True))
    said = capsys.readouterr()
    assert (said.out.splitlines(), said.err) == (
        [
            "rank\thost\tcores\tthreads\tCPU variant\tlayers\tbytes\tKV\tmemory",
            "0\ta\t0-1,8\t2\t?\tnone\t0 B\t0 B\t?",
            "1\tb\t0-3\t4\thaswell\t[0, 2)\t3.0 kB\t200 B\t8.0 kB",
            "2\tb\t4-7\t4\thaswell\t[2, 3)\t4.5 kB\t100 B\t8.0 kB",
        ],
        "",
    )


def test_a_plan_for_programs_is_json_on_stdout(capsys: Capture) -> None:
    placement.report(LAYOUT, RESOURCES, config(plan_only=True, format="json"))
    said = capsys.readouterr()
    (line,) = said.out.splitlines()
    none, first, last = json.loads(line)["ranks"]
    about = json.loads(line)
    assert (about["n_layer"], about["type_k"], about["type_v"]) == (3, "f16", "f16")
    assert about["exact"] is True
    assert none == {
        "rank": 0,
        "host": "a",
        "cores": [0, 1, 8],
        "threads": 2,
        "cpu_variant": None,
        "layers": None,
        "bytes": 0,
        "kv_bytes": 0,
        "state_bytes": 0,
        "memory_bytes": None,
    }
    assert (first["layers"], last["layers"], first["bytes"]) == ([0, 2], [2, 3], 3000)
    assert said.err == ""


def test_a_cache_of_unknown_size() -> None:
    layout = replace(LAYOUT, kv_bytes=(0, 0, 0))
    assert [row[7] for row in placement.rows(layout, RESOURCES)] == ["0 B", "?", "?"]
    ranks = placement.as_dict(layout, RESOURCES)["ranks"]
    assert [rank["kv_bytes"] for rank in ranks] == [0, None, None]


def test_report_binding_is_the_same_table_on_stderr(capsys: Capture) -> None:
    placement.report(LAYOUT, RESOURCES, config(report_binding=True))
    said = capsys.readouterr()
    assert (said.out, said.err.splitlines()[2]) == (
        "",
        "pipeinfer: 1     b     0-3    4        haswell      [0, 2)  3.0 kB  200 B  8.0 kB",
    )
    placement.report(LAYOUT, RESOURCES, config())
    assert capsys.readouterr() == ("", "")


def test_more_threads_than_cores_are_warned_of_once_for_all_like_ranks() -> None:
    all_resources = [RankResources(host="a", n_threads=8, cpus=frozenset({0, 1}))] * 3 + [
        RESOURCES[1]
    ]
    (warning,) = placement.warnings(all_resources)
    assert "8 threads on 2 core(s)" in warning
    assert "rank 0-2; cores 0-1" in warning
    assert placement.warnings(RESOURCES) == []


@pytest.mark.parametrize(
    ("threads", "fits"), [(None, True), (4, True), ((1, 2, 3), True), ((1, 2), False)]
)
def test_a_list_of_threads_has_one_for_each_rank(threads: object, fits: bool) -> None:
    if fits:
        placement.check(config(threads=threads), RESOURCES)
    else:
        with pytest.raises(UserError, match="2 numbers for 3 ranks"):
            placement.check(config(threads=threads), RESOURCES)


def test_threads_of_a_rank() -> None:
    def made(threads: object) -> GenerateConfig:
        return GenerateConfig(model="m", prompt=Prompt(text="p"), threads=threads)

    assert [made(None).threads_of(1), made(3).threads_of(1)] == [None, 3]
    listed = made(integers("8,4"))
    assert [listed.threads_of(rank) for rank in range(3)] == [8, 4, None]
    assert integers("8") == 8
    for wrong in (0, (2, 0), (2, 513)):
        with pytest.raises(UserError, match="--threads"):
            made(wrong)


def test_more_threads_than_a_quota_allows_are_warned_of() -> None:
    resources = RankResources(host="a", n_threads=3, cpus=frozenset(range(8)), cpu_quota=2.5)
    (warning,) = placement.warnings([resources])
    assert warning == (
        "3 threads on 2 core(s) that the CPU quota of 2.5 allows (rank 0; cores 0-7): "
        "give fewer with --threads, or raise the quota"
    )


def test_more_tensors_than_memory_are_warned_of_for_each_host(capsys: Capture) -> None:
    resources = [replace(each, memory_bytes=7000) for each in RESOURCES]
    placement.report(LAYOUT, resources, config(plan_only=True))
    assert capsys.readouterr().err == (
        "pipeinfer: warning: rank 1-2 on b: 7.5 kB of tensors and 300 B of KV cache, "
        "but 7.0 kB of memory: "
        "use more hosts, or raise the job's limit\n"
    )
