"""Escape sequences in texts of the command line, as llama.cpp reads them with -e."""

from __future__ import annotations

import re

SEQUENCE = re.compile(rb"\\(?:x([0-9a-fA-F]{2})|(.))", re.DOTALL)
CHARACTERS = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"'": b"'", b'"': b'"', b"\\": b"\\"}


def unescape(text: str) -> str:
    r"""The text with the characters that \n, \r, \t, \', \", \\ and \xHH stand for.

    Other backslashes stay. Bytes that are not UTF-8 become surrogates, as in sys.argv.
    """
    data = text.encode(errors="surrogateescape")
    return SEQUENCE.sub(_character, data).decode(errors="surrogateescape")


def _character(match: re.Match[bytes]) -> bytes:
    if match[1] is not None:
        return bytes.fromhex(match[1].decode())
    return CHARACTERS.get(match[2], match[0])
