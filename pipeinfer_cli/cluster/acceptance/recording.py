"""Recorded acceptance: what a real drafter proposed for each token of a real text."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from reprlib import repr as short
from typing import Any

from pipeinfer_cli import files
from pipeinfer_cli.errors import RunError, UserError

FORMAT = 2  # 1 was a list of booleans: whether the first candidate was right
MAX_CANDIDATES = 8  # for each token; later ones are hardly ever right
ROUNDING = 1e-3  # probabilities are rounded, so that their sum may exceed 1 a little


@dataclass(frozen=True, slots=True)
class RecordedToken:
    """The drafter's candidates for the place of a token, which was decided later."""

    rank: int | None  # the token's among the candidates, 0 the first; None: it is not among them
    probabilities: tuple[float, ...]  # that the drafter gave the candidates; (): it had none

    def __post_init__(self) -> None:
        for value in self.probabilities:
            if not 0 <= value <= 1:
                raise UserError(f"probability {value:g}: give a number from 0 to 1")
        if (total := math.fsum(self.probabilities)) > 1 + ROUNDING:
            raise UserError(f"probabilities with a sum of {total:g}: it must not exceed 1")
        if self.rank is not None and not 0 <= self.rank < len(self.probabilities):
            raise UserError(
                f"rank {self.rank} of {len(self.probabilities)} candidates: give null where the "
                "token is not among them"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """All generated tokens of one or more texts, in their order. Raises UserError."""

    target: str = ""  # a file's name; "": not recorded
    drafter: str = ""
    draft_model: str = ""  # "": the drafter has none
    tokens: tuple[RecordedToken, ...]

    def __post_init__(self) -> None:
        if not self.tokens:
            raise UserError("no tokens: record a text with at least one")

    @property
    def rate(self) -> float:
        """How often the first candidate was right."""
        return sum(token.rank == 0 for token in self.tokens) / len(self.tokens)

    def write(self, path: Path) -> None:
        """Writes what `read` reads, a token per line. RunError."""
        about = {
            "format": FORMAT,
            "target": self.target,
            "drafter": self.drafter,
            "draft_model": self.draft_model,
        }
        tokens = ",\n".join(
            json.dumps({"rank": token.rank, "probabilities": token.probabilities})
            for token in self.tokens
        )
        head = "".join(f"{json.dumps(key)}: {json.dumps(value)},\n" for key, value in about.items())
        try:
            files.write_text(path, f'{{\n{head}"tokens": [\n{tokens}\n]\n}}\n')
        except OSError as error:
            raise RunError(
                f"cannot write the acceptance recording {str(path)!r}: {error.strerror}"
            ) from None


def read(path: Path) -> Recording:
    """A file of this format or of the first one. UserError if it is neither."""
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(
            f"cannot read the acceptance recording {str(path)!r}: {error.strerror}: "
            "give a rate or a file"
        ) from None
    except ValueError as error:
        raise UserError(f"the acceptance recording {str(path)!r} is not JSON: {error}") from None
    except RecursionError:
        raise UserError(f"the acceptance recording {str(path)!r} is nested too deeply") from None
    try:
        return _of_booleans(fields) if isinstance(fields, list) else _of_fields(fields)
    except UserError as error:
        raise UserError(f"the acceptance recording {str(path)!r}: {error}") from None


def _of_booleans(verdicts: list[Any]) -> Recording:
    """A first candidate that was right or not, and as sure as can be: nothing else is known."""
    if not all(isinstance(verdict, bool) for verdict in verdicts):
        raise UserError("not a list of booleans: record it again, with bench --record-acceptance")
    tokens = (RecordedToken(0 if verdict else None, (1.0,)) for verdict in verdicts)
    return Recording(tokens=tuple(tokens))


def _of_fields(fields: Any) -> Recording:
    if not isinstance(fields, dict) or "format" not in fields:
        raise UserError('"format" is missing: record it with bench --record-acceptance')
    if (found := fields["format"]) != FORMAT or isinstance(found, bool):
        raise UserError(f"format {short(found)}, not {FORMAT}: record it with this version")
    names = {key: fields.get(key, "") for key in ("target", "drafter", "draft_model")}
    for key, value in names.items():
        if not isinstance(value, str):
            raise UserError(f"{key} {short(value)}: give a string")
    if not isinstance(tokens := fields.get("tokens"), list):
        raise UserError('"tokens" is not a list: record it with bench --record-acceptance')
    return Recording(
        **names, tokens=tuple(_token(index, each) for index, each in enumerate(tokens))
    )


def _token(index: int, fields: Any) -> RecordedToken:
    if not isinstance(fields, dict) or fields.keys() != {"rank", "probabilities"}:
        raise UserError(f"token {index}: give rank and probabilities")
    rank, values = fields["rank"], fields["probabilities"]
    if rank is not None and (isinstance(rank, bool) or not isinstance(rank, int)):
        raise UserError(f"token {index}: rank {short(rank)}: give a whole number or null")
    if not isinstance(values, list) or not all(map(_is_number, values)):
        raise UserError(f"token {index}: probabilities {short(values)}: give a list of numbers")
    try:
        return RecordedToken(rank, tuple(map(float, values)))
    except UserError as error:
        raise UserError(f"token {index}: {error}") from None
    except OverflowError:
        raise UserError(f"token {index}: a probability is too large") from None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
