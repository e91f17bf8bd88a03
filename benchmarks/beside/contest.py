"""Contenders that take turns, and what their samples come to."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median

from beside.machine import Usage

OURS, THEIRS = "pipeinfer", "llama.cpp"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One call: the figure, and what was written."""

    value: float
    text: str | None = None  # of the tokens generated, maybe with more behind them
    token_bytes: tuple[int, ...] = ()  # ours: lengths of the tokens' texts
    note: str = ""


@dataclass(slots=True, kw_only=True)
class Contender:
    """One way to do the work of a contest."""

    name: str
    side: str  # OURS or THEIRS
    measure: Callable[[], Measurement]
    is_check: bool = False  # only shows that texts are the same: never the best of its side
    always: bool = False  # competes even where others of its side were faster in the heat
    samples: list[Measurement] = field(default_factory=list)
    others: list[float] = field(default_factory=list)  # CPUs that others kept busy, by sample

    def take_turn(self) -> Measurement:
        """One call, with what the machine did besides."""
        begin = Usage.now()
        sample = self.measure()
        self.others.append(begin.others_share(Usage.now()))
        self.samples.append(sample)
        return sample

    @property
    def values(self) -> list[float]:
        """The figures, by round."""
        return [sample.value for sample in self.samples]


@dataclass(slots=True, kw_only=True)
class Contest:
    """The same work by several contenders."""

    case: str
    unit: str
    contenders: list[Contender]
    reference: str  # name of the contender that ratios are over
    lower_is_better: bool = False
    n_heat: int = 0  # how many of the heat's fastest compete, of each side; 0: all do
    heat: dict[str, float] = field(default_factory=dict)  # what each had in the heat

    def keep_only(self, pattern: re.Pattern[str]) -> None:
        """Removes the contenders whose names do not match; those that do need no heat."""
        self.contenders = [each for each in self.contenders if pattern.search(each.name)]
        self.n_heat = 0
        if self.contenders and self.reference not in {each.name for each in self.contenders}:
            self.reference = self.contenders[0].name

    def hold(self, n_rounds: int) -> None:
        """All rounds, after a heat where many settings compete."""
        if self.n_heat:
            self._hold_heat()
        for index in range(n_rounds):
            first = index % len(self.contenders)
            for each in self.contenders[first:] + self.contenders[:first]:
                sample = each.take_turn()
                print(
                    f"{self.case}, round {index + 1}, {each.name}: {sample.value:.2f} {self.unit}"
                    f"{', ' + sample.note if sample.note else ''}",
                    file=sys.stderr,
                    flush=True,
                )

    def _hold_heat(self) -> None:
        """One call each; the fastest of each side and those that always compete stay."""
        self.heat = {each.name: each.measure().value for each in self.contenders}
        for name, value in self.heat.items():
            print(f"{self.case}, heat, {name}: {value:.2f} {self.unit}", file=sys.stderr)
        stay: set[str] = {each.name for each in self.contenders if each.always}
        for side in (OURS, THEIRS):
            names = [each.name for each in self.contenders if each.side == side]
            names.sort(key=lambda name: self.heat[name], reverse=not self.lower_is_better)
            stay |= set(names[: self.n_heat])
        self.contenders = [each for each in self.contenders if each.name in stay]
        if self.reference not in stay:
            self.reference = self.best(THEIRS, self.heat)

    def best(self, side: str, values: dict[str, float] | None = None) -> str:
        """Name of the side's best contender; by median unless values are given."""
        if values is None:
            values = {each.name: median(each.values) for each in self.contenders}
        names = [each.name for each in self.contenders if each.side == side and not each.is_check]
        return (min if self.lower_is_better else max)(names, key=lambda name: values[name])

    def named(self, name: str) -> Contender:
        """The contender of that name."""
        return next(each for each in self.contenders if each.name == name)

    def ratio(self, name: str, over: str) -> float:
        """Median of the ratios within a round; above 1 the first one is better."""
        pairs = zip(self.named(name).values, self.named(over).values, strict=True)
        return median(b / a if self.lower_is_better else a / b for a, b in pairs)

    def agreement(self, name: str) -> str:
        """How many of our tokens another's text begins with; empty where there is no text."""
        other = self.named(name).samples[0]
        ours = next((e.samples[0] for e in self.contenders if e.samples[0].token_bytes), None)
        if ours is None or ours.text is None or other.text is None:
            return ""
        n_bytes = common_bytes(ours.text.encode(), other.text.encode())
        return f"{whole_tokens(ours.token_bytes, n_bytes)} of {len(ours.token_bytes)}"


def common_bytes(first: bytes, second: bytes) -> int:
    """How many bytes two texts have in common from the beginning."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(first), len(second)))


def whole_tokens(lengths: Sequence[int], n_bytes: int) -> int:
    """How many tokens of these lengths lie within the first n_bytes."""
    end = 0
    for count, length in enumerate(lengths):
        end += length
        if end > n_bytes:
            return count
    return len(lengths)
