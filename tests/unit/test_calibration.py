"""Calibration without a model: estimates, the cache, and what other placements may expect."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pipeinfer_cli.cli import main
from pipeinfer_cli.cluster import calibration as entries
from pipeinfer_cli.cluster import profile_toml
from pipeinfer_cli.cluster.calibration import Calibration, Identity
from pipeinfer_cli.cluster.predict import (
    SIZES,
    Expectation,
    Ranks,
    consult,
    layer_times,
    layers_by_time,
    stages_for,
)
from pipeinfer_cli.cluster.profile import Link, Profile, StageCurve, assumed_draft
from pipeinfer_cli.commands.bench.config import BenchConfig
from pipeinfer_cli.commands.calibrate.config import CalibrateConfig, CalibrateJob
from pipeinfer_cli.commands.calibrate.estimate import Probe, estimate, rising
from pipeinfer_cli.commands.calibrate.measure import (
    N_DRAFTED,
    draft_curve,
    draft_times,
    save,
)
from pipeinfer_cli.drafters.branch_cache import BranchCache
from pipeinfer_cli.engine.build_info import BuildInfo
from pipeinfer_cli.errors import RunError, UserError
from pipeinfer_cli.launch.environment import RankResources
from pipeinfer_cli.models.layer_split import LayerRange
from pipeinfer_cli.models.shards import file_digest
from pipeinfer_cli.scheduler.runs import Result, Run, RunStatus, RunToken, StageTime
from pipeinfer_cli.trace.recorder import Recording, RunRecord
from plans import model_info

HIDDEN_BYTES = 4000
LINK = Link(latency_us=50, gbit_per_s=2)
A, B = RankResources(host="a", n_threads=4), RankResources(host="b", n_threads=4)


def curve(ms: float) -> StageCurve:
    """Each further token takes half as long as the first."""
    return StageCurve(points=tuple((size, ms * (1 + (size - 1) / 2)) for size in SIZES))


def profile_of(*stage_ms: float, draft_ms: float = 1.5) -> Profile:
    return Profile(
        name="p",
        description='2 stages, "quoted" \N{GRINNING FACE}',
        stages=tuple(curve(ms) for ms in stage_ms),
        links=(LINK,) * len(stage_ms),
        result_link=LINK,
        hidden_bytes=HIDDEN_BYTES,
        draft=assumed_draft(curve(stage_ms[0]), draft_ms),
    )


def layers_of(*counts: int) -> tuple[LayerRange, ...]:
    ends = [sum(counts[: i + 1]) for i in range(len(counts))]
    return tuple(
        LayerRange(end - n, end) if n else LayerRange(0, 0)
        for n, end in zip(counts, ends, strict=True)
    )


def calibration(*stage_ms: float, counts: tuple[int, ...] = (6, 4), **changes) -> Calibration:
    found = Calibration(profile=profile_of(*stage_ms), layers=layers_of(*counts), output_ms=2.0)
    return replace(found, **changes)


# what runs show


def recording_of(profile: Profile, clocks_s: list[float]) -> tuple[Recording, dict[int, Probe]]:
    """Runs on a cluster like the profile; the stages' clocks are ahead of the head's by so much."""
    runs, probes, now_s = [], {}, 100.0
    for run_id, size in enumerate([*SIZES, 0] * 3, start=1):
        probe = Probe(size, size) if size else Probe(1, 0)
        probes[run_id] = probe
        start_s, at_s, times = now_s, now_s, []
        for index, (stage, link) in enumerate(zip(profile.stages, profile.links, strict=True)):
            n_bytes = 100 + probe.n_tokens * (HIDDEN_BYTES if index else 4)
            arrival_s = at_s + link.delay_s(n_bytes)
            compute_ms = stage.ms(probe.n_tokens)
            if index == profile.n_stages - 1 and not probe.n_rows:
                compute_ms -= 2
            us = round(1000 * compute_ms)
            begin_us = round(1e6 * (arrival_s + clocks_s[index]))
            times.append(StageTime(index, RunStatus.COMPLETED, begin_us, 0, us, n_bytes))
            at_s = arrival_s + us / 1e6
        end_s = at_s + profile.result_link.delay_s(100)
        now_s = end_s + 0.001
        tokens = tuple(RunToken(id=0, position=9 + i) for i in range(probe.n_tokens))
        result = Result(
            run_id=run_id,
            status=RunStatus.COMPLETED,
            rows=(0,) * probe.n_rows,
            times=tuple(times),
            in_bytes=100,
        )
        record = RunRecord(
            run=Run(run_id=run_id, tokens=tokens),
            submit_s=start_s,
            n_prefill=0,
            n_speculative=0,
            result=result,
            result_s=end_s,
        )
        runs.append(record)
    recording = Recording(
        n_prompt=9, n_stages=profile.n_stages, runs=tuple(runs), cancels=(), drafts=()
    )
    return recording, probes


def test_an_estimate_finds_the_cluster() -> None:
    links = (LINK, Link(latency_us=80, gbit_per_s=1), Link(latency_us=20, gbit_per_s=4))
    profile = replace(profile_of(8.0, 4.0, 6.0), links=links)
    found = estimate(*recording_of(profile, [0.0, 0.0, 0.0]))
    for stage, expected in zip(found.stages, profile.stages, strict=True):
        assert dict(stage.points) == pytest.approx(dict(expected.points))
    for link, right in zip(found.links[1:], links[1:], strict=True):
        assert link.latency_us == pytest.approx(right.latency_us, abs=1.5)
        assert link.gbit_per_s == pytest.approx(right.gbit_per_s, rel=0.01)
    assert found.links[0].latency_us == pytest.approx(50, abs=2)
    assert found.result_link.latency_us == pytest.approx(50, abs=2)
    assert found.output_ms == pytest.approx(2.0)


def test_no_branch_that_a_drafter_knows_already_is_measured() -> None:
    """A draft model keeps the branches of a text; each batch that counts has to be computed."""
    computed: list[int] = []

    def decode(run: Run) -> list[list[tuple[int, float]]]:
        computed.append(len(run.tokens))
        return [[(7, 1.0)]] * run.n_rows

    cache, text = BranchCache(decode, n_ctx=100), list(range(40, 60))
    for n_branches in (1, 2, 4, 8, 1, 2, 4, 8):
        computed.clear()
        times_s = draft_times(cache, text, n_branches)
        assert len(times_s) == N_DRAFTED
        assert computed[-N_DRAFTED:] == [n_branches] * N_DRAFTED


def test_a_draft_curve_is_of_medians_that_never_fall() -> None:
    measured_s = {1: [0.002, 0.009, 0.001], 4: [0.001], 2: [0.003]}
    assert draft_curve(measured_s).points == ((1, 2.0), (2, 3.0), (4, 3.0))
    assert draft_curve({1: [0.0]}).points[0][1] > 0


def test_other_clocks_share_the_round_trip() -> None:
    links = (LINK, Link(latency_us=110, gbit_per_s=2))
    profile = replace(profile_of(8.0, 4.0), links=links)
    found = estimate(*recording_of(profile, [50.0, -30.0]))
    assert [stage.ms(8) for stage in found.stages] == pytest.approx([36.0, 18.0])
    latencies = [link.latency_us for link in (*found.links, found.result_link)]
    assert sum(latencies) == pytest.approx(50 + 110 + 50, abs=3)
    assert max(latencies) - min(latencies) < 20  # nobody knows which is slow


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1.0, 2.0, 2.0], [1.0, 2.0, 2.0]),
        ([1.0, 4.0, 2.0, 9.0], [1.0, 3.0, 3.0, 9.0]),
        ([5.0, 4.0, 0.0], [3.0, 3.0, 3.0]),
        ([2.0, 3.0, 1.0, 0.0], [1.5, 1.5, 1.5, 1.5]),
    ],
)
def test_rising(values, expected) -> None:
    assert rising(values) == expected


# what other placements may expect


def test_a_stage_s_time_is_divided_among_its_layers() -> None:
    ranks = Ranks(all_resources=(A, B), layer_bytes=(10,) * 10)
    times = layer_times(calibration(12.0, 10.0), ranks, [0, 1])
    assert times is not None
    assert times[0].tolist() == [2.0] * 9 + [2.0 + 2.0]  # the output head, wherever it would be
    assert times[1].tolist() == [2.0] * 9 + [2.0 + 2.0]


def test_heavier_layers_take_longer() -> None:
    ranks = Ranks(all_resources=(A, B), layer_bytes=(20, 10, 10, 10, 10, 10, 10, 10, 10, 10))
    times = layer_times(calibration(14.0, 10.0), ranks, [0, 1])
    assert times is not None
    assert times[0].tolist() == [4.0] + [2.0] * 8 + [4.0]


def test_equal_times_are_not_equal_bytes() -> None:
    ranks = Ranks(all_resources=(A, B), layer_bytes=(10,) * 10)
    # a layer takes 4 ms on the first rank and 1 ms on the second
    slow_first = calibration(24.0, 6.0)
    assert layers_by_time(slow_first, ranks, 0) == layers_of(2, 8)
    # with an idle head only the second rank is left
    assert layers_by_time(slow_first, ranks, 1) == layers_of(0, 10)


def test_a_rank_that_was_idle_is_like_its_neighbour_on_the_same_host_or_unknown() -> None:
    idle_head = calibration(12.0, 10.0, counts=(0, 6, 4))
    alike = Ranks(all_resources=(A, A, B), layer_bytes=(10,) * 10)
    found = layers_by_time(idle_head, alike, 0)
    assert found is not None
    assert [len(each) for each in found] == [3, 4, 3]
    unknown = Ranks(all_resources=(B, A, A), layer_bytes=(10,) * 10)
    assert layers_by_time(idle_head, unknown, 0) is None
    assert stages_for(idle_head, unknown, layers_of(4, 3, 3)) is None


def test_curves_follow_the_layers() -> None:
    ranks = Ranks(all_resources=(A, B), layer_bytes=(10,) * 10)
    found = calibration(12.0, 10.0)
    assert stages_for(found, ranks, found.layers) == found.profile.stages
    moved = stages_for(found, ranks, layers_of(3, 7))
    assert moved is not None
    assert [stage.ms(1) for stage in moved] == [6.0, 16.0]
    assert [stage.ms(8) / stage.ms(1) for stage in moved] == pytest.approx([4.5, 4.5])


def test_an_expectation_as_a_prior() -> None:
    expected = Expectation(stages=(curve(8.0), curve(4.0)), draft_ms={"abc": 2.0}, link_ms=3.0)
    prior = expected.prior("abc")
    assert prior.by_size[1] == pytest.approx((0.008, 0.012))
    assert prior.by_size[2] == pytest.approx((0.012, 0.018))
    assert prior.draft_s == 0.002
    assert prior.n_stages_filled() == pytest.approx((8 + 4 + 3) / 8)
    assert expected.prior("other").draft_s == expected.prior(None).draft_s == 0.0


# the cache


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("PIPEINFER_CACHE", str(tmp_path))
    build = BuildInfo(
        upstream_package="llama-cpp-python",
        upstream_version="1",
        patches=(),
        compiler="c",
        build_type="Release",
        ggml_options={},
    )
    monkeypatch.setattr(entries.build_info, "load", lambda: build)
    monkeypatch.setattr(entries.mpi_choice, "in_words", lambda: "mpich 5")
    return tmp_path


@pytest.fixture
def model(tmp_path) -> Path:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF" + bytes(1000))
    return path


def test_a_calibration_is_found_again(place, model) -> None:
    identity = Identity.of(model, [A, B])
    first = calibration(12.0, 10.0, draft_model="d", draft_threads=2)
    path = entries.save(first, identity, "model-2-stages")
    assert path.is_relative_to(place)
    found = entries.find(identity)
    assert found.problems == ()
    ((where, kept),) = found.calibrations
    assert where == path
    assert kept == replace(first, profile=replace(first.profile, name=path.stem))
    # it is a profile, as --emulate and simulate take them
    assert profile_toml.load(str(path)).stages == first.profile.stages
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_the_same_placement_is_kept_once_another_one_besides(place, model) -> None:
    identity = Identity.of(model, [A, B])
    entries.save(calibration(12.0, 10.0), identity, "m")
    entries.save(calibration(13.0, 10.0), identity, "m")
    entries.save(calibration(12.0, 10.0, counts=(5, 5)), identity, "m")
    entries.save(calibration(12.0, 10.0, draft_model="d"), identity, "m")
    kept = [each for _, each in entries.find(identity).calibrations]
    assert sorted(each.profile.stages[0].ms(1) for each in kept) == [12.0, 12.0, 13.0]


def test_what_a_calibration_holds_for(place, model) -> None:
    identity = Identity.of(model, [A, B])
    entries.save(calibration(12.0, 10.0), identity, "m")
    others = [
        Identity.of(model, [B, A]),
        Identity.of(model, [A, A]),
        Identity.of(model, [A, B, B]),
        Identity.of(model, [A, replace(B, n_threads=1)]),
        Identity.of(model, [A, B], "adapters"),
        replace(identity, mpi="openmpi 4"),
        replace(identity, llama_cpp="llama-cpp-python 2"),
    ]
    assert len({each.digest for each in (identity, *others)}) == 8
    assert all(entries.find(each).calibrations == () for each in others)
    model.rename(model.with_name("moved.gguf"))
    assert Identity.of(model.with_name("moved.gguf"), [A, B]) == identity


def test_models_are_told_apart_by_size_and_beginning(tmp_path) -> None:
    contents = [b"GGUF1" + bytes(10), b"GGUF2" + bytes(10), b"GGUF1" + bytes(11)]
    for index, data in enumerate(contents):
        (tmp_path / str(index)).write_bytes(data)
    assert len({file_digest(tmp_path / str(index)) for index in range(3)}) == 3


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (("format = 1", "format = 0"), "format 0"),
        (("format = 1", ""), "'format'"),
        (("[calibration]", "[calibrated]"), "'calibration'"),
        (('"a", "b"', '"a", "c"'), "hosts"),
        (("[[0, 6], [6, 10]]", "[[0, 10]]"), "2 stages, but layers for 1"),
        (("[[0, 6], [6, 10]]", "7"), "int"),
        (("output_ms = 2.0", "output_ms = 50.0"), "output_ms"),
        (("n_stages = 2", "n_stages = 0"), "n_stages 0"),
        (("n_stages = 2", "n_stages ="), ""),
    ],
)
def test_what_cannot_be_read_is_a_note_not_an_error(place, model, change, word, capsys) -> None:
    identity = Identity.of(model, [A, B])
    path = entries.save(calibration(12.0, 10.0), identity, "m")
    text = path.read_text(encoding="utf-8")
    assert change[0] in text
    path.write_text(text.replace(*change, 1), encoding="utf-8")
    found = entries.find(identity)
    assert found.calibrations == ()
    (problem,) = found.problems
    assert word in problem
    assert str(path) in problem
    assert "\n" not in problem


def test_what_cannot_be_written_where_it_was_asked_for_is_in_the_cache(place, model) -> None:
    measured, identity = calibration(12.0, 10.0), Identity.of(model, [A, B])
    with pytest.raises(RunError) as caught:
        save(measured, identity, "m", place / "nowhere" / "p.toml")
    ((path, kept),) = entries.find(identity).calibrations
    assert kept.layers == measured.layers
    for words in ("cannot write the profile", "nowhere/p.toml", f"is in {str(path)!r}"):
        assert words in str(caught.value)


def test_a_file_that_was_asked_for_needs_no_cache(place, model, capsys) -> None:
    (place / "calibration").write_text("a file")
    measured, identity = calibration(12.0, 10.0), Identity.of(model, [A, B])
    assert save(measured, identity, "m", place / "p.toml") == place / "p.toml"
    assert "pipeinfer: note: cannot keep a calibration in" in capsys.readouterr().err
    assert profile_toml.load(str(place / "p.toml")).stages == measured.profile.stages
    with pytest.raises(RunError, match="cannot write the profile") as caught:
        save(measured, identity, "m", place / "nowhere" / "p.toml")
    assert "what was measured" not in str(caught.value)


def test_a_cache_that_cannot_be_written_is_said(place, model) -> None:
    (place / "calibration").write_text("a file")
    with pytest.raises(RunError, match="cannot keep a calibration in"):
        entries.save(calibration(12.0, 10.0), Identity.of(model, [A, B]), "m")
    assert entries.find(Identity.of(model, [A, B])).calibrations == ()


# what a job makes of it

INFO = model_info((10,) * 10)


def placed(model, layers, *, may_move=True, verbose=True):
    return consult(model, INFO, [A, B], layers, may_move=may_move, draft_threads=1, verbose=verbose)


def test_a_job_without_a_calibration_stays_as_it_is(place, model, capsys) -> None:
    found = placed(model, layers_of(5, 5))
    assert (found.layers, found.expected) == (layers_of(5, 5), None)
    assert capsys.readouterr().err == "pipeinfer: layers are even by bytes: not calibrated\n"


def test_a_job_with_a_calibration(place, model, capsys) -> None:
    identity = Identity.of(model, [A, B])
    path = entries.save(calibration(24.0, 6.0, draft_model="d"), identity, "m")
    found = placed(model, layers_of(5, 5))
    assert found.layers == layers_of(2, 8)
    assert found.expected is not None
    assert [stage.ms(1) for stage in found.expected.stages] == pytest.approx([8.0, 10.0])
    assert found.expected.prior("d").draft_s == 0.0015
    said = capsys.readouterr().err
    assert said.splitlines() == [
        f"pipeinfer: layers are even by time, as calibrated in {path}",
        f"pipeinfer: run sizes start from the times in {path}",
    ]
    # a split that was asked for stays
    fixed = placed(model, layers_of(6, 4), may_move=False, verbose=False)
    assert fixed.layers == layers_of(6, 4)
    assert fixed.expected is not None
    assert [stage.ms(1) for stage in fixed.expected.stages] == [24.0, 6.0]
    assert capsys.readouterr().err == ""


def test_a_damaged_calibration_is_one_note(place, model, capsys) -> None:
    path = entries.save(calibration(24.0, 6.0), Identity.of(model, [A, B]), "m")
    path.write_bytes(b"\xff\x00")
    assert placed(model, layers_of(5, 5)).layers == layers_of(5, 5)
    note, rest = capsys.readouterr().err.splitlines()
    assert note.startswith(f"pipeinfer: note: calibration {path} is not used: ")
    assert rest == "pipeinfer: layers are even by bytes: not calibrated"
    assert placed(model, layers_of(5, 5), verbose=False).expected is None
    assert capsys.readouterr().err == ""


# the command line


def job(**changes) -> CalibrateJob:
    return CalibrateJob(**{"model": "m", "repetitions": 3, **changes})


def test_a_job_for_each_pipeline() -> None:
    bench = BenchConfig(
        models=("m",), ranks=(1, 2), draft_models=("a", "b"), draft={"n_max": (2,)}, n_predict=8
    )
    jobs = list(CalibrateConfig(bench=bench).jobs())
    assert [(each.ranks, each.draft_model) for each in jobs] == [
        (1, "a"),
        (1, "b"),
        (2, "a"),
        (2, "b"),
    ]
    assert all(each.uses_draft_model for each in jobs)
    with pytest.raises(UserError, match="one file for several pipelines"):
        CalibrateConfig(bench=bench, save_to=Path("x.toml"))


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (
            ["--calibrate", "--emulate", "cpu70b-4-ib"],
            "cannot be combined with --calibrate: leave it out",
        ),
        (
            ["--calibrate", "--synth-acceptance", "0.5"],
            "cannot be combined with --calibrate: leave it out",
        ),
        (["--calibrate-to", "x.json"], "ends with .toml"),
        (["--calibrate-to", "/no/folder/x.toml"], "there is no such folder"),
        (["--calibrate", "-r", "0"], "-r/--repetitions 0"),
        (["--calibrate", "--plot", "x.svg"], "cannot be combined with --calibrate"),
        (["--calibrate", "--trace", "x.json"], "cannot be combined with --calibrate"),
        (
            ["--calibrate-to", "x.toml", "--record-acceptance", "x.json"],
            "cannot be combined with --calibrate",
        ),
    ],
)
def test_bad_options(args, said, capsys) -> None:
    assert main.main(["bench", "-m", "m", *args]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
