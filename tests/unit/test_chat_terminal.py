"""Messages typed and pasted on a terminal: with prompt_toolkit, and with Python's own input."""

import contextlib
import json
import os
import signal
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeinfer_cli.commands.chat import history
from pipeinfer_cli.commands.chat.history import History, history_path
from pipeinfer_cli.commands.chat.terminal import AGAIN, LineEditor, ToolkitEditor, open_editor
from terminal import Person

PROGRAM = Path(__file__).parents[1] / "helpers" / "typing_in.py"
PASTE = b"\x1b[200~%b\x1b[201~"
N_TRIES, TRY_S = 12, 5
CTRL_C, CTRL_D, UP, ALT_ENTER = b"\x03", b"\x04", b"\x1b[A", b"\x1b\r"


class Typist:
    def __init__(self, kind: str, folder: Path) -> None:
        self._out = folder / "out"
        self.person = Person([sys.executable, str(PROGRAM), kind], self._out)
        self.wait_for_prompt()

    def wait_for_prompt(self) -> None:
        """An empty one, in the last line; not what is left of the last one: keys are read."""
        self.person.wait_until(lambda: self.person.lines[-1:] == [">"] and self.person.reads_keys)

    def wait_for(self, text: str) -> None:
        self.person.wait_until(lambda: any(text in line for line in self.person.lines))

    def recall(self, text: str) -> None:
        """Presses Up until the text is there: the history is read in the background."""
        for _ in range(N_TRIES):
            self.person.type(UP)
            with contextlib.suppress(AssertionError):
                self.person.wait_until(
                    lambda: any(text in line for line in self.person.lines), timeout_s=TRY_S
                )
                return
        raise AssertionError(self.person.lines)

    def go_on(self) -> None:
        """After the message `busy`."""
        self.person.process.send_signal(signal.SIGUSR1)

    def send(self, keys: bytes, meanwhile: Callable[[], None] = lambda: None) -> str:
        """The message that these keys, of which the last one is Enter, make."""
        n_before = len(self.messages)
        self.person.type(keys)
        meanwhile()
        self.person.wait_until(lambda: len(self.messages) > n_before)
        self.wait_for_prompt()
        return self.messages[-1]

    @property
    def messages(self) -> list[str]:
        return [json.loads(line) for line in self._out.read_text().splitlines()]

    def end(self) -> None:
        self.person.type(CTRL_D)
        assert self.person.wait() == 0, self.person.lines


