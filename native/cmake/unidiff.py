"""Apply a `git format-patch` file to files in memory.

A fresh machine may have neither git nor patch. The source is pinned by its hash, so a patch of the
queue fits exactly or is wrong: no searching for a place where it might fit.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator

HUNK = re.compile(rb"@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@")
NO_FILE = b"/dev/null"


class PatchError(Exception):
    """The patch cannot be applied; the message names the file and line."""


def apply_patch(files: dict[str, bytes], patch: bytes) -> None:
    """Change, add and remove the files (path -> content) that the patch names.

    Raises PatchError when a line is not what the patch expects, or for what the queue does not use
    (renames, modes, binary files); the files may then be changed in part.
    """
    lines = _without_newline_markers(io.BytesIO(patch).readlines())
    starts = [i for i, line in enumerate(lines) if line.startswith(b"diff --git ")]
    if not starts:
        raise PatchError("it changes no file")
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        _apply_to_file(files, lines[start:end])


def _without_newline_markers(lines: list[bytes]) -> list[bytes]:
    """Apply the mark "No newline at end of file" to the line before it."""
    result: list[bytes] = []
    for line in lines:
        if line.startswith(b"\\ ") and result:
            result[-1] = result[-1].rstrip(b"\n")
        else:
            result.append(line)
    return result


def _apply_to_file(files: dict[str, bytes], section: list[bytes]) -> None:
    marks = {
        line[:4]: line[4:].strip() for line in reversed(section) if line[:4] in (b"--- ", b"+++ ")
    }
    if len(marks) != 2:
        raise PatchError(f"only text changes are supported: {section[0].decode().strip()}")
    old, new = marks[b"--- "], marks[b"+++ "]
    name = (old if new == NO_FILE else new).decode().partition("/")[2]
    if (name in files) == (old == NO_FILE):
        raise PatchError(f"{name} " + ("exists already" if name in files else "does not exist"))

    source = io.BytesIO(files.get(name, b"")).readlines()
    result: list[bytes] = []
    done = 0  # source lines that are in the result, or removed
    for first_line, before, after in _hunks(name, section):
        # "-5,0" inserts after line 5; "-5,3" replaces from line 5 on.
        at = first_line - 1 if before else first_line
        if at < done or source[at : at + len(before)] != before:
            raise PatchError(f"{name}: the hunk at line {first_line} does not fit")
        result += source[done:at] + after
        done = at + len(before)
    result += source[done:]

    if new == NO_FILE:
        del files[name]
    else:
        files[name] = b"".join(result)


def _hunks(name: str, section: list[bytes]) -> Iterator[tuple[int, list[bytes], list[bytes]]]:
    """Yield (first old line, old lines, new lines) of each hunk, led by its line counts."""
    lines = iter(section)
    for start in lines:
        header = HUNK.match(start)
        if not header:
            continue
        n_before, n_after = int(header[2] or 1), int(header[4] or 1)
        before: list[bytes] = []
        after: list[bytes] = []
        while len(before) < n_before or len(after) < n_after:
            line = next(lines, b"")
            kind, body = line[:1], line[1:]
            if kind not in (b" ", b"-", b"+"):
                raise PatchError(
                    f"{name}: the hunk at line {header[1].decode()} is cut short or miscounted"
                )
            if kind != b"+":
                before.append(body)
            if kind != b"-":
                after.append(body)
        yield int(header[1]), before, after
