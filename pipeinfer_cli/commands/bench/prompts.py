"""The prompts of a bench: a set that comes with the package, or a file of one's own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeinfer_cli.commands import json_lines
from pipeinfer_cli.errors import UserError

PACKAGED = Path(__file__).with_name("prompts.jsonl")
SEPARATOR = "---"


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchPrompt:
    """A text to continue."""

    id: str
    category: str
    text: str


def load(file: str | None) -> tuple[BenchPrompt, ...]:
    """The prompts of a file, or without one the packaged ones. Raises UserError.

    A file that ends in .jsonl or .json has an object per line with `text` and optionally `id` and
    `category`; any other has texts with lines of `---` between them.
    """
    path = Path(file) if file is not None else PACKAGED
    try:
        data = path.read_bytes()
    except OSError as error:
        is_number = str(file).replace(",", "").isdecimal()
        hint = " (in llama-bench it is a number of tokens, here a file)" if is_number else ""
        raise UserError(
            f"cannot read the prompts {str(path)!r}: {error.strerror}: check -p/--prompts{hint}"
        ) from None
    is_jsonl = path.suffix in (".jsonl", ".json")
    prompts = _parse_jsonl(data, path) if is_jsonl else _parse_text(data, path)
    if not prompts:
        raise UserError(f"there are no prompts in {str(path)!r}: check -p/--prompts")
    if len({prompt.id for prompt in prompts}) < len(prompts):
        raise UserError(f"two prompts in {str(path)!r} have the same id: make them different")
    return prompts


def _parse_text(data: bytes, path: Path) -> tuple[BenchPrompt, ...]:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"the prompts {str(path)!r} are not UTF-8 text (byte {error.start})"
        ) from None
    pieces: list[list[str]] = [[]]
    for line in text.replace("\r\n", "\n").split("\n"):
        if line.rstrip() == SEPARATOR:
            pieces.append([])
        else:
            pieces[-1].append(line)
    texts = ["\n".join(lines).strip("\n") for lines in pieces]
    return tuple(
        BenchPrompt(id=str(number), category="", text=each)
        for number, each in enumerate(filter(str.strip, texts), start=1)
    )


def _parse_jsonl(data: bytes, path: Path) -> tuple[BenchPrompt, ...]:
    prompts = []
    for number, line in json_lines.split(data):
        try:
            prompts.append(_prompt(json_lines.parse(line), number))
        except ValueError as error:
            raise UserError(
                f"line {number} of {str(path)!r} is not a prompt: {error}: "
                'give a JSON object with a "text"'
            ) from None
    return tuple(prompts)


def _prompt(fields: Mapping[str, Any], number: int) -> BenchPrompt:
    """The prompt in a line. ValueError says what is wrong."""
    text, name = fields.get("text"), fields.get("id", number)
    category = fields.get("category", "")
    if not isinstance(text, str) or not text.strip():
        raise ValueError("text is missing or empty")
    if not isinstance(name, str | int | float) or isinstance(name, bool):
        raise ValueError("id is neither a string nor a number")
    if not isinstance(category, str):
        raise ValueError("category is not a string")
    return BenchPrompt(id=str(name), category=category, text=text)
