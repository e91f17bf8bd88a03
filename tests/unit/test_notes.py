"""Notes before the first token: options without effect, a context beyond the training."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import typer

from pipeinfer_cli.checks import MAX_COUNT
from pipeinfer_cli.cli.bench import bench
from pipeinfer_cli.cli.chat import chat
from pipeinfer_cli.cli.generate import generate
from pipeinfer_cli.cli.main import main
from pipeinfer_cli.commands import jobs
from pipeinfer_cli.commands.batch.config import BatchConfig, BatchFiles
from pipeinfer_cli.commands.bench import config as bench_config
from pipeinfer_cli.commands.generate_config import GenerateConfig, Prompt
from pipeinfer_cli.commands.notes import RULES, TrainingNote, notes
from pipeinfer_cli.engine.config import DraftCores
from pipeinfer_cli.errors import UserError
from pipeinfer_cli.models.layer_split import LayerRange
from pipeinfer_cli.runtime import pipeline
from pipeinfer_cli.runtime.pipeline import Plan
from plans import model_info, plan_of

pytestmark = pytest.mark.usefixtures("keep_signals")
Capture = pytest.CaptureFixture[str]
FIXED = "drafts have fixed lengths and cutoffs:"


def plan(n_stages: int = 2, n_ctx: int = 4096, n_ctx_train: int = 4096) -> Plan:
    layers = [LayerRange(index, index + 1) for index in range(n_stages)]
    return plan_of(layers, n_ctx, model=model_info((1, 1, 1), n_ctx_train=n_ctx_train))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--seed 3", ["no effect of --seed: the text is greedy without --temp"]),
        ("-s 3 --top-k 1 --stats", ["no effect of --top-k, --seed: the text is greedy"]),
        ("--seed 3 --temp 1", []),
        ("--seed 3 --synth-acceptance 0.5", []),
        (
            "--strategy iterative --draft-max 3 -pa 0.1 -pr 0.1",
            ["no effect of --draft-max, --draft-p-min, --draft-p-recovery: --strategy iterative"],
        ),
        ("--strategy iterative -md d", ["no effect of --model-draft: --strategy iterative"]),
        ("--strategy iterative --drafter ngram", ["no effect of --drafter: --strategy iterative"]),
        ("--drafter none --draft-width 2", ["no effect of --draft-width: --drafter none"]),
        ("--drafter ngram --synth-acceptance 0.5", ["no effect of --drafter: --synth-acceptance"]),
        ("--draft-threads 2", ["no effect of --draft-threads: only a draft model"]),
        ("--draft-threads 2 -md d", []),
        ("--draft-min 2", ["no effect of --draft-min: drafts are not waited for", FIXED]),
        ("--draft-min 2 -pa 0.1", ["no effect of --draft-min: drafts are not waited for"]),
        ("--draft-min 2 --strategy speculative", []),
        ("-pd 0.2 --strategy speculative --draft-max 3", ["no effect of --draft-p-decay: spec"]),
        ("-pd 0.2 --strategy speculative", []),
        ("-pd 0.2 --strategy speculative --draft-width 2", ["no effect of --draft-p-decay: spec"]),
        (
            "--draft-p-split 0.2",
            ["no effect of --draft-p-split: drafts have one candidate", FIXED],
        ),
        ("--draft-p-split 0.2 --draft-width 2", []),
        ("--verify --strategy iterative", ["no effect of --verify: the text is decoded without"]),
        ("--ignore-eos --synth-acceptance 1", ["no effect of --ignore-eos: drawn texts"]),
        ("-c 5000", ["-c 5000: the model was trained for 4096 tokens"]),
        ("-c 4096", []),
        ("", []),
    ],
)
def test_an_option_without_effect_is_noted(
    line: str, said: list[str], configs: list[GenerateConfig]
) -> None:
    assert main(["generate", "-m", "m.gguf", *line.split(), "hi"]) == 0
    (config,) = configs
    found = list(notes(config, plan(n_ctx=config.n_ctx)))
    assert len(found) == len(said), found
    assert all(note.startswith(start) for note, start in zip(found, said, strict=True)), found


def test_what_has_an_effect_depends_on_the_stages(configs: list[GenerateConfig]) -> None:
    assert main(["generate", "-m", "m.gguf", "-md", "d", "--draft-min", "2", "hi"]) == 0
    assert main(["generate", "-m", "m.gguf", "--layer-split", "3", "hi"]) == 0
    drafting, split = configs
    in_turn = DraftCores(n_threads=2, shares_cores=True)
    assert list(notes(drafting, replace(plan(n_stages=1), draft_cores=in_turn))) == []
    not_waited_for = "no effect of --draft-min: drafts are not waited for (only speculative does)"
    for n_stages in (1, 2):
        note, consequence = notes(drafting, plan(n_stages))
        assert note == not_waited_for
        assert consequence == f"{FIXED} without --draft-min they are chosen by expected gain"
    assert list(notes(split, plan(n_stages=1))) == [
        "no effect of --layer-split: one rank holds all layers"
    ]
    assert list(notes(split, plan(n_stages=2))) == []


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--seed 3", []),  # items may have a temperature
        ("--format text", ["no effect of --format: results of --prompts are lines of JSON"]),
        ("--format json", []),
        ("-e", ["no effect of --escape: prompts in JSON"]),
        ("-e --stop x", []),
        ("-n 5000", ["-n 5000: the context of 4096 tokens (-c) ends texts before"]),
        ("-n -1", []),
    ],
)
def test_options_without_effect_in_a_batch(
    line: str, said: list[str], configs: list[GenerateConfig]
) -> None:
    assert main(["generate", "-m", "m.gguf", "--prompts", "in.jsonl", *line.split()]) == 0
    found = list(notes(configs[0], plan()))
    assert len(found) == len(said), found
    assert all(note.startswith(start) for note, start in zip(found, said, strict=True)), found


def test_chat_has_notes_too(configs: list[GenerateConfig]) -> None:
    assert main(["chat", "-m", "m.gguf", "--seed", "3", "-mg", "1"]) == 0
    first, second = notes(configs[0], plan())
    assert first.startswith("-mg 1: ")
    assert second.startswith("no effect of --seed")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--seed 3", ["no effect of --seed: the text is greedy"]),
        ("--seed 3 --temp 1", []),
        (
            "--strategy iterative -md d --draft-max 2",
            ["no effect of --model-draft, --draft-max: no --strategy drafts"],
        ),
        ("--strategy iterative,auto --draft-max 2", []),
        ("-mg 1 --ranks 1,2", ["-mg 1: "]),
    ],
)
def test_bench_says_it_for_its_first_group(
    line: str, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bench_config.BenchConfig] = []
    from pipeinfer_cli.commands.bench import run

    monkeypatch.setattr(run, "bench", lambda config: seen.append(config) or 0)
    assert main(["bench", "-m", "m.gguf", *line.split()]) == 0
    first, *others = seen[0].groups((), "")
    assert len(first.notes) == len(said), first.notes
    assert all(note.startswith(start) for note, start in zip(first.notes, said, strict=True))
    assert all(each.notes == () for each in others)


def test_rules_are_about_options_that_exist() -> None:
    names: set[str] = set()
    for command in (generate, chat, bench):
        app = typer.Typer()
        app.command()(command)
        params: Any = typer.main.get_command(app).params
        names |= {name for param in params for name in param.opts}
    assert {option for rule in RULES for option in rule.options} <= names


def test_a_text_beyond_the_training_is_noted_once(capsys: Capture) -> None:
    config = GenerateConfig(model="m", prompt=Prompt(text="p"))
    note = TrainingNote(config, plan(n_ctx_train=64))
    for n_tokens in (64, 65, 66, 300):
        note(n_tokens)
    said = "prompt and text may have 66 tokens: the model was trained for 64 tokens, and may be"
    assert capsys.readouterr().err.startswith(f"pipeinfer: note: {said}")
    for given, n_ctx, trained in ((("--ctx-size",), 4096, 64), ((), 4096, 0)):
        TrainingNote(replace(config, given=given), plan(n_ctx=n_ctx, n_ctx_train=trained))(300)
    assert capsys.readouterr().err == ""  # -c has said it; nobody knows


def test_a_batch_config_has_no_limit_without_n() -> None:
    config = BatchConfig(
        model="m",
        prompt=Prompt(),
        n_predict=MAX_COUNT,
        files=BatchFiles(prompts="p"),
        given=("--n-predict",),
    )
    assert list(notes(config, plan())) == []


def test_what_is_not_exact_is_said_once() -> None:
    config = GenerateConfig(model="m", prompt=Prompt(text="p"))
    assert list(notes(config, plan())) == []
    (note,) = notes(config, replace(plan(), inexact="no kernels for this"))
    assert note == (
        "no kernels for this: the text may depend on how many tokens are computed at a time"
    )


def test_notes_come_after_all_checks(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    """So that an error is the only line."""
    config = GenerateConfig(model="m", prompt=Prompt(text="p"), notes=("a note",))

    class Job:
        fails = True

        def load(self) -> Any:
            return self.prepare

        def prepare(self, *_: object) -> str:
            if self.fails:
                raise UserError("too long")
            return "work"

    monkeypatch.setattr(pipeline, "run", lambda config, comm, prepare: prepare(plan()) == "work")
    monkeypatch.setattr(jobs, "job_of", lambda config: Job())
    with pytest.raises(UserError, match="too long"):
        jobs.run(config, None)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(Job, "fails", False)
    assert jobs.run(config, None)
    assert capsys.readouterr().err == "pipeinfer: note: a note\n"
