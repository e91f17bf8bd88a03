"""What was learned of a target and its draft model, kept in the cache from one job to the next.

It only changes what is drafted and fed. A file that cannot be read or written is as good as none.
"""

from __future__ import annotations

import functools
import json
import os
from pathlib import Path

from pipeinfer_cli.errors import PipeinferError
from pipeinfer_cli.files import replaced
from pipeinfer_cli.models.catalogue import cache_dir
from pipeinfer_cli.models.shards import digest_of, file_digest
from pipeinfer_cli.scheduler.speculation.confidence import Confidence

FOLDER = "pairs"
FORMAT = 2  # 1 had counts by probability and rank
LEAST_NEWS = 16  # decided tokens: less of them are not worth a file


def load(target: Path, draft: Path, changes: str = "") -> Confidence:
    """What earlier jobs have learned; nothing if there is nothing of use.

    `changes` tells what makes the target's texts others than those of its file.
    """
    try:
        kept = json.loads(_path(target, draft, changes).read_text(encoding="utf-8"))
        return Confidence(kept["known"]) if kept["format"] == FORMAT else Confidence()
    except (OSError, PipeinferError, ValueError, KeyError, TypeError, RecursionError):
        return Confidence()


def keep(target: Path, draft: Path, confidence: Confidence, changes: str = "") -> None:
    """Keeps it for later jobs, if it has learned enough since it was loaded or kept."""
    if confidence.n_decided < LEAST_NEWS:
        return
    confidence.n_decided = 0
    text = json.dumps({"format": FORMAT, "known": confidence.known})
    try:
        with replaced(_path(target, draft, changes)) as unfinished:
            unfinished.write_text(text, encoding="utf-8")
    except (OSError, PipeinferError):
        return  # a full or read-only cache


def _path(target: Path, draft: Path, changes: str) -> Path:
    return cache_dir(os.environ) / FOLDER / f"{_name(target, draft, changes)}.json"


@functools.cache  # every request asks
def _name(target: Path, draft: Path, changes: str) -> str:
    return digest_of(" ".join(filter(None, [file_digest(target), file_digest(draft), changes])))
