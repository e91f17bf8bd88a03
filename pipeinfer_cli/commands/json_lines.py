"""Files with an object of JSON in each line: a batch's items, a bench's prompts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

BOM = b"\xef\xbb\xbf"


def split(data: bytes) -> list[tuple[int, bytes]]:
    """The lines that are not blank, with their numbers from 1; see `received`."""
    pieces = iter((data, b""))
    return list(received(lambda: next(pieces)))


def received(read: Callable[[], bytes]) -> Iterator[tuple[int, bytes]]:
    """The lines that are not blank, with their numbers from 1, each as soon as it is whole.

    `read` gives the next bytes, none at the end. Only a newline ends a line: JSON may have other
    characters that separate lines in its texts.
    """
    number, parts = 0, [b""]
    is_over = False
    while not is_over:
        data = read()
        is_over = not data
        *whole, rest = data.split(b"\n")
        lines = [b"".join([*parts, whole[0]]), *whole[1:]] if whole else []
        parts = [rest] if whole else [*parts, rest]
        if is_over:
            lines.append(b"".join(parts))
        for line in lines:
            number += 1
            if number == 1:
                line = line.removeprefix(BOM)  # noqa: PLW2901
            if line.strip():
                yield number, line


def parse(line: bytes) -> dict[str, Any]:
    """The line's object, all of it text that can be encoded. ValueError says what is wrong."""
    try:
        fields = json.loads(line.decode())
        if b"\\u" in line:
            json.dumps(fields, ensure_ascii=False).encode()
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 (byte {error.start} of the line)") from None
    except UnicodeEncodeError:
        raise ValueError("half of a surrogate pair (\\u...) is not a character") from None
    except RecursionError:
        raise ValueError("not usable: nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"not JSON: {error}") from None
    if not isinstance(fields, dict):
        raise ValueError("not a JSON object: each line is one, in {}")
    return fields
