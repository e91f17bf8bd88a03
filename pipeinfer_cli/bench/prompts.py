"""The prompts of a bench: a set that comes with the package, or a file of one's own."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeinfer_cli.errors import UserError

PACKAGED = Path(__file__).with_name("prompts.jsonl")
SEPARATOR = "---"


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchPrompt:
    """A text to go on from."""

    id: str
    category: str
    text: str


def load(file: str | None) -> tuple[BenchPrompt, ...]:
    """The prompts of a file, or without one the packaged ones. Raises UserError.

    A file that ends in .jsonl or .json has an object per line with `text` and maybe `id` and
    `category`; any other has texts with lines of `---` between them.
    """
    path = Path(file) if file is not None else PACKAGED
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"cannot read the prompts {str(path)!r}: {error.strerror}: check -p/--prompts"
        ) from None
    except UnicodeDecodeError as error:
        raise UserError(
            f"the prompts {str(path)!r} are not UTF-8 text (byte {error.start})"
        ) from None
    is_jsonl = path.suffix in (".jsonl", ".json")
    prompts = _parse_jsonl(text, path) if is_jsonl else _parse_text(text)
    if not prompts:
        raise UserError(f"there are no prompts in {str(path)!r}: check -p/--prompts")
    if len({prompt.id for prompt in prompts}) < len(prompts):
        raise UserError(f"two prompts in {str(path)!r} have the same id: make them different")
    return prompts


def _parse_text(text: str) -> tuple[BenchPrompt, ...]:
    pieces: list[list[str]] = [[]]
    for line in text.splitlines():
        if line.rstrip() == SEPARATOR:
            pieces.append([])
        else:
            pieces[-1].append(line)
    texts = ["\n".join(lines).strip("\n") for lines in pieces]
    return tuple(
        BenchPrompt(id=str(number), category="", text=each)
        for number, each in enumerate(filter(str.strip, texts), start=1)
    )


def _parse_jsonl(text: str, path: Path) -> tuple[BenchPrompt, ...]:
    lines = enumerate(text.splitlines(), start=1)
    return tuple(_parse_object(line, path, number) for number, line in lines if line.strip())


def _parse_object(line: str, path: Path, number: int) -> BenchPrompt:
    try:
        fields: Any = json.loads(line)
        text = fields["text"]
        if not isinstance(text, str) or not text.strip():
            raise ValueError("the text is empty")
    except (ValueError, KeyError, TypeError):
        raise UserError(
            f'line {number} of {str(path)!r} is no prompt: give a JSON object with a "text"'
        ) from None
    return BenchPrompt(
        id=str(fields.get("id", number)), category=str(fields.get("category", "")), text=text
    )
