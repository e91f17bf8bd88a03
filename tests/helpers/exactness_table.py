"""The tables of types in docs/exactness.md, from what the tests compare.

python tests/helpers/exactness_table.py    # writes them; `make docs-types`
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import mul_mats
from cache_cases import ALL, CUTS, SPLIT, TREES
from pipeinfer_cli.engine.config import CACHE_TYPES, CacheTypes
from pipeinfer_cli.engine.cpu.exactness import EXACT_CACHE_TYPES, WEIGHT_TYPES
from pipeinfer_cli.engine.formats import MAX_TENSOR_TYPES, tensor_type, type_name
from pipeinfer_cli.models.gguf.info import NOT_MULTIPLIED

PAGE = Path(__file__).parents[2] / "docs" / "exactness.md"
BEGIN, END = "<!-- types: begin (make docs-types) -->", "<!-- types: end -->"
ALONE = "one token: the unpatched library's"
TOGETHER = f"1 to {max(mul_mats.SIZES)} tokens: those of each alone"
KINDS = {"experts": "experts", "heads": "a matrix per head"}
Row = Sequence[str]


def weights() -> list[Row]:
    """A row for each type of the library: exact where a test compares it, else what happens."""
    found: list[Row] = [("weights", ALONE, TOGETHER, *KINDS.values(), "repacked")]
    for type_id in range(MAX_TENSOR_TYPES):
        if tensor_type(type_id) is None:
            continue
        name = type_name(type_id)
        if type_id not in WEIGHT_TYPES:
            verdict = "refused" if type_id in NOT_MULTIPLIED else "warned"
            found.append((name, *[verdict] * (2 + len(KINDS)), "-"))
            continue
        cases = mul_mats.cases(name)
        kinds = {kind for _, repacked, kind, *_ in cases if not repacked}
        repacked = any(each for _, each, *_ in cases)
        verdicts = [_verdict(kind in kinds) for kind in KINDS]
        plain = _verdict("plain" in kinds)
        found.append((name, plain, plain, *verdicts, "exact" if repacked else "-"))
    return found


def caches() -> list[Row]:
    """A row for each type that `--cache-type-k` takes."""
    sizes = sorted({size for cut, _, _ in CUTS for size in cut})
    runs = f"runs of {', '.join(map(str, sizes))} tokens"
    header = ("keys or values", "bytes of 32", runs, "compaction", "split, speculation", "trees")
    found: list[Row] = [header]
    for name, type_id in CACHE_TYPES.items():
        block = tensor_type(type_id)
        assert block is not None
        is_exact = name in EXACT_CACHE_TYPES and any(name in (each.k, each.v) for each in ALL)
        alone = _verdict(is_exact)
        default = CacheTypes()
        ranks = [
            _verdict(any(name in pair for pair in (*pairs, (default.k, default.v))))
            for pairs in (SPLIT, TREES)
        ]
        n_elements, n_bytes = block
        found.append((name, str(32 * n_bytes // n_elements), alone, alone, *ranks))
    return found


def _verdict(is_tested: bool) -> str:
    return "exact" if is_tested else "warned"


def _markdown(rows: Iterable[Row]) -> str:
    header, *others = rows
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *others))


def page(text: str) -> str:
    """The page with new tables between its markers."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{PAGE}: the markers {BEGIN!r} and {END!r} are missing")
    tables = f"{_markdown(weights())}\n\n{_markdown(caches())}"
    return f"{before}{BEGIN}\n{tables}\n{END}{after}"


def main() -> int:
    """Writes it."""
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
