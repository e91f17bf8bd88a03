"""A person's messages on a terminal: editing, several lines, history, Ctrl-C."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Protocol

from pipeinfer_cli.commands.chat.history import History, history_path
from pipeinfer_cli.console import USUAL_SIZE
from pipeinfer_cli.errors import Interrupted
from pipeinfer_cli.launch import local_rank

if TYPE_CHECKING:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.application import Application
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

PROMPT, CONTINUATION = "> ", "  "
CONTINUES = "\\"  # a line that ends with it goes on in the next one
AGAIN = "Ctrl-C again, Ctrl-D or /quit ends the conversation; /help lists what else there is"
SIMPLE_TERMINALS = ("dumb", "unknown", "")  # nothing moves their cursor
WAKE_S = 0.2
# Handlers of these may raise, to get out of waiting for a line: see local_input.
HANDLED = (*local_rank.ENDING_SIGNALS, signal.SIGALRM)


class Editor(Protocol):
    """Lets a person edit a message."""

    def edit(self) -> str:
        """The message. EOFError at its end; KeyboardInterrupt or Interrupted by Ctrl-C."""

    def remember(self, message: str) -> None:
        """Adds a message to the history."""


def read_message(say: Callable[[str], None]) -> str | None:
    """The next message, whose bytes may be surrogates; None at the end.

    The first Ctrl-C clears what was typed, and says so by `say`; a second one is raised.
    """
    editor = open_editor()
    was_cleared = False
    while True:
        try:
            message = editor.edit().rstrip("\r\n")
        except EOFError:
            return None
        except (KeyboardInterrupt, Interrupted) as interrupt:
            if was_cleared or getattr(interrupt, "signum", signal.SIGINT) != signal.SIGINT:
                raise
            was_cleared = True
            say(AGAIN)
            continue
        if message.strip():
            editor.remember(message)
        return message


@cache
def open_editor() -> Editor:
    """The best one that there is. It is the same all the time: it knows what was typed."""
    history = History(history_path(os.environ))
    if os.environ.get("TERM", "dumb") in SIMPLE_TERMINALS:
        return LineEditor(history)
    try:
        return ToolkitEditor(history)
    except ImportError:
        return LineEditor(history)


class LineEditor:
    """By Python's own input, which edits where there is readline."""

    def __init__(self, history: History) -> None:
        self._history = history
        self._readline: Any = None
        with contextlib.suppress(ImportError):  # not everywhere; lines are plain then
            import readline

            self._readline = readline
            readline.set_auto_history(False)
            readline.parse_and_bind("set enable-bracketed-paste on")
            for message in history.load():
                readline.add_history(message)

    def edit(self) -> str:
        """See Editor."""
        lines = []
        with _terminal_as_stdout(), _woken():
            try:
                lines.append(input(PROMPT))
                while lines[-1].endswith(CONTINUES):
                    lines[-1] = lines[-1].removesuffix(CONTINUES)
                    lines.append(input(CONTINUATION))
            except BaseException:  # the end, or a signal: what is said then begins a line
                print()
                raise
        return "\n".join(lines)

    def remember(self, message: str) -> None:
        """See Editor."""
        self._history.add(message)
        if self._readline is not None:
            self._readline.add_history(message)


class ToolkitEditor:
    """By prompt_toolkit: what is pasted is one message, and Alt-Enter begins another line."""

    def __init__(self, history: History) -> None:
        import prompt_toolkit  # noqa: F401 (ImportError is for the caller)

        self._history = history
        self._session: PromptSession[str] | None = None  # made for the first message

    def edit(self) -> str:
        """See Editor."""
        if self._session is None:
            self._session = self._begin()
        # over the ^C that ended an answer which is not on the terminal
        self._session.output.write_raw("\r")
        with _deferred_to(self._session):
            return str(self._session.prompt(handle_sigint=False))

    def remember(self, message: str) -> None:
        """See Editor. The session's own history has it already."""
        self._history.add(message)

    def _begin(self) -> PromptSession[str]:
        from prompt_toolkit import PromptSession
        from prompt_toolkit.data_structures import Size
        from prompt_toolkit.history import InMemoryHistory
        from prompt_toolkit.input import create_input
        from prompt_toolkit.output.vt100 import Vt100_Output

        # Prompts are not for stdout, which may be a file.
        terminal = os.fdopen(_open_terminal(), "w", encoding="utf-8")

        def size() -> Size:
            found = os.get_terminal_size(terminal.fileno())
            return Size(
                rows=found.lines or USUAL_SIZE.lines, columns=found.columns or USUAL_SIZE.columns
            )

        return PromptSession(
            PROMPT,
            multiline=True,
            prompt_continuation=CONTINUATION,
            key_bindings=_key_bindings(),
            history=InMemoryHistory(self._history.load()),
            input=create_input(sys.stdin),
            # Not asked where the cursor is: terminals behind slow links answer too late.
            output=Vt100_Output(terminal, size, term=os.environ.get("TERM"), enable_cpr=False),
        )