@pytest.fixture(params=["toolkit", "plain"])
def kind(request, monkeypatch, tmp_path):
    monkeypatch.setenv("PIPEINFER_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("INPUTRC", raising=False)
    return request.param


def test_a_pasted_text_is_one_message(kind, tmp_path):
    typist = Typist(kind, tmp_path)
    assert typist.send(PASTE % b"one\n  two\n\nthree\n" + b"\r") == "one\n  two\n\nthree"
    assert typist.send(b"say: " + PASTE % b"a\nb" + b"!\r") == "say: a\nb!"
    typist.end()
    assert len(typist.messages) == 2


def test_a_message_of_several_lines_can_be_typed(kind, tmp_path):
    typist = Typist(kind, tmp_path)
    typist.person.type(b"one\\\r")
    typist.wait_for("> one")
    assert typist.send(b"two\r") == "one\ntwo"
    if kind == "toolkit":
        lines = (b"one", b"two", b"three\r")
        assert typist.send(ALT_ENTER.join(lines)) == "one\ntwo\nthree"
    assert typist.send(b"Hellx\x7fo w\xc3\xb6rld\r") == "Hello wörld"
    typist.end()


def test_what_is_typed_ahead_is_the_next_message(kind, tmp_path):
    """While an answer is written the terminal takes lines, and makes another key of Enter."""
    typist = Typist(kind, tmp_path)
    typist.person.type(b"busy\r")
    typist.person.wait_until(lambda: len(typist.messages) == 1 and not typist.person.reads_keys)
    assert typist.send(b"typed ahead\r", meanwhile=typist.go_on) == "typed ahead"
    typist.end()


def test_the_first_ctrl_c_clears_and_the_second_ends(kind, tmp_path):
    typist = Typist(kind, tmp_path)
    typist.person.type(CTRL_C)
    typist.wait_for(AGAIN[:20])
    typist.wait_for_prompt()
    typist.person.type(b"never")
    typist.wait_for("> never")
    if kind == "toolkit":
        typist.person.type(CTRL_C)
        typist.wait_for_prompt()
        assert typist.send(b"sent\r") == "sent"  # and all begins again
        typist.person.type(CTRL_C)
        typist.person.wait_until(
            lambda: sum(AGAIN[:20] in each for each in typist.person.lines) == 2
        )
        typist.wait_for_prompt()
    typist.person.type(CTRL_C)
    assert typist.person.wait() == 130, typist.person.lines
    assert typist.person.lines[-1] == "pipeinfer: error: interrupted by SIGINT"
    assert "never" not in typist.messages


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_while_a_person_types_restores_the_terminal(kind, signum, tmp_path):
    typist = Typist(kind, tmp_path)
    typist.person.type(b"half")
    typist.wait_for("> half")
    typist.person.process.send_signal(signum)
    if signum == signal.SIGINT:  # as Ctrl-C from elsewhere
        typist.wait_for(AGAIN[:20])
        typist.wait_for_prompt()
        typist.person.process.send_signal(signum)
    assert typist.person.wait() == 128 + signum
    assert typist.person.lines[-1] == f"pipeinfer: error: interrupted by {signum.name}"
    assert not typist.person.is_raw


def test_history_is_that_of_earlier_sessions(kind, tmp_path):
    typist = Typist(kind, tmp_path)
    typist.send(b"first\r")
    typist.send(PASTE % b"second\nof two" + b"\r")
    typist.end()
    typist = Typist(kind, tmp_path)
    typist.recall("of two")
    assert typist.send(b"\r") == "second\nof two"
    typist.end()
    path = tmp_path / "cache" / history.NAME
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert History(path).load() == ["first", "second\nof two", "second\nof two"]


@pytest.mark.parametrize("term", ["xterm", "dumb", None])
def test_a_terminal_that_moves_no_cursor_has_plain_lines(term, monkeypatch):
    monkeypatch.setenv(history.VARIABLE, "")
    if term is None:
        monkeypatch.delenv("TERM", raising=False)
    else:
        monkeypatch.setenv("TERM", term)
    expected = ToolkitEditor if term == "xterm" else LineEditor
    assert type(open_editor.__wrapped__()) is expected


def test_where_the_history_is():
    assert history_path({"PIPEINFER_CACHE": "/c"}) == Path("/c", history.NAME)
    assert history_path({"XDG_CACHE_HOME": "/x"}) == Path("/x/pipeinfer", history.NAME)
    assert history_path({history.VARIABLE: "/mine", "PIPEINFER_CACHE": "/c"}) == Path("/mine")
    assert history_path({history.VARIABLE: ""}) is None


def test_a_long_history_is_shortened(tmp_path, monkeypatch):
    monkeypatch.setattr(history, "MAX_MESSAGES", 10)
    path = tmp_path / "new folder" / "h"
    for number in range(25):
        History(path).add(f"m {number}")
    expected = [f"m {number}" for number in range(15, 25)]
    assert History(path).load() == expected
    assert path.read_bytes().count(b"\n") == 10
    assert History(path).load() == expected
    assert [each.name for each in path.parent.iterdir()] == ["h"]


@pytest.mark.parametrize("content", [b"\xff\n[1]\n\n{\n", b"[" * 100_000, b"\0"])
def test_a_damaged_history_is_no_obstacle(tmp_path, content):
    path = tmp_path / "h"
    path.write_bytes(content + b'\n"good"\n')
    assert History(path).load() == ["good"]


def test_a_history_that_cannot_be_written_is_no_obstacle(tmp_path):
    (tmp_path / "file").touch()
    nowhere = History(tmp_path / "file" / "h")
    nowhere.add("x")
    assert nowhere.load() == []
    History(None).add("x")
    assert History(None).load() == []
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_a_history_is_a_file_of_the_users_own(tmp_path):
    """Not a device, whose rights would be changed, nor a FIFO, which would be waited for."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo, 0o644)
    History(fifo).add("x")
    assert History(fifo).load() == []
    assert stat.S_IMODE(fifo.stat().st_mode) == 0o644
