"""NUMA nodes: CPUs and memory of ranks, as --numa has them, and what the kernel says of them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from pipeinfer_cli.commands.generate_config import GenerateConfig, Prompt
from pipeinfer_cli.errors import UserError
from pipeinfer_cli.launch import environment
from pipeinfer_cli.launch.environment import RankResources
from pipeinfer_cli.launch.host import numa
from pipeinfer_cli.launch.host.cores import Cores
from pipeinfer_cli.models.layer_split import LayerRange
from pipeinfer_cli.runtime import placement
from pipeinfer_cli.runtime.placement import Placement

LEFT, RIGHT, ALL = frozenset(range(4)), frozenset(range(4, 8)), frozenset(range(8))
TWO_NODES = Cores(siblings={}, node={cpu: cpu // 4 for cpu in ALL})
ONE_NODE = Cores(siblings={}, node=dict.fromkeys(ALL, 0))

NUMA_MAPS = r"""
5500 interleave:0-1 file=/usr/bin/python3 mapped=3 mapmax=9 N0=3 kernelpagesize_kB=4
5600 interleave:0-1 heap anon=6 dirty=6 active=0 N0=2 N1=4 kernelpagesize_kB=4
7f00 interleave:0-1 anon=3 dirty=3 N1=3 kernelpagesize_kB=2048
7f10 default file=/models/N1=7\040b/a.gguf mapped=100 N0=75 N1=25 kernelpagesize_kB=4
7f20 default file=/models/N1=7\040b/sub/other.gguf mapped=9 N0=9 kernelpagesize_kB=4
7f30 default
""".lstrip()


@pytest.mark.parametrize(
    ("masks", "started_on", "found"),
    [
        pytest.param([ALL], [5], [RIGHT], id="alone: where it was started"),
        pytest.param([ALL, ALL], [5, 6], [LEFT, RIGHT], id="a node each"),
        pytest.param([ALL] * 4, [0] * 4, [LEFT, LEFT, RIGHT, RIGHT], id="two in a node"),
        pytest.param([ALL] * 3, [0] * 3, [LEFT, LEFT, RIGHT], id="not evenly"),
        pytest.param([LEFT, RIGHT], [0, 4], [LEFT, RIGHT], id="bound by the launcher"),
        pytest.param([frozenset({3, 4, 5}), LEFT], [3, 0], [{3}, LEFT], id="masks of their own"),
        pytest.param([RIGHT], [1], [RIGHT], id="moved meanwhile"),
    ],
)
def test_isolated_ranks(masks: Any, started_on: list[int], found: list[Any]) -> None:
    assert numa.isolated(masks, started_on, TWO_NODES) == found


def test_an_isolated_process_is_in_one_node_and_gets_its_mask_back() -> None:
    before = environment.affinity()
    with environment.same_affinity():
        masks = environment.isolate(0, [before], [numa.current_cpu()])
        assert environment.affinity() == masks[0] <= before
        assert len(Cores.read().nodes_of(masks[0])) == 1
        os.sched_setaffinity(0, {min(masks[0])})
    assert environment.affinity() == before


def rank(cpus: frozenset[int], n_threads: int = 2, **more: Any) -> RankResources:
    return RankResources(host="h", n_threads=n_threads, cpus=cpus, **more)


@pytest.mark.parametrize(
    ("mode", "policy", "cpus", "nodes"),
    [
        ("auto", "default", ALL, (0, 1)),
        ("auto", "default", RIGHT, (1,)),
        ("auto", "interleave:0-1", ALL, ()),  # numactl's
        ("auto", "bind:0", ALL, ()),
        ("distribute", "bind:0", ALL, (0, 1)),
        ("isolate", "default", RIGHT, (1,)),
        ("numactl", "default", ALL, ()),
    ],
)
def test_memory_of_nodes(
    mode: str, policy: str, cpus: frozenset[int], nodes: tuple[int, ...]
) -> None:
    assert rank(cpus).with_memory(mode, TWO_NODES, policy).memory_nodes() == nodes
    assert rank(cpus).with_memory(mode, ONE_NODE, policy).memory_nodes() == ()


def test_memory_is_that_of_the_threads_not_of_all_cpus() -> None:
    cores = tuple((cpu,) for cpu in sorted(ALL))
    head = rank(ALL, 4, cores=cores).with_memory("auto", TWO_NODES, numa.DEFAULT_POLICY)
    assert head.memory_nodes(head.stage_cpus(4)) == (0,)
    assert head.draft_cores(4, beside_layers=True).nodes == (1,)
    assert head.draft_cores(4, beside_layers=False).nodes == (0, 1)


def test_a_divided_rank_has_the_memory_of_its_part() -> None:
    ranks = [rank(ALL, 4, n_sharers=2)] * 2
    parts = [
        each.with_own_cores(i, ranks, must=False, host=TWO_NODES) for i, each in enumerate(ranks)
    ]
    found = [each.with_memory("auto", TWO_NODES, numa.DEFAULT_POLICY) for each in parts]
    assert [each.memory_nodes() for each in found] == [(0,), (1,)]


def test_what_the_kernel_says_of_memory(tmp_path: Path) -> None:
    maps = tmp_path / "numa_maps"
    maps.write_text(NUMA_MAPS)
    assert numa.memory_policy(maps) == "interleave:0-1"
    everything, files = numa.resident_by_node(Path("/models/N1=7 b"), maps)
    assert files == {0: 75 << 12, 1: 25 << 12}
    assert everything == {0: 89 << 12, 1: (29 << 12) + (3 << 21)}


def test_a_kernel_without_numa(tmp_path: Path) -> None:
    assert numa.memory_policy(tmp_path / "none") == numa.DEFAULT_POLICY
    assert numa.resident_by_node(tmp_path, tmp_path / "none") == ({}, {})


def test_the_kernel_says_so_of_this_process() -> None:
    everything, _ = numa.resident_by_node(Path("/"))
    resident = environment.resident_bytes()
    assert resident / 2 < sum(everything.values()) < resident * 2
    assert 0 <= numa.current_cpu() < os.sysconf("SC_NPROCESSORS_CONF")


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"numa": "spread"}, r"--numa 'spread': give auto, distribute, isolate, numactl"),
        ({"numa": "numactl", "bind": "on"}, "--numa numactl leaves CPUs as they are"),
    ],
)
def test_wrong_options(options: dict[str, str], why: str) -> None:
    with pytest.raises(UserError, match=why):
        GenerateConfig(model="m", prompt=Prompt(text="p"), **options)  # type: ignore[arg-type]


def test_numactl_divides_no_cpus() -> None:
    assert not GenerateConfig(model="m", prompt=Prompt(text="p"), numa="numactl").may_bind


@pytest.mark.parametrize(("n_far", "is_noted"), [(0, False), (20, False), (60, True)])
def test_weights_far_away_are_noted(
    n_far: int, is_noted: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    placed = Placement(
        rank=1,
        host="h",
        layers=LayerRange(2, 4),
        tensor_bytes=80_000_000,
        grown_bytes=90_000_000,
        bytes_on={1: 30_000_000, 0: 60_000_000},
        n_far=n_far,
        n_mapped=80,
    )
    config = GenerateConfig(model="m", prompt=Prompt(text="p"), report_binding=True)
    placement.note([placed], config)
    first, *others = capsys.readouterr().err.splitlines()
    assert first.endswith("grown by 90.0 MB; by NUMA node: 60.0 MB on 0, 30.0 MB on 1")
    assert len(others) == is_noted
    assert all("rank 1 on h: 75% of its mapped weights" in line for line in others)