def _key_bindings() -> KeyBindings:
    from prompt_toolkit.key_binding import KeyBindings

    keys = KeyBindings()

    # A terminal that was left to itself during an answer has made c-j of Enter.
    @keys.add("enter")
    @keys.add("c-j")
    def _enter(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if buffer.document.is_cursor_at_the_end and buffer.text.endswith(CONTINUES):
            buffer.delete_before_cursor()
            buffer.insert_text("\n")
        else:
            buffer.validate_and_handle()

    @keys.add("c-c")
    def _clear(event: KeyPressEvent) -> None:
        if event.current_buffer.text:
            event.current_buffer.reset()
        else:
            event.app.exit(exception=KeyboardInterrupt)

    @keys.add("escape", "enter")
    @keys.add("escape", "c-j")
    def _new_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    return keys


@contextlib.contextmanager
def _deferred_to(session: PromptSession[str]) -> Iterator[None]:
    """While the block runs, what handlers of signals raise ends the prompt in good order.

    Raised in the midst of its loop it would leave the terminal in raw mode.
    """
    handlers = {signum: signal.getsignal(signum) for signum in HANDLED}
    ours = {signum: each for signum, each in handlers.items() if callable(each)}
    wakeup_fd = signal.set_wakeup_fd(-1)  # the prompt's loop has its own, and leaves none
    try:
        for signum, handler in ours.items():
            signal.signal(signum, partial(_handle, session.app, handler))
        yield
    finally:
        for signum, handler in ours.items():
            signal.signal(signum, handler)
        signal.set_wakeup_fd(wakeup_fd, warn_on_full_buffer=False)


def _handle(
    app: Application[str], handler: Callable[[int, Any], Any], signum: int, frame: Any
) -> None:
    try:
        handler(signum, frame)
    except BaseException as error:
        if not app.is_running or app.loop is None:
            raise
        app.loop.call_soon_threadsafe(_exit, app, error)


def _exit(app: Application[str], error: BaseException) -> None:
    if app.future is not None and not app.future.done():
        app.exit(exception=error)


@contextlib.contextmanager
def _woken() -> Iterator[None]:
    """Interrupts input often: it misses a Ctrl-C that comes just before it waits for a key."""
    if signal.getsignal(signal.SIGALRM) is not signal.SIG_DFL:
        yield  # somebody else does
        return
    signal.signal(signal.SIGALRM, lambda _signum, _frame: None)
    signal.setitimer(signal.ITIMER_REAL, WAKE_S, WAKE_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)


def _open_terminal() -> int:
    """The terminal on stdin, for writing; as stdin has it where it lacks a name (containers)."""
    try:
        return os.open(os.ttyname(sys.stdin.fileno()), os.O_WRONLY)
    except OSError:
        return os.dup(sys.stdin.fileno())


@contextlib.contextmanager
def _terminal_as_stdout() -> Iterator[None]:
    """Python edits lines, and shows prompts, on stdout only: it is the terminal for a moment."""
    if sys.stdout.isatty():
        yield
        return
    terminal = _open_terminal()
    stdout = os.dup(1)
    os.write(terminal, b"\r")  # over the ^C that ended an answer which is not on the terminal
    os.dup2(terminal, 1)
    os.close(terminal)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(stdout, 1)
        os.close(stdout)
