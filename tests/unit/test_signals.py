"""Signals: noted while the head generates, raised at other times."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from pipeinfer_cli.errors import RESUME, Interrupted
from pipeinfer_cli.launch import local_rank, signals

pytestmark = pytest.mark.usefixtures("keep_signals")


def receive(signum: signal.Signals) -> None:
    os.kill(os.getpid(), signum)
    time.sleep(1)  # handlers run between two instructions, at the latest here


@pytest.mark.parametrize("signum", signals.SIGNALS)
def test_a_signal_is_noted_and_its_echo_is_none(signum: signal.Signals) -> None:
    with signals.deferred_signals() as stop_request:
        assert not stop_request()
        stop_request.check()
        os.kill(os.getpid(), signum)
        os.kill(os.getpid(), signum)
        assert stop_request()
        with pytest.raises(Interrupted) as raised:
            stop_request.check()
    assert (raised.value.signum, raised.value.exit_code) == (signum, 128 + signum)


def test_a_second_signal_raises_at_once() -> None:
    with signals.deferred_signals() as stop_request:
        os.kill(os.getpid(), signal.SIGUSR1)
        stop_request._since_s -= local_rank.REPEAT_S  # that long ago
        with pytest.raises(Interrupted):
            receive(signal.SIGTERM)


def test_handlers_are_as_before_afterwards_and_ignored_signals_stay_so() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    before = [signal.getsignal(signum) for signum in signals.SIGNALS]
    with signals.deferred_signals() as stop_request:
        os.kill(os.getpid(), signal.SIGHUP)
        assert not stop_request()
    signals.raise_on_signals()
    os.kill(os.getpid(), signal.SIGHUP)
    signal.signal(signal.SIGTERM, before[1])
    signal.signal(signal.SIGUSR1, before[3])
    assert [signal.getsignal(signum) for signum in signals.SIGNALS] == before


def test_at_other_times_a_signal_raises() -> None:
    signals.raise_on_signals()
    for signum in (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP):
        with pytest.raises(Interrupted):
            receive(signum)


def test_in_native_code_signals_kill() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    before = [signal.getsignal(signum) for signum in signals.SIGNALS]
    with signals.default_signal_handlers():
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    assert [signal.getsignal(signum) for signum in signals.SIGNALS] == before


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (KeyboardInterrupt(), os.EX_TEMPFAIL),
        (Interrupted(signal.SIGTERM), os.EX_TEMPFAIL),
        (Interrupted(signal.SIGUSR1, resume="there"), os.EX_TEMPFAIL),
    ],
)
def test_what_can_go_on_says_how(error: BaseException, code: int) -> None:
    with pytest.raises(Interrupted) as raised, signals.resumable("here"):
        raise error
    assert raised.value.exit_code == code == 75
    assert raised.value.resume == (getattr(error, "resume", "") or "here")


def test_what_cannot_go_on_has_the_shells_code() -> None:
    with pytest.raises(Interrupted) as raised, signals.resumable(""):
        raise KeyboardInterrupt
    assert raised.value.exit_code == 130


# Sends a signal to itself as soon as somebody asks for the module named first.
SIGNALLED_IMPORT = """
import os, signal, sys

class Finder:
    def find_spec(self, name, path, target=None):
        if name == sys.argv[1]:
            os.kill(os.getpid(), int(sys.argv[2]))

from pipeinfer_cli.cli.main import main
sys.meta_path.insert(0, Finder())
sys.exit(main(sys.argv[3:]))
"""


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(
    "module", ["typer", "cli.generate", "cli.options.batch_options", "commands.start"]
)
def test_a_signal_while_modules_are_imported_loses_nothing_of_a_batch(
    module: str, signum: signal.Signals
) -> None:
    when = module if module == "typer" else f"pipeinfer_cli.{module}"
    batch = ["generate", "-m", "none.gguf", "--prompts", "in.jsonl", "--output", "out.jsonl"]
    done = subprocess.run(
        [sys.executable, "-c", SIGNALLED_IMPORT, when, str(int(signum)), *batch],
        capture_output=True,
        text=True,
        timeout=60,
    )
    text = f"pipeinfer: error: interrupted by {signum.name}: {RESUME}\n"
    assert (done.returncode, done.stderr) == (os.EX_TEMPFAIL, text)
