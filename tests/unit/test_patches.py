"""The shape of the patch queue: what would make the pin costly to move."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

QUEUE = tuple(sorted((Path(__file__).parents[2] / "native/patches").glob("*.patch")))
MAX_LINES = 10  # of an addition to an upstream file; more is a body, and belongs in a file of ours


@dataclass(frozen=True)
class Addition:
    """Lines that a patch adds in one place, and the lines around them."""

    path: str
    added: tuple[str, ...]
    before: str
    after: str
    replaces: bool

    @property
    def parts_comment(self) -> bool:
        """Whether a comment stood directly above what is now below the addition."""
        if self.replaces or self.added[-1].lstrip().startswith("//"):
            return False
        return self.before.lstrip().startswith("//") and bool(self.after.strip(" /"))


def additions(patch: str) -> Iterator[Addition]:
    """The additions to files that the patch does not create, in their order."""
    for section in re.split(r"^diff --git ", patch, flags=re.MULTILINE)[1:]:
        path = section.split()[1].removeprefix("b/")
        if "\nnew file mode" in section:
            continue
        for hunk in re.split(r"^@@ .*\n", section, flags=re.MULTILINE)[1:]:
            kinds = "".join(line[:1] or " " for line in hunk.splitlines())
            lines = [line[1:] for line in hunk.splitlines()]
            for run in re.finditer(r"(-*)(\++)(-*)", kinds):
                start, end = run.span(2)
                yield Addition(
                    path,
                    tuple(lines[start:end]),
                    lines[start - 1] if start else "",
                    lines[end] if end < len(lines) else "",
                    bool(run[1] or run[3]),
                )


def created(patches: tuple[Path, ...]) -> set[str]:
    """The files that the queue adds to llama.cpp: ours."""
    pattern = re.compile(r"^diff --git \S+ b/(\S+)\nnew file mode", re.MULTILINE)
    return {name for patch in patches for name in pattern.findall(patch.read_text())}


@pytest.mark.parametrize("patch", QUEUE, ids=lambda path: path.name[:4])
def test_changes_of_upstream_files_are_hooks(patch: Path) -> None:
    ours = created(QUEUE)
    for addition in additions(patch.read_text()):
        if addition.path not in ours:
            assert len(addition.added) <= MAX_LINES, addition
            assert not addition.parts_comment, addition


def test_the_queue_is_numbered_as_the_docs_say() -> None:
    assert [path.name[:4] for path in QUEUE] == [f"{i + 1:04}" for i in range(len(QUEUE))]
    subjects = {path.name[:4]: path.read_text() for path in QUEUE}
    assert "LLAMA_STAGE_ARCHS" in subjects["0001"]  # CONTRIBUTING.md, exactness.md
    assert "columns-q8_0.h" in subjects["0005"]
    assert "columns-repack.h" in subjects["0006"]
    assert "llama_memory_compact" in subjects["0007"]
    assert "attention.cpp" in subjects["0011"]


HOOK = """diff --git a/src/a.cpp b/src/a.cpp
index 1..2 100644
--- a/src/a.cpp
+++ b/src/a.cpp
@@ -1,3 +1,4 @@
 one
{before}
+hook
{after}
"""


@pytest.mark.parametrize(
    ("before", "after", "parts"),
    [
        (" // of f", " void f();", True),
        (" // of f", " ", False),
        (" // of f", "-void f();", False),
        (" ", " void f();", False),
        (" // of f", "+// and more of it\n void f();", False),
    ],
)
def test_an_addition_between_a_comment_and_its_function_is_noticed(
    before: str, after: str, parts: bool
) -> None:
    (addition,) = additions(HOOK.format(before=before, after=after))
    assert addition.added[0] == "hook"
    assert addition.parts_comment is parts
