"""Which drafter to speculate with, if any, measured while running: for the strategy `auto`."""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from pipeinfer_cli.scheduler.costs.pace import WindowedPace

# A way of decoding: the name of the drafter to speculate with, "" of the only one; None: without.
Way = str | None
PLAIN: Way = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AutoSpeculationConfig:
    """Lengths in tokens, unless another unit is given."""

    n_settle: int = 2  # after speculation has begun, until the pipeline is full
    n_start: int = 2  # without speculation, at the beginning
    n_probe_plain: int = 4
    n_probe_speculation: int = 16
    n_window: int = 6  # of which a rate is taken
    n_hold: int = 32  # with the best way, at least
    n_hold_max: int = 2048
    probe_share: float = 0.02  # of the time: what probing the other ways may cost
    poor_gain: float = 0.95  # expected of speculation: that little and a slow window end it
    good_gain: float = 1.1  # expected of speculation: that much and slow windows need be three


class Speculator(Protocol):
    """What AutoSpeculation needs of scheduler.Scheduler."""

    @property
    def n_drafted(self) -> int:
        """Drafted tokens that are neither confirmed nor refuted yet."""

    def speculate(self, way: Way) -> None:
        """Goes on this way."""


class _Phase(enum.Enum):
    START = enum.auto()
    PROBE = enum.auto()
    HOLD = enum.auto()


class AutoSpeculation:
    """Chooses among ways of decoding: compares measured times per token, and keeps the best way.

    It begins with a few tokens without speculation, then tries one drafter after the other. Each
    way is tried again once in a while: so rarely that all of them cost `probe_share` of the time,
    by how much slower they were. A way ends early if it is slower than the best of the others by
    more than the error of the means, or if it is slower than plain decoding and acceptance and
    costs do not promise anything better.

    It may outlive a text: the next one begins the best way. It is told of decided tokens and of
    the time at which they were decided, and knows no clock.
    """

    def __init__(
        self, config: AutoSpeculationConfig | None = None, drafters: Sequence[str] = ("",)
    ) -> None:
        """`drafters`: their names, in the order in which they are tried."""
        self._config = config or AutoSpeculationConfig()
        self._paces: dict[Way, WindowedPace] = {way: WindowedPace() for way in (PLAIN, *drafters)}
        self._n_probed = dict.fromkeys(self._paces, 0)  # tokens of the last probe
        self._n_unused = dict.fromkeys(self._paces, 0)  # tokens since then
        self.way: Way = PLAIN
        self._phase, self._n_left = _Phase.START, self._config.n_start
        self._n_settle = 0
        self._n_since = 0  # tokens since the last change; at most as many as a probe has
        # the window under way; it begins at a token, which does not count
        self._n_tokens = 0
        self._start_s: float | None = None

    @property
    def is_speculating(self) -> bool:
        """Whether it goes any other way than plain decoding."""
        return self.way is not PLAIN

    def begin_text(self) -> None:
        """Another text begins: what was found of those before still holds, but time has passed."""
        self._n_tokens, self._start_s = 0, None
        self._n_settle = self._config.n_settle if self.is_speculating else 1

    def decide(
        self,
        schedulers: Sequence[Speculator],
        n_tokens: int,
        now_s: float,
        *,
        gain: float | None = None,
    ) -> None:
        """Tokens of these requests were decided: all of them go on the way that is chosen."""
        n_drafted = sum(each.n_drafted for each in schedulers)
        self.on_tokens(n_tokens, now_s, gain=gain, n_drafted=n_drafted)
        for each in schedulers:
            each.speculate(self.way)

    def on_tokens(
        self, n_tokens: int, now_s: float, *, gain: float | None = None, n_drafted: int = 0
    ) -> None:
        """Tokens were decided at this time.

        `gain`: the expected speed of speculation over plain decoding; None: unknown. `n_drafted`:
        drafted tokens in flight, which make tokens faster for a while after speculation has ended.
        """
        is_settling = self._n_settle > 0 or (not self.is_speculating and n_drafted > 0)
        if is_settling or self._start_s is None:
            self._n_settle -= n_tokens
            self._start_s = now_s
            return
        self._n_tokens += n_tokens
        self._n_since = min(self._n_since + n_tokens, self._config.n_probe_speculation)
        for way in self._n_unused:
            self._n_unused[way] += n_tokens
        self._n_unused[self.way] = 0
        self._n_left -= n_tokens
        is_hopeless = self.is_speculating and self._is_hopeless(now_s - self._start_s, gain)
        if is_hopeless or self._n_left <= 0 or self._n_tokens >= self._config.n_window:
            self._paces[self.way].add(self._n_tokens, now_s - self._start_s)
            self._n_tokens, self._start_s = 0, now_s
        if is_hopeless or (self.is_speculating and self._is_losing(gain)):
            self._go_on(self._best(way for way in self._paces if way != self.way))
        elif self._n_left <= 0:
            self._next_phase()

    def _is_hopeless(self, elapsed_s: float, gain: float | None) -> bool:
        """Nothing is expected of speculation, and what there is of a window is slow, too."""
        is_slow = elapsed_s > self._n_tokens * self._paces[PLAIN].mean_s
        return is_slow and gain is not None and gain < self._config.poor_gain

    def _is_losing(self, gain: float | None) -> bool:
        """Its windows are slower than the best other way's, and that is not noise."""
        ours = self._paces[self.way]
        best = self._paces[self._best(way for way in self._paces if way != self.way)]
        is_promising = gain is not None and gain > self._config.good_gain
        if ours.n_fresh < (3 if is_promising else 1):
            return False
        return ours.mean_s > best.mean_s + math.hypot(best.error_s, ours.error_s)

    def _best(self, ways: Iterable[Way]) -> Way:
        """The fastest of those that were tried."""
        return min(
            (way for way in ways if self._paces[way].is_known),
            key=lambda way: self._paces[way].mean_s,
        )

    def _next_phase(self) -> None:
        if self._phase is _Phase.HOLD:
            others = (way for way in self._paces if way != self.way)
            self._probe(min(others, key=self._n_until_probe))
        else:
            self._go_on(self._best(self._paces))

    def _go_on(self, best: Way) -> None:
        """After a probe, or the end of a way: with a drafter that was never tried, if any."""
        untried = [way for way, pace in self._paces.items() if not pace.is_known]
        if untried:
            self._probe(untried[0])
        else:
            self._hold(best)

    def _probe(self, way: Way) -> None:
        config = self._config
        self._paces[way].begin_again()
        n_tokens = config.n_probe_plain if way is PLAIN else config.n_probe_speculation
        self._enter(_Phase.PROBE, way, n_tokens=n_tokens)

    def _hold(self, way: Way) -> None:
        """Until a probe of another way costs no more than its share of the time since."""
        self._n_probed[self.way] = self._n_since
        self._enter(_Phase.HOLD, way, n_tokens=self._config.n_hold_max)
        n_tokens = min(self._n_until_probe(other) for other in self._paces if other != way)
        self._n_left = max(n_tokens, self._config.n_hold)

    def _n_until_probe(self, way: Way) -> int:
        """Tokens until a probe of the way costs no more than its share of the time."""
        config = self._config
        n_probe = config.n_probe_plain
        if way is not PLAIN:
            n_probe = max(self._n_probed[way], n_probe)
        loss = self._paces[way].mean_s / self._paces[self.way].mean_s - 1
        share = config.probe_share / (len(self._paces) - 1)
        n_tokens = int((config.n_settle + n_probe) * loss / share)
        return min(max(n_tokens, config.n_hold), config.n_hold_max) - self._n_unused[way]

    def _enter(self, phase: _Phase, way: Way, *, n_tokens: int) -> None:
        if way != self.way:
            self._n_settle = self._config.n_settle if way is not PLAIN else 1
            self._n_tokens, self._start_s = 0, None
            self._n_since = 0
        self._phase, self.way, self._n_left = phase, way, n_tokens
