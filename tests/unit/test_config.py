"""The configuration of a request, and reading its prompt."""

from __future__ import annotations

import inspect
import io
import pickle
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeinfer_cli.commands import jobs
from pipeinfer_cli.commands.batch.config import BatchConfig, BatchFiles
from pipeinfer_cli.commands.bench.config import BenchGroup
from pipeinfer_cli.commands.bench.prompts import BenchPrompt
from pipeinfer_cli.commands.calibrate.config import CalibrateJob
from pipeinfer_cli.commands.chat.config import ChatConfig
from pipeinfer_cli.commands.generate_config import GenerateConfig, Prompt, read_prompt
from pipeinfer_cli.console import Terminal
from pipeinfer_cli.errors import UserError
from pipeinfer_cli.runtime.config import JobConfig, parse_layer_split
from pipeinfer_cli.scheduler.policy import DraftConfig, Variant
from pipeinfer_cli.scheduler.runs import SampleParams
from pipeinfer_cli.trace.config import Pictures

PROMPT = Prompt(text="hi")
PICTURES = Pictures(
    trace="t.json",
    plot="p.png",
    plot_window_ms=(1.0, 2.0),
    live=True,
    terminal=Terminal(n_columns=80, n_lines=25, has_stdout=True),
)


@pytest.mark.parametrize(
    ("text", "weights"),
    [
        ("auto", None),
        (" auto ", None),
        ("1", (1.0,)),
        ("2,1,1", (2.0, 1.0, 1.0)),
        ("0,1", (0.0, 1.0)),
        ("0.5, 1.5", (0.5, 1.5)),
    ],
)
def test_layer_split(text: str, weights: tuple[float, ...] | None) -> None:
    assert parse_layer_split(text) == weights


@pytest.mark.parametrize(
    "text", ["", "x", "1,", "1,,2", "-1,2", "nan", "inf,1", "0", "0,0", "1,0", "0,1,0"]
)
def test_layer_split_refused(text: str) -> None:
    with pytest.raises(UserError, match="--layer-split"):
        parse_layer_split(text)


@given(st.lists(st.floats(0.01, 1e6), min_size=1, max_size=64))
def test_layer_split_reads_what_was_written(weights: list[float]) -> None:
    assert parse_layer_split(",".join(map(repr, weights))) == tuple(weights)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("model", "", "-m/--model"),
        ("n_predict", 0, "-n/--n-predict 0"),
        ("n_ctx", -1, "-c/--ctx-size -1"),
        ("ranks", 0, "--ranks 0"),
        ("threads", 0, "-t/--threads 0"),
        ("threads", 513, "-t/--threads 513: give a number from 1 to 512"),
        ("threads", (1, 513), "-t/--threads 513"),
        ("draft_threads", 513, "--draft-threads 513"),
        ("format", "yaml", "'yaml'"),
        ("timeout_s", 0.0, "--timeout 0"),
        ("timeout_s", float("nan"), "--timeout nan"),
        ("timeout_s", float("inf"), "--timeout inf"),
        ("layer_split", (1.0, 0.0), "1,0"),
    ],
)
def test_values_that_make_no_sense(field: str, value: object, said: str) -> None:
    with pytest.raises(UserError, match=said):
        GenerateConfig(**{"model": "m", "prompt": PROMPT, field: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"drafter": "auto"}, "--drafter auto needs a draft model: give one with -md"),
        (
            {"drafter": "auto", "draft_model": "d", "strategy": "pipeinfer"},
            "--drafter auto requires --strategy auto, not pipeinfer",
        ),
    ],
)
def test_what_a_chosen_drafter_needs(fields: dict[str, str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        GenerateConfig(**{"model": "m", "prompt": PROMPT, **fields})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("temperature", -0.1, "--temp -0.1"),
        ("temperature", float("nan"), "--temp nan"),
        ("temperature", float("inf"), "--temp inf"),
        ("top_k", -1, "--top-k -1"),
        ("top_p", 1.01, "--top-p 1.01"),
        ("top_p", float("nan"), "--top-p nan"),
        ("min_p", -0.5, "--min-p -0.5"),
        ("seed", -1, "--seed -1"),
        ("seed", 2**64, "--seed 18446744073709551616"),
    ],
)
def test_sampling_that_makes_no_sense(field: str, value: float, said: str) -> None:
    with pytest.raises(UserError, match=said):
        SampleParams(**{field: value})  # type: ignore[arg-type]


