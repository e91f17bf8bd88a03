"""What people read is plain English: help, errors and pages, checked for banned constructions."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import write_docs

ROOT = write_docs.ROOT
PACKAGE = ROOT / write_docs.PACKAGE
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
# What is called with a text that reaches a terminal or a log; other errors end in one of these.
SPEAKERS = re.compile(r"(Error|_foreign|damaged|note|print|Option|Argument|Command|Check)$")

BANNED = {
    r"(?<!there )\b(is|are|was) no (?!longer)": "write: is not a ...",
    r"\bhas no end\b": "write: is truncated",
    r"\bso many\b": "write: n, or as many",
    r"\bfor so long\b": "write: for this long",
    r"\banew\b": "write: again",
    r"\b(gets?|got|getting) on\b": "write: makes progress",
    r"\b(go|goes|going) on\b": "write: continues",
    r"--[a-z][a-z-]* without --[a-z-]+:": "write: --x requires --y",
    r"\bname (it|the \w+|a \w+( of \w+)?), too\b": "write: --x requires --y",
    r"\b(were )?both given\b": "write: cannot be combined with",
    r"\bthat (is|are) not there\b": "write: missing, or say what it is",
    r"\bsays? it all\b": "write: cannot be combined with",
    r"\bordinary file\b": "write: regular file",
    r"\bmakes? no sense\b": "write: is invalid",
    r"\b(broke|breaks) off\b": "write: was interrupted",
    r"\bmeanwhile\b": "say when",
    r"\bof (his|her|its|their|our|my) own words\b": "write: messages",
    r"\b[Ss]ay (more )?on stderr\b": "write: print to stderr",
    r"\b[Ss]ay where\b": "write: report where",
    r"\bat most\b(?! [\w{(`])": "put the bound before the noun: at most N tokens",
}


def problems(text: str) -> list[str]:
    """What is wrong with a text."""
    flat = " ".join(text.split())
    return [
        f"{flat!r}: {why}"
        for banned, why in BANNED.items()
        if re.search(banned, flat, re.IGNORECASE)
    ]


def spoken(path: Path) -> Iterator[tuple[int, str]]:
    """The strings of a module that reach people, and their lines; {} for what is put in."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        called = node.func
        name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
        if SPEAKERS.search(name):
            for argument in (*node.args, *(each.value for each in node.keywords)):
                yield from ((node.lineno, text) for text in _strings(argument))


def _strings(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.JoinedStr):
        parts = [each.value if isinstance(each, ast.Constant) else "{}" for each in node.values]
        yield "".join(map(str, parts))
    elif isinstance(node, ast.Constant):
        if isinstance(node.value, str):
            yield node.value
    else:
        for child in ast.iter_child_nodes(node):
            yield from _strings(child)


@pytest.mark.parametrize(
    "text",
    [
        "'x' is no shard: make shards",
        "the line has no end",
        "computes run 7 and does not get on",
        "--plot-window without --plot: name the picture, too",
        "a prompt and -f were both given",
        "Tokens to generate at most.",
        "With --prompts: requests in the pipeline at once, at most.",
        "Say on stderr how fast it was.",
    ],
)
def test_what_is_banned_is_found(text: str) -> None:
    assert problems(text)


@pytest.mark.parametrize(
    "text",
    [
        "there is no such folder",
        "the shard is no longer needed",
        "use an instruct model, or generate without --chat and a prompt",
        "at most 8 tokens",
        "the model has no chat template",
    ],
)
def test_what_is_idiomatic_passes(text: str) -> None:
    assert problems(text) == []


def test_messages_are_plain() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}: {problem}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for line, text in spoken(path)
        for problem in problems(text)
    ]
    assert found == []


def test_help_is_plain() -> None:
    assert [found for line in write_docs.cli_page().split("\n") for found in problems(line)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_pages_are_plain(page: Path) -> None:
    text = re.sub(
        r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL
    )
    text = text.partition(write_docs.BEGIN)[0] + text.partition(write_docs.END)[2]
    paragraphs = text.split("\n\n")
    assert [found for each in paragraphs for found in problems(each)] == []
