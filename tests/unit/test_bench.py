"""`pipeinfer bench` without a model: what is compared with what, arithmetic, formats."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from dataclasses import fields, replace
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from pipeinfer_cli.cli import main
from pipeinfer_cli.commands.bench import prompts, record, rows
from pipeinfer_cli.commands.bench import run as bench_run
from pipeinfer_cli.commands.bench.config import FORMATS, BenchConfig, BenchGroup
from pipeinfer_cli.commands.bench.prompts import BenchPrompt
from pipeinfer_cli.commands.bench.record import (
    PLAIN,
    WARMUP,
    PipelineInfo,
    Record,
    RecordWriter,
    Sample,
)
from pipeinfer_cli.commands.bench.report import report
from pipeinfer_cli.commands.bench.summary import comparable, median_stats, summarise
from pipeinfer_cli.commands.bench.turns import first_turns, n_turns, turns
from pipeinfer_cli.errors import UserError
from pipeinfer_cli.launch import environment, mpi
from pipeinfer_cli.scheduler.policy import (
    DEFAULT_DRAFT,
    DraftConfig,
    Variant,
    parse_strategy,
)
from pipeinfer_cli.scheduler.scheduler import Counters

PROMPTS = tuple(BenchPrompt(id=str(i), category="", text=f"text {i}") for i in range(3))
PIPELINE = PipelineInfo(
    n_ranks=2,
    n_stages=2,
    n_batch=32,
    n_threads=1,
    exact=True,
    model_filename='/models/it\'s "m".gguf',
    model_type="llama 1M F32",
    model_size=4,
    model_n_params=1,
)
ITERATIVE = Variant(strategy="iterative")
SPECULATIVE = Variant(strategy="speculative", drafter="ngram", draft=DraftConfig())
PIPEINFER = Variant(strategy="pipeinfer", drafter="model", draft_model="d", draft=DraftConfig())


def config(**changes: Any) -> BenchConfig:
    draft = {"n_max": (2, 4), "p_min": (0.0, 0.5)}
    values: dict[str, Any] = {"models": ("m",), "n_predict": 8, "draft": draft, **changes}
    return BenchConfig(**values)


def group_of(*variants: Variant, **changes: Any) -> BenchGroup:
    values: dict[str, Any] = {
        "model": "m",
        "variants": variants,
        "prompts": PROMPTS,
        "n_predict": 8,
        "repetitions": 2,
        "warmup": True,
        "record": "",
        **changes,
    }
    return BenchGroup(**values)


# the product


def test_auto_chooses_its_drafter_as_in_generate_unless_one_is_given():
    """And with a draft model only, and no option about how to draft."""
    names = ("auto", "pipeinfer")

    def drafters(**others):
        (group,) = config(**{"strategies": names, "draft": {}, **others}).groups(PROMPTS, "r")
        return [variant.drafter for variant in group.variants]

    assert drafters(draft_models=("a",)) == ["auto", "model"]
    assert drafters() == ["ngram", "ngram"]
    assert drafters(draft_models=("a",), drafters=("both",)) == ["both", "both"]
    assert drafters(draft_models=("a",), draft={"width": (2,)}) == ["model", "model"]


def test_lists_make_the_product_and_iterative_is_once() -> None:
    (group,) = config(drafters=("ngram", "model"), draft_models=("a", "b")).groups(PROMPTS, "r")
    names = Counter(variant.name for variant in group.variants)
    # ngram, model a, model b; two lengths, two cutoffs
    assert names == {"iterative": 1, "speculative": 12, "auto": 12, "pipeinfer": 12}
    assert {v.draft_model for v in group.variants if v.drafter == "model"} == {"a", "b"}
    assert {v.draft_model for v in group.variants if v.drafter != "model"} == {None}
    assert group.uses_draft_model


def test_a_group_for_each_pipeline_to_load() -> None:
    groups = list(config(models=("m", "n"), ranks=(1, 2, 3), threads=(1, 2)).groups(PROMPTS, "r"))
    assert len({(each.model, each.ranks, each.threads) for each in groups}) == len(groups) == 12
    assert {each.variants for each in groups} == {groups[0].variants}


def test_emulated_clusters_and_acceptances_are_groups() -> None:
    several = config(emulate=("a", "b"), synth_acceptance=("0.5", "0.8/0.7"), draft={})
    pairs = [(group.emulate, group.synth_acceptance) for group in several.groups(PROMPTS, "r")]
    assert pairs == [("a", "0.5"), ("a", "0.8/0.7"), ("b", "0.5"), ("b", "0.8/0.7")]


@pytest.mark.parametrize(
    ("options", "drafts"),
    [
        ("", [DEFAULT_DRAFT]),
        ("--draft-threads 2", [DEFAULT_DRAFT]),
        ("--draft-max auto", [DraftConfig(auto_length=True)]),
        ("-pa 0.4", [DraftConfig(auto_length=True)]),
        ("--draft-max 2,4 --draft-width 3", [DraftConfig(n_max=n, width=3) for n in (2, 4)]),
    ],
)
def test_without_options_drafts_are_chosen_by_expected_gain(
    options: str, drafts: list[DraftConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[BenchConfig] = []
    monkeypatch.setattr(bench_run, "bench", lambda config: seen.append(config) or 0)
    assert main.main(["bench", "-m", "m", "--strategy", "pipeinfer:paper", *options.split()]) == 0
    (group,) = seen[0].groups((), "")
    assert [variant.draft for variant in group.variants] == drafts


def test_variants_that_are_the_same_are_measured_once() -> None:
    (group,) = config(
        strategies=("pipeinfer:no-cancel", "pipeinfer:no-cancel:no-cancel", "iterative"),
        draft={"n_max": (2, 2)},
    ).groups((), "")
    assert [variant.name for variant in group.variants] == ["pipeinfer:no-cancel", "iterative"]
    assert not group.uses_draft_model


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["-m", ""], "-m/--model is empty"),
        (["-m", "m", "--strategy", "fast"], "--strategy 'fast': give one or more of iterative"),
        (["-m", "m", "--strategy", "pipeinfer:no-magic"], "no-continuous"),
        (["-m", "m", "--strategy", "speculative:no-cancel"], "only pipeinfer has that form"),
        (["-m", "m", "--strategy", ""], "--strategy is empty"),
        (["-m", "m", "--draft-max", "2,,4"], "--draft-max '2,,4' has an empty part"),
        (["-m", "m,"], "-m/--model 'm,' has an empty part"),
        (["-m", "m", "--draft-max", "2,x"], "--draft-max 'x' is not a whole number"),
        (["-m", "m", "--draft-max", ""], "--draft-max is empty"),
        (["-m", "m", "--draft-max", "0"], "--draft-max 0"),
        (["-m", "m", "-pa", "0.5,2"], "-pa 2"),
        (["-m", "m", "--ranks", "2,0"], "--ranks 0"),
        (["-m", "m", "-t", "0"], "--threads 0"),
        (["-m", "m", "-r", "0"], "-r/--repetitions 0"),
        (["-m", "m", "-n", "many"], "'many' is not a whole number"),
        (["-m", "m", "-o", "xml"], "'xml': give one of auto, md, csv"),
        (["-m", "m", "--drafter", "model"], "give one with -md"),
        (["-m", "m", "--drafter", "none"], "--drafter 'none': give one or more of ngram"),
        (["-m", "m", "-md", "d", "--drafter", "auto"], "--drafter auto requires --strategy auto"),
        (["-m", "m", "--temp", "-1"], "--temp -1"),
        (["-m", "m", "-p", "/no/file"], "'/no/file'"),
        (["-m", "m", "--synth-acceptance", "0.5,2"], "--synth-acceptance '2'"),
        (["-m", "m", "-md", "d", "--synth-acceptance", "0.5"], "--synth-acceptance needs none"),
        (["-m", "smollm2", "-md", "smollm2,auto"], "-md auto: name the drafts to compare"),
        (["-m", "no.gguf"], "no.gguf"),
        (["-m", "m", "--ranks", "2", "--layer-split", "1"], "1 weights for 2 ranks"),
    ],
)
def test_bad_input_is_one_line_before_anything_starts(
    args: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.main(["bench", *args]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("pipeinfer: error: ")
    assert err.count("\n") == 1
    assert said in err


def test_strategies_with_ablations() -> None:
    assert parse_strategy("auto") == ("auto", ())
    assert parse_strategy("pipeinfer:no-reactive:no-cancel")[1] == ("no-cancel", "no-reactive")


# turns


def test_every_variant_meets_every_prompt_once_in_a_repetition() -> None:
    order = [(turn.repetition, turn.prompt, turn.variant) for turn in turns(3, 4, 2)]
    assert len(order) == len(set(order)) == 3 * 4 * 2
    for start in range(0, len(order), 3):  # the variants of a prompt follow one another
        assert len({each[:2] for each in order[start : start + 3]}) == 1


def test_who_begins_rotates() -> None:
    firsts = [turn.variant for turn in turns(3, 4, 3)][::3]
    assert firsts == [0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2]
    assert Counter(firsts) == {0: 4, 1: 4, 2: 4}


def test_the_plain_text_is_written_if_no_variant_does() -> None:
    with_plain = first_turns((SPECULATIVE, PIPEINFER), 3, warmup=False)
    assert [(turn.variant, turn.prompt) for turn in with_plain] == [(PLAIN, i) for i in range(3)]
    assert first_turns((ITERATIVE, PIPEINFER), 3, warmup=False) == []
    warm = first_turns((ITERATIVE, PIPEINFER), 3, warmup=True)
    assert [(turn.repetition, turn.variant) for turn in warm] == [(WARMUP, 0), (WARMUP, 1)]
    assert n_turns(group_of(ITERATIVE, PIPEINFER)) == 2 + 2 * 3 * 2
    assert n_turns(group_of(SPECULATIVE, PIPEINFER, warmup=False)) == 3 + 2 * 3 * 2


# arithmetic


def sample(repetition: int, variant: int, prompt: int, ms: float, **changes: Any) -> Sample:
    """Five tokens, `ms` from one to the next, the first after twice that."""
    values: dict[str, Any] = {
        "repetition": repetition,
        "variant": variant,
        "prompt": prompt,
        "n_prompt": 10 + prompt,
        "tokens": (1, 2, 3, 4, 5),
        "start_s": 100.0,
        "times_s": tuple(100 + (2 + i) * ms / 1000 for i in range(5)),
        "counters": Counters(n_drafted=8, n_accepted=2, n_decided=5, n_verified=2, busy_us={0: 7}),
        **changes,
    }
    return Sample(**values)


def measured(repetitions: list[list[float]]) -> Record:
    """By repetition, by variant: ms per token of each of the three prompts."""
    samples = [
        sample(repetition, variant, prompt, ms)
        for repetition, row in enumerate(repetitions)
        for variant, ms in enumerate(row)
        for prompt in range(3)
    ]
    return Record(pipeline=PIPELINE, samples=tuple(samples))


def test_speedups_are_medians_of_the_ratios_within_a_repetition() -> None:
    # the machine is four times slower in the second repetition
    other = replace(SPECULATIVE, draft=DraftConfig(n_max=2))
    group = group_of(ITERATIVE, SPECULATIVE, other, PIPEINFER)
    record_ = measured([[10, 10, 8, 5], [40, 40, 32, 16], [10, 20, 8, 4]])
    plain, slow, fast, ours = summarise(group, record_)
    assert [round(each.median_ts, 3) for each in (plain, slow, fast, ours)] == [100, 50, 125, 200]
    assert plain.speedup == pytest.approx(1)
    assert ours.speedup == pytest.approx(median([2, 2.5, 2.5]))
    assert ours.speedup_over_speculative == pytest.approx(median([8 / 5, 2, 2]))
    assert slow.speedup_over_speculative == pytest.approx(0.8)
    assert (ours.p10_ts, ours.p90_ts) == (pytest.approx(62.5), pytest.approx(250))
    assert ours.samples_ns[1] == 3 * 4 * 16_000_000
    assert ours.avg_ns == (60 + 192 + 48) * 1_000_000 / 3
    assert ours.n_prompts == 3


def test_stats_are_sums_over_the_prompts_and_medians_over_the_repetitions() -> None:
    (summary,) = summarise(group_of(PIPEINFER), measured([[5], [20], [10]]))
    stats = summary.stats
    assert (stats.n_generated, stats.n_prompt) == (15, 33)
    assert (stats.n_drafted, stats.n_accepted, stats.acceptance_rate) == (24, 6, 0.25)
    assert stats.mean_acceptance_length == 2.5
    assert stats.itl_p50_ms == pytest.approx(10)
    assert stats.ttft_ms == pytest.approx(20)
    assert stats.busy_ms == (pytest.approx(0.021), 0.0)
    assert stats.decode_ms == pytest.approx(120)
    assert summary.speedup is None
    assert summary.speedup_over_speculative is None


def test_medians_of_tuples_may_have_different_lengths() -> None:
    (summary,) = summarise(group_of(PIPEINFER), measured([[5]]))
    several = [replace(summary.stats, acceptance_by_position=each) for each in [(1.0,), (0.5, 1.0)]]
    assert median_stats(several).acceptance_by_position == (0.75, 0.5)


def test_identical_means_the_token_ids_of_plain_decoding() -> None:
    group = group_of(SPECULATIVE, PIPEINFER, repetitions=1)
    plain = [sample(WARMUP, PLAIN, prompt, 1) for prompt in range(3)]
    right = [sample(0, 0, prompt, 1) for prompt in range(3)]
    wrong = [sample(0, 1, prompt, 1, tokens=(1, 2, 3, 4, 6 - prompt % 2)) for prompt in range(3)]
    both = summarise(group, Record(pipeline=PIPELINE, samples=(*plain, *right, *wrong)))
    assert [each.identical for each in both] == [True, False]
    alone = summarise(group, Record(pipeline=PIPELINE, samples=(*right, *wrong)))
    assert [each.identical for each in alone] == [None, None]


def test_warmups_do_not_count() -> None:
    warm = [sample(WARMUP, variant, 0, 1000, tokens=(9,)) for variant in range(2)]
    whole = measured([[10, 5]])
    several = summarise(
        group_of(ITERATIVE, PIPEINFER), Record(pipeline=PIPELINE, samples=(*warm, *whole.samples))
    )
    assert [each.identical for each in several] == [True, True]
    assert [round(each.median_ts) for each in several] == [100, 200]


@pytest.mark.parametrize(
    ("n_samples", "repetitions", "n_prompts"),
    [
        (0, [], []),
        (1, [1], [1]),  # the first variant's first prompt
        (2, [1, 1], [1, 1]),
        (5, [1, 1], [2, 2]),  # the third prompt lacks the second variant
        (6, [1, 1], [3, 3]),
        (9, [1, 1], [3, 3]),  # the second repetition is not whole
        (12, [2, 2], [3, 3]),
    ],
)
def test_what_was_interrupted_is_compared_like_with_like(
    n_samples: int, repetitions: list[int], n_prompts: list[int]
) -> None:
    order = [sample(each.repetition, each.variant, each.prompt, 10) for each in turns(2, 3, 2)]
    found = comparable(order[:n_samples], 2, 3)
    assert [len(each) for each in found.values()] == repetitions
    assert [len(each[0]) for each in found.values()] == n_prompts


# the record


def test_a_record_is_read_back_up_to_its_last_whole_line(tmp_path: Path) -> None:
    path = str(tmp_path / "record")
    assert record.read(path) == Record()
    assert record.count_samples(path) == 0
    samples = [sample(0, variant, 0, 3) for variant in range(3)]
    with RecordWriter(path) as writer:
        writer.write(PIPELINE)
        assert record.read(path) == Record(pipeline=PIPELINE)
        for each in samples:
            writer.write(each)
    assert record.read(path) == Record(pipeline=PIPELINE, samples=tuple(samples))
    assert record.count_samples(path) == 3
    Path(path).write_text(Path(path).read_text()[:-5])
    assert record.read(path).samples == tuple(samples[:2])


# formats


NAMES = (
    *("build_commit", "cpu_info", "gpu_info", "backends"),
    *("pipeinfer_version", "llama_cpp", "mpi", "host"),
)
MACHINE = {name: f"{name} 'of' \"mine\", it\nsays" for name in NAMES} | {"build_number": 7}


@pytest.fixture
def table() -> list[rows.Row]:
    group = group_of(ITERATIVE, SPECULATIVE, PIPEINFER)
    record_ = measured([[10, 10, 5], [40, 32, 16]])
    return [rows.row(group, PIPELINE, each, MACHINE) for each in summarise(group, record_)]


def test_what_is_synthetic_or_late_is_said() -> None:
    group = group_of(ITERATIVE, SPECULATIVE, emulate="x/slow.toml", synth_acceptance="0.8/0.7")
    samples = [replace(each, n_late=each.variant) for each in measured([[10, 5]]).samples]
    found = summarise(group, Record(pipeline=PIPELINE, samples=tuple(samples)))
    shown = [rows.row(group, PIPELINE, each, MACHINE) for each in found]
    assert [row["drafter"] for row in shown] == ["none", "synthetic"]
    assert {row["emulate"] for row in shown} == {"slow"}
    assert {row["synth_acceptance"] for row in shown} == {"0.8/0.7"}
    assert [row["n_late"] for row in shown] == [0, 3]


def written(output: Any, table: list[rows.Row]) -> str:
    stdout = io.StringIO()
    with report(output, stdout=stdout) as writer:
        writer.add(table[:1])
        writer.add(table[1:])
    return stdout.getvalue()


def test_json_and_jsonl(table: list[rows.Row]) -> None:
    shown = json.loads(written("json", table))
    assert shown == table
    assert [json.loads(line) for line in written("jsonl", table).splitlines()] == shown
    first, second, third = shown
    assert (first["strategy"], first["draft_max"], first["identical"]) == ("iterative", None, True)
    assert (third["draft_max"], third["n_stages"], third["acceptance"]) == (8, 2, 0.25)
    assert third["speedup"] == pytest.approx((2 + 2.5) / 2)
    assert second["speedup_over_speculative"] == pytest.approx(1)
    assert len(third["samples_ts"]) == third["repetitions"] == 2


def test_csv(table: list[rows.Row]) -> None:
    read = list(csv.DictReader(io.StringIO(written("csv", table))))
    assert len(read) == 3
    assert list(read[0]) == list(rows.COLUMNS)
    for seen, row in zip(read, table, strict=True):
        assert seen["cpu_info"] == row["cpu_info"]
        assert float(seen["median_ts"]) == row["median_ts"]
        assert json.loads(seen["busy_ms"]) == row["busy_ms"]
        assert seen["draft_model"] == (row["draft_model"] or "")


def test_md_is_a_table_for_people(table: list[rows.Row]) -> None:
    header, rule, *lines = written("md", table).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in (header, *lines)]
    assert set(rule) <= set("|-: ")
    assert len({len(row) for row in cells}) == 1
    assert cells[3][cells[0].index("strategy")] == "pipeinfer"
    assert cells[3][cells[0].index("x iterative")] == "2.25"
    assert cells[1][cells[0].index("identical")] == "yes"
    assert written("auto", table) == written("md", table)  # a pipe


def test_a_terminal_gets_the_columns_that_fit(
    table: list[rows.Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stdout = Terminal()
    monkeypatch.setattr("sys.stdout", stdout)
    for name, value in {"COLUMNS": "80", "TERM": "dumb", "NO_COLOR": "1"}.items():
        monkeypatch.setenv(name, value)
    with report("auto", stdout=stdout) as writer:
        writer.add(table[:1])
        writer.add(table[1:])
    assert writer.records == table
    lines = stdout.getvalue().splitlines()
    assert all(len(line) <= 80 for line in lines)
    headers = [line for line in lines if "strategy" in line]
    assert len(headers) == 2  # a table for each group
    assert all("t/s (p10-p90)" in line and "x iterative" in line for line in headers)
    assert "|" not in stdout.getvalue()
    assert written("md", table).startswith("| model")


@pytest.mark.parametrize("output", FORMATS)
def test_an_interrupted_bench_without_rows_is_well_formed(output: Any) -> None:
    text = written(output, [])
    if output == "json":
        assert json.loads(text) == []
    if output == "csv":
        assert text.count("\n") == 1


def test_llama_bench_keys_come_first_and_stats_are_there(table: list[rows.Row]) -> None:
    assert list(table[0])[:5] == [
        "build_commit",
        "build_number",
        "cpu_info",
        "gpu_info",
        "backends",
    ]
    llama = ("model_filename", "model_type", "model_size", "model_n_params", "n_batch", "n_ubatch")
    more = ("n_threads", "type_k", "type_v", "flash_attn", "n_prompt", "n_gen", "n_depth")
    times = ("test_time", "avg_ns", "stddev_ns", "avg_ts", "stddev_ts", "samples_ns", "samples_ts")
    assert {*llama, *more, *times} <= set(table[0])
    summary = summarise(group_of(PIPEINFER), measured([[5]]))[0]
    assert {field.name for field in fields(summary.stats)} <= set(table[0])


# prompts


def test_the_packaged_prompts_are_varied() -> None:
    texts = prompts.load(None)
    kinds = {"chat", "code", "summary", "translation", "reasoning", "list", "story"}
    assert {prompt.category for prompt in texts} == kinds
    assert 14 <= len(texts) <= 20
    assert max(len(prompt.text) for prompt in texts) < 1200


def test_prompts_of_a_text_file(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("one\nand more\n---\n\n---\ntwo \u20ac\n", encoding="utf-8")
    one, two = prompts.load(str(tmp_path / "p.txt"))
    assert (one.text, two.text) == ("one\nand more", "two \u20ac")
    assert one.id != two.id


def test_prompts_of_a_jsonl_file(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('{"id": "a", "text": "x\\ny"}\n\n{"text": "z", "category": "c"}\n')
    assert [(each.id, each.text) for each in prompts.load(str(path))] == [("a", "x\ny"), ("3", "z")]


@pytest.mark.parametrize("text", ["a\u2028b\u0085c", "a\x0cb", "a \U0001f338 b\r\nc"])
@pytest.mark.parametrize("is_ascii", [True, False])
@pytest.mark.parametrize("bom", ["", "\ufeff"])
def test_only_a_newline_ends_a_line_of_prompts(
    text: str, is_ascii: bool, bom: str, tmp_path: Path
) -> None:
    path = tmp_path / "p.jsonl"
    line = json.dumps({"text": text}, ensure_ascii=is_ascii)
    path.write_text(f"{bom}{line}\r\n{{}}".replace("{}", '{"text": "z"}'), encoding="utf-8")
    assert [each.text for each in prompts.load(str(path))] == [text, "z"]
    plain = tmp_path / "p.txt"
    plain.write_bytes(f"{bom}{text}\r\n---\r\nz".encode())
    found = [each.text for each in prompts.load(str(plain))]
    assert found == [text.replace("\r\n", "\n"), "z"]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("p.txt", b"", "no prompts"),
        ("p.txt", b"---\n \n---\n", "no prompts"),
        ("p.txt", b"\xff", "not UTF-8"),
        ("p.jsonl", b'{"text": "x"}\n{"txt": "y"}\n', "line 2"),
        ("p.jsonl", b'{"text": ""}\n', "line 1"),
        ("p.jsonl", b'["text"]\n', "line 1"),
        ("p.jsonl", b'{"text": "\\ud800"}\n', "line 1 .* half of a surrogate pair"),
        pytest.param("p.jsonl", b"[" * 200_000, "line 1 .* nested too deeply", id="deep"),
        ("p.jsonl", b'{"text": "\xff"}', "line 1 .* not UTF-8"),
        ("p.jsonl", b'{"text": "x", "id": null}', "line 1 .* id is neither"),
        ("p.jsonl", b'{"text": "x", "category": 5}', "line 1 .* category is not a string"),
        ("p.jsonl", b'{"id": 1, "text": "x"}\n{"id": 1, "text": "y"}\n', "same id"),
    ],
)
def test_prompts_that_are_none(name: str, content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=said):
        prompts.load(str(tmp_path / name))


def test_llama_benchs_length_of_a_prompt_is_no_file() -> None:
    with pytest.raises(UserError, match=r"check -p/--prompts \(in llama-bench .* here a file\)"):
        prompts.load("512,1024")


@pytest.mark.parametrize(
    ("options", "said", "is_started"),
    [
        (["-p", "no-such-file"], "cannot read the prompts", True),
        (["--plot", "x.svg", "--plot-x", "x"], "--plot-x 'x'", True),
        (["--ranks", "2,3"], "--ranks 3, but srun started 2", False),  # all ranks say so
    ],
)
def test_under_a_launcher_an_error_of_rank_0_ends_all_ranks(
    options: list[str],
    said: str,
    is_started: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """MPI is running by then, so that the command's end is an abort."""
    launch_env, started = environment.LaunchEnvironment(launcher="srun", rank=0, size=2), []
    monkeypatch.setattr(environment, "detect", lambda _: launch_env)
    monkeypatch.setattr(mpi, "start", lambda: started.append(True))
    assert main.main(["bench", "-m", "m", *options]) == 2
    assert said in capsys.readouterr().err
    assert bool(started) == is_started
