"""Arguments before typer reads them: llama.cpp's options, what is misspelt, prompts with a -."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer

from pipeinfer_cli.checks import MAX_COUNT
from pipeinfer_cli.cli import options
from pipeinfer_cli.cli.chat import chat
from pipeinfer_cli.cli.generate import generate
from pipeinfer_cli.cli.main import main
from pipeinfer_cli.cli.parsing.command import CheckedCommand
from pipeinfer_cli.cli.parsing.llama_cpp import BY_NAME, OPTIONS, Use, table
from pipeinfer_cli.cli.serve import serve
from pipeinfer_cli.commands.escapes import unescape
from pipeinfer_cli.commands.generate_config import GenerateConfig, Prompt, read_prompt
from pipeinfer_cli.errors import UserError

pytestmark = pytest.mark.usefixtures("keep_signals")
Capture = pytest.CaptureFixture[str]
NAMES = (Path(__file__).parents[1] / "helpers" / "llama_cpp_options.txt").read_text().split()


# What is said of one text, on the command line; a server's requests say it themselves.
OF_ONE_TEXT = {"--format", "--grammar", "--json-schema", "--stats", "--system"}


def own_names(function: Callable[..., Any] = generate) -> set[str]:
    app = typer.Typer()
    app.command(cls=CheckedCommand)(function)
    command: Any = typer.main.get_command(app)
    return {name for param in command.params for name in param.opts if name.startswith("-")}


def run(*args: str) -> int:
    return main(["generate", "-m", "m.gguf", *args])


def test_a_server_takes_what_a_text_and_a_conversation_take() -> None:
    missing = (own_names(generate) & own_names(chat)) - own_names(serve)
    assert {name for name in missing if name.startswith("--")} <= OF_ONE_TEXT


def test_the_table_names_each_option_once() -> None:
    names = [name for each in OPTIONS for name in each.names]
    assert len(names) == len(set(names))
    assert not own_names() & set(BY_NAME)
    assert table().count("\n") == len(OPTIONS) + 1
    ours = {name for each in OPTIONS if each.use is Use.OURS for name in each.names}
    assert ours <= own_names()


@pytest.mark.parametrize("name", NAMES)
def test_no_option_of_llama_cpp_is_misread(
    name: str, configs: list[GenerateConfig], capsys: Capture
) -> None:
    """Each is one of ours, becomes one, is noted, or refused by name: never a part of another."""
    if name in own_names() | {"-h", "--help", "--version"}:
        return
    value = BY_NAME[name].value if name in BY_NAME else ""
    values = {"on|off|auto": "on", "N": "7", "P": "0.5", "T": "0.5"}
    code = run(name, *([values.get(value, "x/y")] if value else []), "the prompt")
    err = capsys.readouterr().err
    if code == 0:
        (config,) = configs
        assert config.prompt.text == "the prompt"
        is_noted = config.notes and config.notes[0].startswith(name)
        assert is_noted or BY_NAME[name].use is Use.RENAMED or name in ("-fa", "--flash-attn")
    elif name in BY_NAME and BY_NAME[name].use is Use.RENAMED:
        ours = f"pipeinfer: error: {BY_NAME[name].becomes}"
        assert err.startswith((f"{ours} ", f"{ours}/"))  # about its value
    else:
        assert (code, err.count("\n")) == (2, 1)
        assert err.startswith(
            (f"pipeinfer: error: {name}", f"pipeinfer: error: no such option: {name}")
        )


@pytest.mark.parametrize(
    ("args", "notes"),
    [
        (["-mg", "1"], ["-mg 1: layers are placed by --gpu-layers and --device: ignored"]),
        (["-ngld", "0"], []),
        (
            ["--main-gpu=1"],
            ["--main-gpu 1: layers are placed by --gpu-layers and --device: ignored"],
        ),
        (["-fa"], ["-fa: flash attention is always on"]),
        (["-fa", "on"], []),
        (["--log-colors"], ["--log-colors: use --log-file FILE"]),
        (["-fa", "off"], ["-fa off: flash attention is always on"]),
        (["-b", "512", "-ub", "512"], ["-b 512: the scheduler", "-ub 512: the scheduler"]),
        (["--repeat-penalty", "1.0", "--presence-penalty", "0", "-ctk", "f16"], []),
        (["--prio", "1", "--prio", "1"], ["--prio 1: "]),
    ],
)
def test_what_has_no_effect_is_noted_once(
    args: list[str], notes: list[str], configs: list[GenerateConfig]
) -> None:
    assert run(*args, "hi") == 0
    (config,) = configs
    assert config.prompt.text == "hi"
    assert len(config.notes) == len(notes)
    assert all(said.startswith(note) for said, note in zip(config.notes, notes, strict=True))


@pytest.mark.parametrize(
    ("args", "types"),
    [
        ([], ("f16", "f16")),
        (["-ctk", "q8_0", "--cache-type-v=iq4_nl"], ("q8_0", "iq4_nl")),
        (["--cache-type-k", "bf16", "-ctkd", "q4_0"], ("bf16", "f16")),
    ],
)
def test_types_of_the_cache(
    args: list[str], types: tuple[str, str], configs: list[GenerateConfig]
) -> None:
    assert run(*args, "hi") == 0
    (config,) = configs
    assert (config.cache_types.k, config.cache_types.v) == types
    assert config.draft_cache_types.k == ("q4_0" if "-ctkd" in args else "f16")
    assert config.notes == ()


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--repeat-penalty", "1.1"], "--repeat-penalty 1.1: the last stage draws"),
        (
            ["-ctk", "q6_K"],
            "-ctk/--cache-type-k 'q6_K': give one of f32, f16, bf16, q8_0, q4_0, q4_1",
        ),
        (["--cache-type-v", "Q8_0"], "-ctv/--cache-type-v 'Q8_0': give one of f32, f16"),
        (["-ctvd", "x"], "-ctvd/--cache-type-v-draft 'x': give one of f32, f16"),
        (["-mu", "https://x/y"], "-mu https://x/y: fetch the file"),
        (["-j", "{}", "--grammar", "x"], "--grammar cannot be combined with --json-schema"),
        (["-j", "{}", "--ignore-eos"], "--ignore-eos cannot be combined with --json-schema, which"),
        (["-cnv"], "-cnv: use pipeinfer chat"),
        (["--override-kv"], "--override-kv requires a value: LIST"),
        (["--tmep", "1"], "no such option: --tmep (did you mean --temp?)"),
        (["-fx.txt"], "no such option: -fx.txt"),
        (["-n=64"], "-n=64: give -n 64, without ="),
        (
            ["-Hello there"],
            "no such option: -Hello there; a prompt that begins with - is given by -p",
        ),
        (["-n", "0"], "-n/--n-predict 0: a prompt that is only computed has no output"),
        (["-n", "-3"], "-n/--n-predict -3"),
        (["-c", "-1"], "-c/--ctx-size -1"),
        (["-p", "a", "b"], "-p/--prompt cannot be combined with a prompt argument"),
        (["-p", "a", "-f", "b"], "one of them"),
        (["--seed", "-2"], "--seed -2"),
        (["--temp"], "requires an argument"),
    ],
)
def test_what_is_refused_is_one_right_line(args: list[str], said: str, capsys: Capture) -> None:
    assert run(*args) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert said in err


@pytest.mark.parametrize(
    ("args", "field", "value"),
    [
        (["-p", "-5 degrees"], "prompt", Prompt(text="-5 degrees")),
        (["--", "-5 degrees"], "prompt", Prompt(text="-5 degrees")),
        (["--prompt=a=b"], "prompt", Prompt(text="a=b")),
        (["-n64", "hi"], "n_predict", 64),
        (["-n", "-1", "hi"], "n_predict", MAX_COUNT),
        (["--predict", "-2", "hi"], "n_predict", MAX_COUNT),
        (["-c", "0", "hi"], "n_ctx", 0),
        (["--stop", "-ngl", "hi"], "stop", ("-ngl",)),
        (["-r", "a", "-r", "b", "hi"], "stop", ("a", "b")),
        (["-e", "--stop", "\\n\\x41", "-p", "a\\tb"], "stop", ("\nA",)),
        (["-e", "-p", "a\\tb"], "prompt", Prompt(text="a\\tb", escape=True)),
        (["-sys", "s", "-st", "hi"], "system", "s"),
        (["-md", "d", "--draft", "3", "hi"], "draft_model", "d"),
        (["-hfd", "u/r:Q8_0", "hi"], "draft_model", "hf:u/r:Q8_0"),
        (["-td", "3", "hi"], "draft_threads", 3),
    ],
)
def test_arguments_mean_what_llama_cpp_means_by_them(
    args: list[str], field: str, value: object, configs: list[GenerateConfig]
) -> None:
    assert run(*args) == 0
    assert getattr(configs[0], field) == value
    assert configs[0].notes == ()


def test_a_repository_of_the_hub_is_a_model(configs: list[GenerateConfig]) -> None:
    assert main(["generate", "-hf", "u/r", "hi"]) == 0
    assert configs[0].model == "hf:u/r"


def test_a_drawn_seed_is_said_and_differs(configs: list[GenerateConfig]) -> None:
    for _ in range(2):
        assert run("--seed", "-1", "--temp", "1", "hi") == 0
    seeds = [config.sample.seed for config in configs]
    assert seeds[0] != seeds[1]
    assert [config.notes for config in configs] == [
        (f"--seed -1: the seed is {seed}",) for seed in seeds
    ]


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("a\\nb\\r\\t", "a\nb\r\t"),
        ("\\\\n \\' \\\"", "\\n ' \""),
        ("\\x41\\xc3\\xa9", "A\xe9"),
        ("\\q \\x4 \\", "\\q \\x4 \\"),
        ("\\\xe9", "\\\xe9"),
        ("\xe9\ud83d\ude00".encode("utf-16", "surrogatepass").decode("utf-16"), "\xe9\U0001f600"),
    ],
)
def test_escape_sequences(text: str, read: str) -> None:
    assert unescape(text) == read
    assert read_prompt(Prompt(text=text, escape=True)) == read


def test_an_escape_sequence_that_is_not_text() -> None:
    with pytest.raises(UserError, match="the prompt after -e/--escape is not UTF-8"):
        read_prompt(Prompt(text="\\xff", escape=True))


@pytest.mark.parametrize("command", [(), ("generate",), ("chat",), ("bench",), ("models", "list")])
def test_h_is_help(command: tuple[str, ...], capsys: Capture) -> None:
    assert main([*command, "-h"]) == 0
    assert "Usage: pipeinfer" in capsys.readouterr().out


def test_other_commands_are_not_misread_either(capsys: Capture) -> None:
    assert main(["simulate", "-ngl", "99"]) == 2
    assert "no such option: -ngl" in capsys.readouterr().err
    assert main(["models", "show", "x.gguf", "-ngl"]) == 2
    assert "no such option: -ngl" in capsys.readouterr().err


def test_sampling_options_become_one_value() -> None:
    sample = options.sampling(0.5, 1, 0.5, 0.5, 7)
    assert (sample.temperature, sample.seed) == (0.5, 7)
