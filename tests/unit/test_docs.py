"""The documentation: generated parts are up to date, links resolve, the README stays short."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import check_layout
import exactness_table
import write_docs

ROOT = write_docs.ROOT
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
LINK = re.compile(r"\]\(([^)\s]+)\)")
CODE = re.compile(r"^```.*?^```$|`[^`\n]*`", re.MULTILINE | re.DOTALL)
MAX_README_LINES = 150


def test_generated_pages_are_up_to_date() -> None:
    assert write_docs.outdated() == [], "run make docs"


def test_the_tables_of_types_are_those_of_their_tests() -> None:
    text = exactness_table.PAGE.read_text(encoding="utf-8")
    assert text == exactness_table.page(text), "run make docs-types"


def test_every_type_has_a_verdict() -> None:
    _, *weights = exactness_table.weights()
    _, *caches = exactness_table.caches()
    assert {cell for row in weights for cell in row[1:-1]} <= {"exact", "warned", "refused"}
    assert {cell for row in caches for cell in row[2:]} <= {"exact", "warned"}


def test_the_terminal_does_not_change_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    pages = set()
    for columns in ("40", "200"):
        monkeypatch.setenv("COLUMNS", columns)
        pages.add(write_docs.cli_page())
    assert len(pages) == 1


def test_the_reference_has_all_commands() -> None:
    page = write_docs.cli_page()
    for command in ("generate", "chat", "bench", "simulate", "shard", "doctor", "models pull"):
        assert f"\n## pipeinfer {command}\n" in page
    assert "`-n, --n-predict N`" in page
    assert page.index("| `--version` |") < page.index("## pipeinfer generate")


def test_the_tree_has_the_order_of_the_layers() -> None:
    folders = re.findall(r"^  (\w+)/ ", write_docs.tree(), re.MULTILINE)
    assert tuple(folders) == check_layout.LAYERS[1:]  # the first is __main__


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= MAX_README_LINES


def test_the_readme_names_every_page() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    named = set(LINK.findall(readme))
    assert {f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")} <= named


def anchors(page: Path) -> set[str]:
    """The fragments of a page's headings, as GitHub makes them."""
    text = re.sub(
        r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL
    )
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_resolve(page: Path) -> None:
    broken = []
    for link in LINK.findall(CODE.sub("", page.read_text(encoding="utf-8"))):
        if link.startswith(("https://", "http://")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []
