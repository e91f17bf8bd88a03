"""Whether a draft model's vocabulary fits the target's, and which token ids both know."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeinfer_cli.engine.vocab import TYPES, Entry
from pipeinfer_cli.errors import UserError

ABSENT: Entry = (b"", 0)
UNUSED = next(bit for bit, name in TYPES.items() if name == "unused")
# What is put behind a finished vocabulary: padding, and tokens that a fine-tuned model has more.
ADDED = [bit for bit, name in TYPES.items() if name in ("unused", "control", "user-defined")]


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedVocab:
    """The token ids `[0, n_shared)` mean the same to both; the draft may propose no others."""

    n_shared: int
    note: str = ""  # for people, if that is not all of both


def share(target: Sequence[Entry], draft: Sequence[Entry], path: Path) -> SharedVocab:
    """Compares texts and types of all tokens. `path` is the draft's file.

    From the first difference on, one of the two must have nothing, or a token that is not used.
    What only one has must be padding, or an added token: control or user-defined. UserError, with
    the first token where that is not so.
    """
    pairs = list(itertools.zip_longest(target, draft, fillvalue=ABSENT))
    n_shared = next((i for i, (a, b) in enumerate(pairs) if a != b), len(pairs))
    for token in range(n_shared, len(pairs)):
        ours, theirs = pairs[token]
        if ours != theirs and not _is_near(ours, theirs):
            raise UserError(
                f"the draft model {str(path)!r} has a different vocabulary: token {token} is "
                f"{_shown(theirs)}, the target's is {_shown(ours)}: use a draft model with the "
                "target's vocabulary (-md)"
            )
    if n_shared == len(pairs):
        return SharedVocab(n_shared=n_shared)
    note = (
        f"the draft model has {len(draft)} tokens, the target {len(target)}: they share the first "
        f"{n_shared}, and only those are drafted"
    )
    return SharedVocab(n_shared=n_shared, note=note)


def _is_near(ours: Entry, theirs: Entry) -> bool:
    kinds = [kind for entry in (ours, theirs) if (kind := entry[1]) != UNUSED and entry != ABSENT]
    return not kinds or (len(kinds) == 1 and kinds[0] in ADDED)


def _shown(entry: Entry) -> str:
    if entry == ABSENT:
        return "missing"
    text, kind = entry
    return f"{text.decode(errors='backslashreplace')!r} ({TYPES.get(kind, 'of no type')})"
