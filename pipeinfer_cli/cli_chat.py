"""The command `pipeinfer chat`."""

from pipeinfer_cli.chat.options import command
from pipeinfer_cli.cli_generate import generate

chat = command(generate)
