"""The configuration of a request, and reading its prompt."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeinfer_cli.commands.generate_config import GenerateConfig, Prompt, read_prompt
from pipeinfer_cli.errors import UserError
from pipeinfer_cli.runtime.config import parse_layer_split
from pipeinfer_cli.scheduler.runs import SampleParams

PROMPT = Prompt(text="hi")


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
        GenerateConfig(model="m", prompt=Prompt(text='":"\n\u20ac\x00')),
    ],
)
def test_json_keeps_everything(config: GenerateConfig) -> None:
    assert GenerateConfig.from_json(config.to_json()) == config


def test_prompt_sources() -> None:
    assert Prompt.from_options(None, None) == Prompt.from_options("-", None) == Prompt()
    assert Prompt.from_options(None, Path("-")) == Prompt()
    with pytest.raises(UserError, match="one of them"):
        Prompt.from_options("a", Path("b"))


def test_prompt_from_file_loses_one_newline(tmp_path: Path) -> None:
    file = tmp_path / "p"
    file.write_bytes("a\r\n\u00e9\n\n".encode())
    assert read_prompt(Prompt(file=file)) == "a\r\n\u00e9\n"


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
        (_Stdin(b"", tty=True), "there is no prompt: give it as an argument"),
        (None, "no stdin"),
    ],
)
def test_no_prompt_on_stdin(
    stdin: _Stdin | None, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", stdin)
    with pytest.raises(UserError, match=said):
        read_prompt(Prompt())