def test_split_must_fit_ranks() -> None:
    with pytest.raises(UserError, match="3 weights for 2 ranks"):
        GenerateConfig(model="m", prompt=PROMPT, ranks=2, layer_split=(1.0, 1.0, 1.0))


@pytest.mark.parametrize(
    "config",
    [
        GenerateConfig(model="m", prompt=PROMPT),
        GenerateConfig(
            model="a b.gguf",
            prompt=Prompt(file=Path("x\n:y")),
            layer_split=(0.0, 2.5),
            ranks=2,
            threads=3,
            sample=SampleParams(temperature=0.8, seed=2**64 - 1),
            format="json",
            stats=True,
        ),
        GenerateConfig(model="m", prompt=Prompt(text='":"\n\u20ac\x00\udcff'), pictures=PICTURES),
        BatchConfig(
            model="m", prompt=Prompt(), files=BatchFiles(prompts="-", items="\udcff", output="o")
        ),
        ChatConfig(model="m", prompt=Prompt(text=""), chat=True, system="s", stop=("a", "\n")),
        BenchGroup(
            model="m",
            variants=(
                Variant(strategy="pipeinfer", ablations=("no-cancel",), draft=DraftConfig()),
            ),
            prompts=(BenchPrompt(id="a", category="c", text="b"),),
            n_predict=8,
            repetitions=2,
            warmup=True,
            record="r",
        ),
        CalibrateJob(model="m", draft_model="d", repetitions=3, save_to="/x.toml"),
    ],
)
def test_a_configuration_reaches_the_ranks_whole(config: JobConfig) -> None:
    assert pickle.loads(pickle.dumps(config)) == config


def test_every_kind_of_job_is_in_the_table_and_can_be_prepared() -> None:
    def kinds(base: type[JobConfig]) -> set[str]:  # names: slots make each class twice
        below = {base.__name__} if base.__module__.startswith("pipeinfer_cli.commands") else set()
        return below.union(*map(kinds, base.__subclasses__()))

    assert {each.config.__name__ for each in jobs.JOBS} == kinds(JobConfig)
    for job in jobs.JOBS:
        assert list(inspect.signature(job.load()).parameters)[1:] == ["plan"]


def test_prompt_sources() -> None:
    assert Prompt.from_options(None, None) == Prompt.from_options("-", None) == Prompt()
    assert Prompt.from_options(None, Path("-")) == Prompt()
    with pytest.raises(UserError, match="one of them"):
        Prompt.from_options("a", Path("b"))


def test_prompt_from_file_loses_one_newline(tmp_path: Path) -> None:
    file = tmp_path / "p"
    file.write_bytes("a\r\n\u00e9\n\n".encode())
    assert read_prompt(Prompt(file=file)) == "a\n\u00e9\n"
    file.write_bytes(b"\xef\xbb\xbfhi\r\n")  # with a byte-order mark
    assert read_prompt(Prompt(file=file)) == "hi"


def test_prompt_files_that_cannot_be_read(tmp_path: Path) -> None:
    binary = tmp_path / "b"
    binary.write_bytes(b"ok\xff")
    for file, said in (
        (binary, "not UTF-8 text .byte 2"),
        (tmp_path, "directory"),
        (tmp_path / "no", "No such"),
    ):
        with pytest.raises(UserError, match=said):
            read_prompt(Prompt(file=file))


def test_prompt_argument_that_is_no_text() -> None:
    with pytest.raises(UserError, match="prompt argument is not UTF-8"):
        read_prompt(Prompt(text="a\udcff"))


class _Stdin(io.TextIOWrapper):
    def __init__(self, data: bytes, tty: bool = False) -> None:
        super().__init__(io.BytesIO(data))
        self._tty = tty

    def isatty(self) -> bool:
        return self._tty


def test_prompt_from_stdin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", _Stdin("h\u00e4\n".encode()))
    assert read_prompt(Prompt()) == "h\u00e4"


@pytest.mark.parametrize(
    ("stdin", "said"),
    [
        (_Stdin(b""), "stdin is empty"),
        (_Stdin(b"\xff"), "not UTF-8"),
        (_Stdin(b"", tty=True), "no prompt: give one as an argument"),
        (None, "no stdin"),
    ],
)
def test_no_prompt_on_stdin(
    stdin: _Stdin | None, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", stdin)
    with pytest.raises(UserError, match=said):
        read_prompt(Prompt())
