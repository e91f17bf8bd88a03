"""Downloads of one file over HTTP, continued where an earlier one was interrupted."""

from __future__ import annotations

import http.client
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from pipeinfer_cli import files
from pipeinfer_cli.errors import RunError

CHUNK_BYTES = 1 << 20
TIMEOUT_S = 20
TRIES = 4  # in a row without a byte
PAUSE_S = 1.0
RANGE = re.compile(r"bytes (\d+)-\d+/(\d+)")

Report = Callable[[int], None]


def download(url: str, part: Path, report: Report) -> None:
    """Completes `part`, which may have a beginning already. Call it again after a failure.

    The server's version of the file (its ETag) is kept beside the part: of another version nothing
    is taken over. RunError says what failed.
    """
    tries = TRIES
    while True:
        before = _size(part)
        try:
            if _attempt(url, part, report):
                return
        except urllib.error.HTTPError as error:
            raise RunError(
                f"{url} answers {error.code} {error.reason}: {_hint(error.code)}"
            ) from None
        except (OSError, http.client.HTTPException) as error:
            tries = TRIES if _size(part) > before else tries - 1
            if tries == 0 or _is_unreachable(error):
                reason = getattr(error, "reason", None) or error
                raise RunError(
                    f"{url} cannot be reached, or the download was interrupted ({reason}): check "
                    f"the network; the {_size(part)} bytes received are kept, and the next pull "
                    "continues there"
                ) from None
        time.sleep(PAUSE_S)


def _attempt(url: str, part: Path, report: Report) -> bool:
    """One connection; True if the file is complete."""
    have, tag_file = _size(part), part.with_suffix(".etag")
    tag = tag_file.read_text() if have and tag_file.exists() else ""
    request = urllib.request.Request(url, headers={"User-Agent": "pipeinfer"})
    if tag:
        request.add_header("Range", f"bytes={have}-")
        request.add_header("If-Range", tag)
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code != http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        part.unlink()  # longer than the file: start again
        return False
    with response:
        start, total = _placement(response)
        if start != have:
            start = 0
        if response.status != http.client.PARTIAL_CONTENT or start == 0:
            files.write_text(tag_file, _strong(response.headers.get("ETag")))
        with open(part, "r+b" if start else "wb", opener=files.opener) as out:
            out.seek(start)
            while chunk := response.read(CHUNK_BYTES):
                out.write(chunk)
                report(out.tell())
            done = out.tell()
    if total is not None and done < total:
        raise http.client.IncompleteRead(b"", total - done)
    return True


def _placement(response: http.client.HTTPResponse) -> tuple[int, int | None]:
    """Where in the file the answer begins, and how long the file is, if the server says so."""
    if response.status == http.client.PARTIAL_CONTENT:
        found = RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if found is None:
            raise RunError("the server's answer has no Content-Range: nothing was kept")
        return int(found[1]), int(found[2])
    length = response.headers.get("Content-Length")
    return 0, int(length) if length and length.isdigit() else None


def _strong(tag: str | None) -> str:
    """Only a strong tag says that the bytes are the same."""
    return tag if tag and not tag.startswith("W/") else ""


def _is_unreachable(error: BaseException) -> bool:
    """Whether nobody was there at all: then there is no point in asking again."""
    reason = getattr(error, "reason", error)
    return isinstance(error, urllib.error.URLError) and isinstance(reason, OSError)


def _hint(code: int) -> str:
    if code in (401, 403):
        return "it requires a permission: fetch it yourself, and give -m its path"
    return "check the address in models.toml"


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
