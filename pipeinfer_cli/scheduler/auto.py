"""Whether speculation pays, measured while running: for the strategy `auto`."""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from pipeinfer_cli.scheduler.costs.measured import EWMA_DECAY

ASSUMED_NOISE = 0.1  # of a token's time, before there is more than one window to tell


@dataclass(frozen=True, slots=True, kw_only=True)
class AutoSpeculationConfig:
    """Lengths in tokens, unless another unit is given."""

    n_settle: int = 2  # after speculation has begun, until the pipeline is full
    n_start: int = 2  # without speculation, at the beginning
    n_probe_plain: int = 4
    n_probe_speculation: int = 16
    n_window: int = 6  # of which a rate is taken
    n_hold: int = 32  # with the better way, at least
    n_hold_max: int = 2048
    probe_share: float = 0.02  # of the time: what probing the worse way may cost
    poor_gain: float = 0.95  # expected of speculation: that little and a slow window end it
    good_gain: float = 1.1  # expected of speculation: that much and slow windows need be three


class Pace:
    """Seconds per token in one way of decoding: a mean over windows that fades, and its error."""

    def __init__(self) -> None:
        self._n_tokens = self._seconds = 0.0
        self._n_windows = self._deviation = 0.0
        self.n_fresh = 0  # windows since the mean was last faded

    @property
    def is_known(self) -> bool:
        """Whether anything was measured."""
        return self._n_tokens > 0

    @property
    def mean_s(self) -> float:
        """Per token."""
        return self._seconds / self._n_tokens

    @property
    def error_s(self) -> float:
        """The standard error of the mean: from how much the windows differ."""
        assumed = (ASSUMED_NOISE * self.mean_s) ** 2 * self._n_tokens / self._n_windows
        per_token = (self._deviation + assumed) / (self._n_windows + 1)
        return math.sqrt(per_token / self._n_tokens)

    def add(self, n_tokens: int, seconds: float) -> None:
        """One more window."""
        self.fade(EWMA_DECAY)
        self._n_tokens += n_tokens
        self._seconds += seconds
        self._n_windows += 1
        self._deviation += n_tokens * (seconds / n_tokens - self.mean_s) ** 2
        self.n_fresh += 1

    def fade(self, memory: float) -> None:
        """Lets what was measured count less."""
        self._n_tokens *= memory
        self._seconds *= memory
        self._n_windows *= memory
        self._deviation *= memory

    def begin_again(self) -> None:
        """Some time has passed: what was measured before counts little."""
        self.fade(0.25)
        self.n_fresh = 0


class Speculator(Protocol):
    """What AutoSpeculation needs of scheduler.Scheduler."""

    @property
    def n_drafted(self) -> int:
        """Drafted tokens that are neither confirmed nor refuted yet."""

    def set_speculating(self, is_on: bool) -> None:
        """Switches to plain decoding, or back."""


class _Phase(enum.Enum):
    START = enum.auto()
    PROBE = enum.auto()
    HOLD = enum.auto()


class AutoSpeculation:
    """Switches speculation on and off: compares measured times per token, and keeps the better way.

    It begins with a few tokens without speculation, then speculates. Each way is tried again once
    in a while: so rarely that it costs `probe_share` of the time, by the difference of the two.
    Speculation ends early if it is slower by more than the error of the means, or if it is slower
    and acceptance and costs do not promise anything better.

    It may outlive a text: the next one begins the better way. It is told of decided tokens and of
    the time at which they were decided, and knows no clock.
    """

    def __init__(self, config: AutoSpeculationConfig | None = None) -> None:
        self._config = config or AutoSpeculationConfig()
        self._paces = {False: Pace(), True: Pace()}  # without and with speculation
        self.is_speculating = False
        self._phase, self._n_left = _Phase.START, self._config.n_start
        self._n_settle = 0
        self._n_since = 0  # tokens since the last change; at most as many as a probe has
        # the window under way; it begins at a token, which does not count
        self._n_tokens = 0
        self._start_s: float | None = None

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
        """Tokens of these requests were decided: switches speculation of all on or off."""
        n_drafted = sum(each.n_drafted for each in schedulers)
        self.on_tokens(n_tokens, now_s, gain=gain, n_drafted=n_drafted)
        for each in schedulers:
            each.set_speculating(self.is_speculating)

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
        self._n_left -= n_tokens
        is_hopeless = self.is_speculating and self._is_hopeless(now_s - self._start_s, gain)
        if is_hopeless or self._n_left <= 0 or self._n_tokens >= self._config.n_window:
            self._paces[self.is_speculating].add(self._n_tokens, now_s - self._start_s)
            self._n_tokens, self._start_s = 0, now_s
        if is_hopeless or (self.is_speculating and self._is_losing(gain)):
            self._hold(is_speculating=False)
        elif self._n_left <= 0:
            self._next_phase()

    def _is_hopeless(self, elapsed_s: float, gain: float | None) -> bool:
        """Nothing is expected of speculation, and what there is of a window is slow, too."""
        is_slow = elapsed_s > self._n_tokens * self._paces[False].mean_s
        return is_slow and gain is not None and gain < self._config.poor_gain

    def _is_losing(self, gain: float | None) -> bool:
        """Its windows are slower than plain decoding's, and that is not noise."""
        plain, speculation = self._paces[False], self._paces[True]
        is_promising = gain is not None and gain > self._config.good_gain
        if speculation.n_fresh < (3 if is_promising else 1):
            return False
        error_s = math.hypot(plain.error_s, speculation.error_s)
        return speculation.mean_s > plain.mean_s + error_s

    def _next_phase(self) -> None:
        if self._phase is _Phase.PROBE:
            self._hold(is_speculating=self._paces[True].mean_s < self._paces[False].mean_s)
        else:
            self._probe(is_speculating=not self.is_speculating)

    def _probe(self, *, is_speculating: bool) -> None:
        config = self._config
        self._paces[is_speculating].begin_again()
        n_tokens = config.n_probe_speculation if is_speculating else config.n_probe_plain
        self._enter(_Phase.PROBE, is_speculating=is_speculating, n_tokens=n_tokens)

    def _hold(self, *, is_speculating: bool) -> None:
        """Until a probe of the other way costs no more than its share of the time since."""
        config = self._config
        n_probe = (
            config.n_probe_plain if is_speculating else max(self._n_since, config.n_probe_plain)
        )
        loss = self._paces[not is_speculating].mean_s / self._paces[is_speculating].mean_s - 1
        n_tokens = int((config.n_settle + n_probe) * loss / config.probe_share)
        n_tokens = min(max(n_tokens, config.n_hold), config.n_hold_max)
        self._enter(_Phase.HOLD, is_speculating=is_speculating, n_tokens=n_tokens)

    def _enter(self, phase: _Phase, *, is_speculating: bool, n_tokens: int) -> None:
        if is_speculating != self.is_speculating:
            self._n_settle = self._config.n_settle if is_speculating else 1
            self._n_tokens, self._start_s = 0, None
            self._n_since = 0
        self._phase, self.is_speculating, self._n_left = phase, is_speculating, n_tokens
