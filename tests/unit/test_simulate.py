"""`pipeinfer simulate`: the command, its table and its JSON."""

import csv
import io
import json

import pytest

from pipeinfer_cli.cli import main
from pipeinfer_cli.cluster.simulate import SimulateConfig, predictions

ADAPTIVE = ("simulate", "-n", "40")  # no option says how to draft
FAST = (*ADAPTIVE, "--draft-max", "1,3")


def records(capsys, *options, command=FAST):
    assert main.main([*command, "-o", "json", *options]) == 0
    return json.loads(capsys.readouterr().out)


def test_lists_make_the_product(capsys) -> None:
    found = records(
        capsys, "--profile", "cpu70b-4-ib,cpu70b-8-gbe", "--stages", "2,3", "--acceptance", "0.5,1"
    )
    assert len(found) == 2 * 2 * 2 * (1 + 2 + 2)
    assert {each["n_stages"] for each in found} == {2, 3}
    for each in found:
        assert each["tokens_per_s"] <= 1.01 * each["batched_tps"]
        assert 0 < each["utilisation"] <= 1
        assert 0 <= each["wasted"] < 1
        assert each["n_generated"] >= 40


@pytest.mark.parametrize("draft_ratio", ["0.05", "0.25", "4"])
@pytest.mark.parametrize("stages", ["1", "8"])
def test_nothing_is_faster_than_its_bounds(capsys, stages, draft_ratio) -> None:
    options = [
        *("--acceptance", "0.3,0.9,1,0.9/0.6", "--draft-width", "1,3", "--draft-max", "1,auto"),
        *("--strategy", "iterative,speculative,pipeinfer,auto", "-n", "30", "--seed", "3"),
        *("--stages", stages, "--draft-ratio", draft_ratio),
    ]
    found = records(capsys, *options)
    assert len(found) == 4 * (1 + 3 * 4)
    rounding = 1 + 1e-9
    for each in found:
        speed = each["tokens_per_s"]
        assert speed <= rounding * each["bound_tps"], each
        assert speed <= 1.01 * each["batched_tps"], each  # of long texts; these have 30 tokens
        assert speed <= 1.01 * each["drafted_tps"], each
        assert each["chain_tps"] == 0 or each["chain_tps"] >= each["iterative_tps"]
        if each["strategy"] == "iterative":
            assert speed == pytest.approx(each["bound_tps"])


@pytest.mark.parametrize("draft_ratio", ["0.05", "0.25", "4"])
@pytest.mark.parametrize("stages", ["1", "8"])
@pytest.mark.parametrize("profile", ["cpu70b-8-ib", "flat-8"])
def test_adaptive_speculation_is_not_faster_than_its_bounds(
    capsys, profile, stages, draft_ratio
) -> None:
    options = [
        *("--profile", profile, "--stages", stages, "--draft-ratio", draft_ratio),
        *("--acceptance", "0.3:informed,0.9:informed,1,0.9/0.6", "--seed", "3"),
        *("--strategy", "iterative,speculative,pipeinfer,pipeinfer:paper,auto"),
    ]
    found = records(capsys, *options, command=ADAPTIVE)
    assert len(found) == 4 * 5
    rounding = 1 + 1e-9
    for each in found:
        speed = each["tokens_per_s"]
        assert speed <= rounding * each["bound_tps"], each
        assert speed <= 1.01 * each["batched_tps"], each
        is_plain = each["strategy"] == "iterative"
        assert each["draft_max"] == (0 if is_plain else None)


def test_a_synchronous_stage_that_shares_its_cores(capsys) -> None:
    options = ("--stages", "1", "--shared-cores", "--draft-ratio", "0.1", "--acceptance", "0,0.9")
    found = records(capsys, *options, "-n", "100", command=ADAPTIVE)
    wrong, right = ({each["strategy"]: each for each in part} for part in (found[:3], found[3:]))
    assert right["pipeinfer"]["tokens_per_s"] == pytest.approx(
        right["speculative"]["tokens_per_s"]
    ), "both are synchronous"
    assert right["pipeinfer"]["speedup"] > 1.5
    assert wrong["pipeinfer"]["speedup"] > 0.9


@pytest.mark.parametrize("option", [("--draft-max", "2"), ("--draft-width", "1"), ("-pa", "0.4")])
def test_any_option_of_drafts_rules(capsys, option) -> None:
    """Also one with its default value: nothing is chosen by expected gain then."""
    options = ("--acceptance", "0.7", "--strategy", "pipeinfer,pipeinfer:paper")
    given, paper = records(capsys, *options, *option, command=ADAPTIVE)
    chosen, same = records(capsys, *options, command=ADAPTIVE)
    assert given["tokens_per_s"] == paper["tokens_per_s"]
    assert chosen["tokens_per_s"] != same["tokens_per_s"]
    if option != ("--draft-max", "2"):
        assert same["tokens_per_s"] == given["tokens_per_s"]


