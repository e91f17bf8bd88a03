"""Profiles: curves and links by hand, files that are read and written, and those that are not."""

from dataclasses import replace

import pytest

from pipeinfer_cli.cluster import profile_toml
from pipeinfer_cli.cluster.profile import Link, StageCurve
from pipeinfer_cli.errors import RunError, UserError

GOOD = """
description = "two unlike nodes"
n_stages = 3
hidden_bytes = 4096
draft_ms = 2.5
[stage]
ms = { 1 = 10.0, 2 = 12, 8 = 30.0 }
[link]
latency_us = 50
gbit_per_s = 1.0
[[stage_at]]
index = 1
base_ms = 4.0
token_ms = 1.5
[[link_at]]
index = 2
latency_us = 500
gbit_per_s = 0.1
"""


@pytest.fixture
def write(tmp_path):
    def write_(text):
        path = tmp_path / "some.toml"
        path.write_text(text)
        return str(path)

    return write_


def test_curve_is_linear_between_and_after_its_points() -> None:
    curve = StageCurve(points=((1, 10.0), (2, 12.0), (8, 30.0)))
    found = {n: curve.ms(n) for n in (0, 1, 2, 4, 8, 9, 32)}
    assert found == pytest.approx({0: 0, 1: 10, 2: 12, 4: 18, 8: 30, 9: 33, 32: 102})
    assert StageCurve(points=((1, 7.0),)).ms(3) == 21
    line = StageCurve.line(base_ms=4, token_ms=1.5)
    assert [line.ms(n) for n in (0, 1, 10)] == pytest.approx([0, 5.5, 19])


def test_link() -> None:
    link = Link(latency_us=50, gbit_per_s=1)
    assert link.delay_s(0) == pytest.approx(50e-6)
    assert link.busy_s(125_000) == pytest.approx(1e-3)
    assert link.delay_s(125_000) == pytest.approx(1.05e-3)


def test_a_file_with_unlike_stages(write, tmp_path) -> None:
    profile = profile_toml.load(write(GOOD))
    assert (profile.name, profile.n_stages, profile.draft_ms) == ("some", 3, 2.5)
    assert [stage.ms(2) for stage in profile.stages] == pytest.approx([12, 7, 12])
    assert [link.latency_us for link in profile.links] == [50, 50, 500]
    assert profile.result_link.latency_us == 50
    assert profile.run_bytes(0, 3) == 0
    assert profile.run_bytes(1, 3) == 3 * 4096
    profile_toml.save(profile, tmp_path / "copy.toml")
    assert profile_toml.load(str(tmp_path / "copy.toml")) == replace(profile, name="copy")


def test_saving_where_nothing_can_be_written(write, tmp_path) -> None:
    profile = profile_toml.load(write(GOOD))
    with pytest.raises(RunError, match="cannot write the profile"):
        profile_toml.save(profile, tmp_path / "no" / "x.toml")


CPU_PROFILES = [f"cpu70b-{n}-{network}" for n in (4, 8, 15, 31) for network in ("ib", "gbe")]
SHAPES = {
    **dict.fromkeys(CPU_PROFILES, (1.1, 1.32, 1.88, 3.16, 5.72)),
    "flat-8": (1, 1, 1, 1, 1),
    "xeon70b-8": (1, 1.05, 1.83, 3.67, 7.35),
}


@pytest.mark.parametrize("name", SHAPES)
def test_shipped_profiles_are_one_model(name) -> None:
    profile = profile_toml.load(name)
    assert profile.n_stages == int(name.split("-")[1])
    assert sum(stage.ms(1) for stage in profile.stages) == pytest.approx(200, rel=1e-3)
    sizes = (2, 4, 8, 16, 32)
    found = [profile.slowest_ms(k) / profile.slowest_ms() for k in sizes]
    assert found == pytest.approx(SHAPES[name], rel=1e-3)
    # nothing else is known of the draft model: it has the shape of a stage
    assert profile.draft_ms == 6.25
    drafts = [profile.draft_batch_ms(m) / profile.draft_ms for m in sizes]
    assert drafts == pytest.approx(found)


def test_names_of_shipped_profiles() -> None:
    assert sorted(profile_toml.names()) == sorted(SHAPES)


DRAFT = "[draft]\nms = { 1 = 2.5, 2 = 3.0, 8 = 6.0 }\n"


def test_a_draft_model_with_a_curve_of_its_own(write, tmp_path) -> None:
    profile = profile_toml.load(write(GOOD.replace("draft_ms = 2.5", "") + DRAFT))
    assert profile.draft_ms == 2.5
    assert [profile.draft_batch_ms(m) for m in (1, 2, 4, 8)] == pytest.approx([2.5, 3, 4, 6])
    for scaled in (profile.with_draft_ms(5.0), profile.with_draft_ratio(0.5)):
        assert scaled.draft_ms == 5.0
        assert [scaled.draft_batch_ms(m) for m in (2, 8)] == pytest.approx([6, 12])
    assert profile.spread(7).draft == profile.draft
    profile_toml.save(profile, tmp_path / "copy.toml")
    assert profile_toml.load(str(tmp_path / "copy.toml")) == replace(profile, name="copy")
    with pytest.raises(UserError, match="draft_ms -1: give a number above 0"):
        profile.with_draft_ms(-1)


