"""`pipeinfer chat` as a command: its options are generate's, except those for one request."""

import inspect
import signal

import pytest

from pipeinfer_cli.checks import MAX_COUNT
from pipeinfer_cli.cli.chat import chat
from pipeinfer_cli.cli.generate import generate
from pipeinfer_cli.cli.main import main
from pipeinfer_cli.commands.chat import work
from pipeinfer_cli.commands.chat.config import ChatConfig


@pytest.fixture(autouse=True)
def _keep_signals():
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def test_options_become_a_configuration(configs):
    stops = ["--stop", "a", "--stop", "\n\n"]
    assert main(["chat", "-m", "x.gguf", "--system", "Be kind.", "--temp", "0.5", *stops]) == 0
    (config,) = configs
    assert isinstance(config, ChatConfig)
    assert (config.system, config.stop) == ("Be kind.", ("a", "\n\n"))
    assert config.sample.temperature == 0.5
    assert config.n_predict == MAX_COUNT
    assert config.chat


def test_options_are_those_of_generate():
    ours, theirs = (inspect.signature(command).parameters for command in (chat, generate))
    own = {"n_predict", "format_"}  # without a limit here, and without the form of batches
    assert own < set(ours) < set(theirs)
    assert [ours[name] for name in ours if name not in own] == [
        each for name, each in theirs.items() if name in ours and name not in own
    ]


def test_generate_takes_chat_too(configs):
    assert main(["generate", "-m", "x.gguf", "--chat", "--system", "s", "--stop", "b", "Hi"]) == 0
    assert (configs[0].chat, configs[0].system, configs[0].stop) == (True, "s", ("b",))


@pytest.mark.parametrize("option", ["--verify", "--plot=x.svg", "--emulate=x", "-f", "Hello"])
def test_what_makes_no_sense_line_by_line_is_no_option(option, configs, capsys):
    assert main(["chat", "-m", "x.gguf", option]) == 2
    assert option.partition("=")[0] in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "is_command"),
    [("/quit", True), ("/reset  ", True), (" /quit", False), ("/usr/bin is", False), ("/", False)],
)
def test_commands(line, is_command):
    assert bool(work.COMMAND.fullmatch(line)) == is_command
