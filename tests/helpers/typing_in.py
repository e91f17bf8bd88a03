"""`typing_in.py KIND`: shows each message of a terminal in JSON on stdout.

The kind `plain` does without prompt_toolkit. After the message `busy` it waits for SIGUSR1.
"""

import json
import signal
import sys

from pipeinfer_cli.cli import main
from pipeinfer_cli.commands.chat.lines import read_line
from pipeinfer_cli.launch import signals

WAIT_S = 60


def show() -> int:
    while (message := read_line()) is not None:
        print(json.dumps(message), flush=True)
        if message == "busy":
            signal.sigtimedwait([signal.SIGUSR1], WAIT_S)
    return 0


if __name__ == "__main__":
    if "plain" in sys.argv:
        sys.modules["prompt_toolkit"] = None  # type: ignore[assignment]  # an ImportError
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    signals.raise_on_signals()
    sys.exit(main.guard(show, verbose=False))
