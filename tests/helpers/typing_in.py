"""`typing_in.py KIND`: shows each message of a terminal in JSON on stdout.

The kind `plain` does without prompt_toolkit.
"""

import json
import sys

from pipeinfer_cli.cli import main
from pipeinfer_cli.commands.chat.lines import read_line
from pipeinfer_cli.launch import signals


def show() -> int:
    while (message := read_line()) is not None:
        print(json.dumps(message), flush=True)
    return 0


if __name__ == "__main__":
    if "plain" in sys.argv:
        sys.modules["prompt_toolkit"] = None  # type: ignore[assignment]  # an ImportError
    signals.raise_on_signals()
    sys.exit(main.guard(show, verbose=False))