def test_a_grid_of_given_drafts_in_python() -> None:
    config = SimulateConfig(
        profiles=("cpu70b-4-ib",),
        acceptance=("0.8",),
        strategies=("pipeinfer",),
        draft_max=(1, 2, 4, 8),
        n_predict=60,
        is_auto=False,
    )
    found = predictions(config)
    assert [each.draft_max for each in found] == [1, 2, 4, 8]
    assert len({each.tokens_per_s for each in found}) > 1


@pytest.mark.parametrize(
    ("acceptance", "repetition", "best", "least"),
    [
        ("0.3:real", 1.0, "ngram", 0.7),  # the model is tried first
        ("0.79:real", 0.0, "model", 0.9),
        ("0", 0.0, "none", 0.97),
    ],
)
def test_auto_finds_the_drafter(acceptance, repetition, best, least) -> None:
    """Within a text of 300 tokens, the start included."""
    config = SimulateConfig(
        profiles=("cpu70b-4-ib",),
        draft_ratio=0.5,
        acceptance=(acceptance,),
        strategies=("iterative", "auto"),
        drafters=("model", "ngram", "auto"),
        repetition=repetition,
        n_predict=300,
    )
    iterative, model, ngram, auto = predictions(config)
    assert [each.drafter for each in (iterative, model, ngram, auto)] == [
        *("none", "model", "ngram", "auto")
    ]
    by_name = {"none": iterative, "model": model, "ngram": ngram}
    fastest = max(each.tokens_per_s for each in by_name.values())
    assert by_name[best].tokens_per_s > 0.99 * fastest
    assert auto.tokens_per_s > least * by_name[best].tokens_per_s


def test_n_grams_know_what_is_repeated_only() -> None:
    config = SimulateConfig(
        profiles=("cpu70b-4-ib",),
        acceptance=("0.5",),
        strategies=("pipeinfer",),
        drafters=("ngram", "both"),
        repetition=0.5,
        n_predict=200,
    )
    ngram, both = predictions(config)
    assert 0 < ngram.tokens_per_s < both.tokens_per_s
    assert ngram.drafter_busy < 0.01 < both.drafter_busy


def test_a_bound_is_near_what_a_slow_drafter_lets_pipeinfer_reach(capsys) -> None:
    options = ("--acceptance", "0.3,1", "--draft-ratio", "2", "--strategy", "pipeinfer")
    for each in records(capsys, *options, "-n", "200"):
        assert 0.9 * each["bound_tps"] < each["tokens_per_s"] <= each["bound_tps"]


def test_speedups_are_those_of_the_table(capsys) -> None:
    found = records(capsys, "--acceptance", "0.8")
    by_name = {(each["strategy"], each["draft_max"]): each for each in found}
    iterative = by_name["iterative", 0]
    assert iterative["speedup"] == 1
    assert iterative["tokens_per_s"] == pytest.approx(iterative["iterative_tps"])
    best = max(by_name["speculative", k]["tokens_per_s"] for k in (1, 3))
    for each in found:
        speed = each["tokens_per_s"]
        assert each["speedup"] == pytest.approx(speed / iterative["tokens_per_s"])
        assert each["over_speculative"] == pytest.approx(speed / best)


def test_profiles_of_the_same_name_have_limits_of_their_own(capsys, tmp_path) -> None:
    paths = [tmp_path / folder / "c.toml" for folder in ("a", "b")]
    for path, token_ms in zip(paths, (1, 100), strict=True):
        path.parent.mkdir()
        path.write_text(
            "n_stages = 2\nhidden_bytes = 1024\ndraft_ms = 1\n"
            f"stage = {{ base_ms = 1, token_ms = {token_ms} }}\n"
            "link = { latency_us = 10, gbit_per_s = 10 }\n"
        )
    found = records(capsys, "--profile", ",".join(map(str, paths)), "--strategy", "iterative")
    assert [each["profile"] for each in found[::4]] == ["c", "c"]
    for each in found:
        assert each["tokens_per_s"] == pytest.approx(each["iterative_tps"])


def test_draft_ratio_is_of_the_first_stage(capsys) -> None:
    found = records(capsys, "--stages", "4", "--draft-ratio", "0.25", "--strategy", "iterative")
    assert len(found) == 4
    assert found[0]["draft_ms"] == pytest.approx(12.5)
    assert found[0]["draft_tps"] == pytest.approx(80)
    assert records(capsys, "--draft-ms", "3", "--strategy", "iterative")[0]["draft_ms"] == 3


