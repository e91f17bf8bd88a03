"""Files with an object of JSON in each line: a batch's items, a bench's prompts."""

from __future__ import annotations

import json
from typing import Any

BOM = b"\xef\xbb\xbf"


def split(data: bytes) -> list[tuple[int, bytes]]:
    """The lines that are not blank, with their numbers from 1.

    Only a newline ends one: JSON may have other characters that separate lines in its texts.
    """
    numbered = enumerate(data.removeprefix(BOM).split(b"\n"), 1)
    return [(number, line) for number, line in numbered if line.strip()]


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
