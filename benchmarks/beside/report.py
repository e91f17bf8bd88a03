"""Tables in Markdown, and the same as JSON."""

from __future__ import annotations

from statistics import median
from typing import Any

from beside.contest import OURS, THEIRS, Contender, Contest

HEAD = """\
Figures are the median, minimum and maximum over the rounds; contenders took turns. Speeds of
generation are without loading and prompt: of `pipeinfer` tokens/s after the first token, of
`llama-completion` its evaluation and sampling time, of `llama-speculative-simple` and
`llama-lookup` their own "decoded" line. Speeds of prompts are those of the prompt's tokens until
the first token (`pipeinfer`) or the "prompt eval" line; of several prompts at once, all generated
tokens over the time from the first request to the last answer. `ratio` is the median of the ratios
within a round to the contender marked *; above 1 is better. `same tokens`: how many of our tokens
the text begins with. It must be all of them for `llama-completion -b 1` on one thread, which
computes as we do; other batches and thread counts round differently.
"""
COLUMNS = ("case", "contender", "median", "min", "max", "ratio", "same tokens", "notes")


def table(part: str, contests: list[Contest]) -> str:
    """A part's contests in Markdown."""
    unit = contests[0].unit
    lines = [f"\n### {part} ({unit})\n", _row(COLUMNS), _row(["---"] * len(COLUMNS))]
    for contest in contests:
        lines += [_row(_cells(contest, each)) for each in contest.contenders]
        lines += _bests(contest)
    others = [share for each in contests for other in each.contenders for share in other.others]
    lines.append(
        f"\nCPUs kept busy by others during a call: median {median(others):.2f}, "
        f"maximum {max(others):.2f}; calls with more than 0.10: "
        f"{sum(share > 0.1 for share in others)} of {len(others)}."
    )
    return "\n".join(lines)


def _cells(contest: Contest, each: Contender) -> list[str]:
    values = each.values
    mark = " *" if each.name == contest.reference else ""
    return [
        contest.case,
        each.name + mark,
        *(f"{value:.2f}" for value in (median(values), min(values), max(values))),
        f"{contest.ratio(each.name, contest.reference):.3f}",
        contest.agreement(each.name),
        each.samples[-1].note,
    ]


def _bests(contest: Contest) -> list[str]:
    """A line for the best of both sides, where a side has several."""
    sides = [each.side for each in contest.contenders if not each.is_check]
    if len(sides) == len(set(sides)):
        return []
    ours, theirs = contest.best(OURS), contest.best(THEIRS)
    ratio = f"**{contest.ratio(ours, theirs):.3f}**"
    return [_row([contest.case, f"best: {ours} / {theirs}", "", "", "", ratio, "", ""])]


def _row(cells: list[str] | tuple[str, ...]) -> str:
    return f"| {' | '.join(cells)} |"


def as_json(part: str, contest: Contest) -> dict[str, Any]:
    """Everything that a contest has measured."""
    return {
        "part": part,
        "case": contest.case,
        "unit": contest.unit,
        "reference": contest.reference,
        "heat": contest.heat,
        "contenders": [
            {
                "name": each.name,
                "side": each.side,
                "values": each.values,
                "ratio": contest.ratio(each.name, contest.reference),
                "same_tokens": contest.agreement(each.name),
                "notes": [sample.note for sample in each.samples],
                "busy_others": each.others,
            }
            for each in contest.contenders
        ],
    }
