"""The table of CPU variants in docs/exactness.md: products of each type, by each that runs here.

    python tests/helpers/variants_table.py    # writes it; `make docs-variants`

A cell has the beginning of the SHA-256 of the products of 1 to 100 columns, each computed alone:
variants with the same one have the same bits. It is only there if several columns at a time have
these bits, too. Cells of variants that this processor cannot run stay as another one has left them.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import mul_mats
from pipeinfer_cli.engine import abi
from pipeinfer_cli.engine.cpu import variants

PAGE = Path(__file__).parents[2] / "docs" / "exactness.md"
BEGIN, END = "<!-- variants: begin (make docs-variants) -->", "<!-- variants: end -->"
ORDER = ("sse42", "haswell", "alderlake", "skylakex", "cascadelake", "zen4")
DIGITS = 6
DIFFERS = "**differs**"  # several columns at a time from one by one
NOT_RUN, NOT_THERE = "?", "-"
Cells = dict[tuple[str, str], str]  # by row and variant


def rows_of(type_name: str) -> Iterator[tuple[str, list[list[Any]]]]:
    """A type's rows and their cases: as files have the weights, and as the library repacks them.

    One case of each kind of product; the tests of kernels have all.
    """
    cases = list(
        {
            (repacked, kind): [name, repacked, kind, *shape]
            for name, repacked, kind, *shape in mul_mats.cases(type_name)
        }.values()
    )
    yield type_name, [case for case in cases if not case[1]]
    if repacked := [case for case in cases if case[1]]:
        yield f"{type_name}, repacked", repacked


def cell(answers: Sequence[Mapping[str, list[str]] | None]) -> str:
    """What stands in the table for the answers to a row's cases."""
    if None in answers:
        return NOT_THERE
    known = [each for each in answers if each is not None]
    if any(each["alone"] != each["together"] for each in known):
        return DIFFERS
    text = json.dumps([each["alone"] for each in known])
    return hashlib.sha256(text.encode()).hexdigest()[:DIGITS]


def computed(variant: str, type_name: str) -> Cells:
    """The cells of a type, by the installed library of a variant."""
    rows = dict(rows_of(type_name))
    cases = [case for each in rows.values() for case in each]
    backend = abi.lib_dir() / f"{variants.PREFIX}{variant}.so"
    program = [sys.executable, mul_mats.__file__, str(backend), json.dumps(cases)]
    done = subprocess.run(program, check=True, capture_output=True, timeout=600)
    answers = iter(json.loads(done.stdout))
    return {
        (name, variant): cell([next(answers) for _ in row_cases])
        for name, row_cases in rows.items()
    }


def written(page: str) -> Cells:
    """The cells of the page's table."""
    lines = page.partition(BEGIN)[2].partition(END)[0].strip().splitlines()
    rows = [[part.strip(" `") for part in line.strip("| ").split("|")] for line in lines]
    header = rows[0] if rows else []
    return {
        (row[0], variant): text
        for row in rows[2:]
        for variant, text in zip(header[1:], row[1:], strict=True)
    }


def table(cells: Cells) -> str:
    """As Markdown."""
    names = [name for type_name in mul_mats.TYPES for name, _ in rows_of(type_name)]
    rows = [("weights", *ORDER), ("---",) * (1 + len(ORDER))]
    rows += [(name, *(cells.get((name, each), NOT_RUN) for each in ORDER)) for name in names]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main() -> int:
    """Writes it."""
    page = PAGE.read_text(encoding="utf-8")
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{PAGE}: the markers {BEGIN!r} and {END!r} are missing")
    cells = written(page)
    jobs = [(variant, name) for variant in variants.usable() for name in mul_mats.TYPES]
    with ThreadPoolExecutor(2) as pool:
        for found in pool.map(lambda job: computed(*job), jobs):
            cells |= found  # what has been computed outlives an interrupt
            PAGE.write_text(f"{before}{begin}\n{table(cells)}\n{end}{after}", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