def test_a_single_draft_time_has_the_shape_of_the_first_stage(write, tmp_path) -> None:
    profile = profile_toml.load(write(GOOD))
    assert [profile.draft_batch_ms(m) for m in (1, 2, 8)] == pytest.approx([2.5, 3, 7.5])
    profile_toml.save(profile, path := tmp_path / "copy.toml")
    assert "draft_ms = 2.5\n" in path.read_text()  # older versions read it, too


@pytest.mark.parametrize("n_stages", [1, 4, 512])
def test_spread_keeps_the_work(write, n_stages) -> None:
    profile = profile_toml.load(write(GOOD))
    spread = profile.spread(n_stages)
    assert spread.n_stages == n_stages
    for n_tokens in (1, 2, 5, 40):
        total_ms = sum(stage.ms(n_tokens) for stage in profile.stages)
        assert sum(stage.ms(n_tokens) for stage in spread.stages) == pytest.approx(total_ms)


NOUGHTS = "0" * 400  # more than a float can hold


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("n_stages = 3", "n_stages = 0"), "n_stages 0: give a number from 1 to 512"),
        (("n_stages = 3", "n_stages = 2.5"), "n_stages 2.5: give a whole number"),
        (("n_stages = 3", ""), "n_stages is missing"),
        (("draft_ms = 2.5", "draft_ms = 0"), "draft_ms 0: give a number above 0"),
        (("draft_ms = 2.5", "draft_ms = nan"), "draft_ms nan: give a number above 0"),
        (("draft_ms = 2.5", "draft_ms = true"), "draft_ms True: give a number"),
        (("draft_ms = 2.5", "draft_ms = 2.5\nspeed = 1"), "unknown key speed: known are"),
        (("hidden_bytes = 4096", "hidden_bytes = -1"), "hidden_bytes -1: give a number from 1"),
        (("hidden_bytes = 4096", "hidden_bytes = 4294967296"), "give a number from 1 to 429496729"),
        (
            ("hidden_bytes = 4096", f"hidden_bytes = 1{NOUGHTS}"),
            "give a number from 1 to 429496729",
        ),
        (("draft_ms = 2.5", f"draft_ms = 1{NOUGHTS}"), "has a number that is too large"),
        (("2 = 12", f"2{NOUGHTS * 12} = 12"), "has a number that is too large"),
        pytest.param(("draft_ms = 2.5", f"a = {'[' * 100_000}"), "is nested too deeply", id="deep"),
        (("2 = 12", "2 = 9"), "stage: time for 2 tokens 9: it is below the time for 1"),
        (("2 = 12", "two = 12"), "stage.ms.two: give a number of tokens"),
        (("2 = 12", "2 = -12"), "stage: time for 2 tokens -12: give a number above 0"),
        (("1 = 10.0, ", ""), "give a time for 1 token"),
        (("[stage]\nms = { 1 = 10.0, 2 = 12, 8 = 30.0 }", ""), "stage is missing"),
        (("8 = 30.0 }", "8 = 30.0 }\nbase_ms = 1"), "give one of the two"),
        (("ms = { 1 = 10.0, 2 = 12, 8 = 30.0 }", "ms = 10"), "stage.ms is not a table"),
        (("ms = { 1 = 10.0, 2 = 12, 8 = 30.0 }", "base_ms = 10"), "stage.token_ms is missing"),
        (("base_ms = 4.0", "base_ms = -4.0"), "base_ms -4: give a number of 0 or more"),
        (("latency_us = 50\n", "latency_us = 0\n"), "latency_us 0: give a number above 0"),
        (("gbit_per_s = 1.0", "mbit_per_s = 1.0"), "unknown key link.mbit_per_s"),
        (("index = 1", "index = 3"), "stage_at.index 3: give a stage from 0 to 2"),
        (("[[link_at]]", "[link_at]"), "link_at is not a list of tables"),
        (("[stage]", "[stage"), "is not TOML"),
        (("draft_ms = 2.5", ""), "draft_ms is missing: add it, or a table [draft]"),
        (("[stage]", f"{DRAFT}[stage]"), "draft_ms and a table [draft]: give one of the two"),
        (("draft_ms = 2.5", "draft = 2.5"), "draft is not a table: write [draft]"),
        (("draft_ms = 2.5", "draft.ms = { 2 = 3 }"), "draft: times 2: 3: give a time for 1 token"),
        (("draft_ms = 2.5", "draft.ms = { 1 = 0 }"), "draft: time for 1 tokens 0: give a number"),
        (("draft_ms = 2.5", "draft.base_ms = 1"), "draft.token_ms is missing"),
        (("draft_ms = 2.5", "draft.speed = 1"), "unknown key draft.speed"),
        (('"two unlike nodes"', "2"), "description 2: give a string"),
    ],
)
def test_bad_files(write, change, message) -> None:
    text = GOOD.replace(*change, 1)
    assert text != GOOD
    with pytest.raises(UserError) as error:
        profile_toml.load(path := write(text))
    assert message in str(error.value)
    assert path in str(error.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cpu70b-9-ib", "there is no profile named 'cpu70b-9-ib'"),
        ("./nothing.toml", "cannot read the profile 'nothing.toml': No such file"),
    ],
)
def test_missing_profiles(name, message) -> None:
    with pytest.raises(UserError) as error:
        profile_toml.load(name)
    assert message in str(error.value)
    assert "cpu70b-8-ib" in str(error.value)
