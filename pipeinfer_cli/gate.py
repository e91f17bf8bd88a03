"""Whether speculation pays, measured while running: for the strategy `auto`."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class _Phase(enum.Enum):
    PROBE_PLAIN = enum.auto()
    PROBE_SPECULATION = enum.auto()
    HOLD = enum.auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class GateConfig:
    """Lengths of the phases, in tokens."""

    n_settle: int = 2  # after a change, until the pipeline runs in the new way
    n_probe_plain: int = 6
    n_probe_speculation: int = 16
    n_hold: int = 64  # with the better way; doubles each time it is confirmed
    n_hold_max: int = 1024


class Gate:
    """Opens speculation for a while, compares tokens per second, and keeps to the better way.

    It is told of decided tokens and of the time at which they were decided, and knows no clock.
    """

    def __init__(self, config: GateConfig | None = None) -> None:
        self._config = config or GateConfig()
        self._n_hold = self._config.n_hold
        self._rates = {False: 0.0, True: 0.0}  # tokens/s without and with speculation
        self.is_open = False
        self._was_open = False  # before the probe that is under way
        self._enter(_Phase.PROBE_PLAIN, is_open=False, n_tokens=self._config.n_probe_plain)

    def _enter(self, phase: _Phase, *, is_open: bool, n_tokens: int) -> None:
        self._n_settle = self._config.n_settle if is_open != self.is_open else 0
        self._phase, self.is_open, self._n_left = phase, is_open, n_tokens
        self._n_counted = 0
        self._start_s: float | None = None

    def on_tokens(self, n_tokens: int, now_s: float) -> None:
        """So many tokens were decided at this time."""
        if self._n_settle > 0:
            self._n_settle -= n_tokens
            return
        if self._start_s is None:
            self._start_s = now_s  # the clock starts at a token, that does not count
            return
        self._n_counted += n_tokens
        if self._n_counted >= self._n_left:
            elapsed_s = max(now_s - self._start_s, 1e-9)
            self._rates[self.is_open] = self._n_counted / elapsed_s
            self._next_phase()

    def _next_phase(self) -> None:
        if self._phase is _Phase.PROBE_PLAIN and not self._rates[True]:
            self._probe(speculation=True)
        elif self._phase is _Phase.HOLD:
            self._probe(speculation=not self.is_open)
        else:
            self._hold(is_open=self._rates[True] > self._rates[False])

    def _probe(self, *, speculation: bool) -> None:
        if speculation:
            n_tokens = self._config.n_probe_speculation
            self._enter(_Phase.PROBE_SPECULATION, is_open=True, n_tokens=n_tokens)
        else:
            self._enter(_Phase.PROBE_PLAIN, is_open=False, n_tokens=self._config.n_probe_plain)
        self._was_open = not speculation

    def _hold(self, *, is_open: bool) -> None:
        is_confirmed = is_open == self._was_open
        self._n_hold = (
            min(2 * self._n_hold, self._config.n_hold_max) if is_confirmed else self._config.n_hold
        )
        self._enter(_Phase.HOLD, is_open=is_open, n_tokens=self._n_hold)