def test_strategies_are_those_of_bench(capsys) -> None:
    names = ["auto", "pipeinfer:no-continuous", "pipeinfer:no-cancel", "iterative", "pipeinfer"]
    found = records(capsys, "--acceptance", "0.7", "--strategy", ",".join(names), "-n", "200")
    assert list(dict.fromkeys(each["strategy"] for each in found)) == names
    by_name = {(each["strategy"], each["draft_max"]): each for each in found}
    assert by_name["pipeinfer", 3]["n_cancels"] > 0
    assert by_name["pipeinfer:no-cancel", 3]["n_cancels"] == 0
    assert (
        by_name["pipeinfer:no-cancel", 3]["wasted"]
        > by_name["pipeinfer", 3]["wasted"]
        > by_name["pipeinfer:no-continuous", 3]["wasted"]
    )
    # `auto` decodes plainly for a while, to see what that is like, and speculates for the rest.
    assert 0 < by_name["auto", 3]["n_invalidated"] < by_name["pipeinfer", 3]["n_invalidated"]


def test_trees_have_branches(capsys) -> None:
    options = ("--acceptance", "0.5:informed", "--strategy", "pipeinfer", "-n", "200")
    found = records(capsys, *options, "--draft-width", "1,3", "--draft-p-split", "0.05,0.15")
    assert [(each["draft_width"], each["draft_p_split"]) for each in found[::2]] == [
        *((1, 0.05), (1, 0.15), (3, 0.05), (3, 0.15))
    ]
    chains, same, trees, few = (each["tokens_per_s"] for each in found[::2])
    assert chains == same
    assert len({chains, trees, few}) == 3


def test_misses_do_not_end_synchronous_speculation(capsys) -> None:
    options = ("--acceptance", "0.5", "--strategy", "speculative", "--draft-width", "2")
    for each in records(capsys, *options, "-n", "200"):
        assert each["n_runs"] < 160  # 200 tokens, since some drafts are accepted to the end
        assert each["wasted"] > 0.1


def test_recorded_acceptance(capsys, tmp_path) -> None:
    path = tmp_path / "trace.json"
    path.write_text(json.dumps([False, True, True, True]))
    found = records(capsys, "--acceptance", str(path), "--strategy", "speculative")
    # With 3 drafted, the wrong ones are always at bonus tokens; the last round is cut short.
    assert [each["acceptance_rate"] for each in found if each["draft_max"] == 3] == [1.0]


def test_same_seed_same_output(capsys) -> None:
    one, same, other = (
        records(capsys, "--acceptance", "0.7", "--seed", seed) for seed in ("3", "3", "4")
    )
    assert one == same
    assert one != other


def test_table_and_csv(capsys) -> None:
    assert main.main([*FAST, "--acceptance", "0.5"]) == 0
    lines = capsys.readouterr().out.splitlines()
    tables = [line for line in lines if line.startswith("|")]
    assert len(tables) == (2 + 1) + (2 + 5)
    assert "oracle drafter" in tables[0]
    assert "| bound |" in tables[3]
    assert "| pipeinfer" in tables[-1]
    assert main.main([*FAST, "--acceptance", "0.5", "-o", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["draft_max"] for row in rows] == ["0", "1", "3", "1", "3"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--profile", "nope"], "there is no profile named 'nope'"),
        (["--stages", "0"], "--stages 0: give a number from 1 to 512"),
        (["--stages", "513"], "--stages 513: give a number from 1 to 512"),
        (["--stages", "two"], "--stages 'two' is not a whole number"),
        (["--acceptance", "1.5"], "acceptance 1.5: give a rate from 0 to 1"),
        (["--strategy", "magic"], "--strategy 'magic': give one or more of iterative"),
        (["--strategy", "speculative:no-cancel"], "only pipeinfer has that form"),
        (["--draft-width", "17"], "--draft-width 17: give a number from 1 to 16"),
        (["-pa", "x"], "--draft-p-min 'x' is not a number"),
        (["--draft-p-split", "2"], "--draft-p-split 2: give a probability from 0 to 1"),
        (["--prompt-tokens", "0"], "--prompt-tokens 0: give a number from 1"),
        (["--draft-max", "1,,2"], "--draft-max '1,,2' has an empty part"),
        (["--draft-max", ""], "--draft-max is empty: give one or more"),
        (["--acceptance", " "], "--acceptance is empty: give one or more"),
        (["--draft-max", "0"], "--draft-max 0: give a number from 1"),
        (["-n", "1"], "-n/--n-predict 1: give a number from 2"),
        (["--draft-ms", "-1"], "--draft-ms -1: give a number above 0"),
        (["--draft-ms", "1", "--draft-ratio", "1"], "cannot be combined with --draft-ratio"),
        (["--head-us", "nan"], "--head-us nan: give a number of 0 or more"),
        (["--output", "xml"], "--output 'xml': give one of auto, md, json, csv"),
        (["--seed", "x"], "--seed 'x' is not a whole number"),
        (["--drafter", "none"], "--drafter 'none': give one or more of model, both, ngram, auto"),
        (["--drafter", "auto"], "--drafter auto requires --strategy auto, not speculative"),
        (["--repetition", "2"], "--repetition 2: give a share from 0 to 1"),
    ],
)
def test_bad_options(capsys, options, message) -> None:
    assert main.main([*FAST, *options]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert captured.err.count("\n") == 1
