"""How long tokens take: means over a past that fades."""

from __future__ import annotations

import math

from pipeinfer_cli.scheduler.costs.measured import EWMA_DECAY

ASSUMED_NOISE = 0.1  # of a token's time, before there is more than one window to tell


class Pace:
    """Seconds per token."""

    def __init__(self, decay: float) -> None:
        """`decay`: how much of what was known each addition leaves."""
        self._decay = decay
        self._n_tokens = self._seconds = 0.0

    @property
    def token_s(self) -> float | None:
        """Seconds per token; None: unknown."""
        return self._seconds / self._n_tokens if self._seconds > 0 else None

    def add(self, n_tokens: float, seconds: float, n_times: int = 1) -> None:
        """`n_tokens` took `seconds`; it counts like `n_times` additions."""
        self.fade(self._decay**n_times)
        self._n_tokens += n_tokens
        self._seconds += seconds

    def fade(self, memory: float) -> None:
        """Lets what was measured count less."""
        self._n_tokens *= memory
        self._seconds *= memory


class WindowedPace(Pace):
    """The same from windows of tokens, which also show how far the mean may be off."""

    def __init__(self) -> None:
        super().__init__(EWMA_DECAY)
        self._n_windows = self._deviation = 0.0
        self.n_fresh = 0  # windows since what was measured before counts little

    @property
    def is_known(self) -> bool:
        """Whether anything was measured."""
        return self._n_tokens > 0

    @property
    def mean_s(self) -> float:
        """Per token; something was measured."""
        return self._seconds / self._n_tokens

    @property
    def error_s(self) -> float:
        """The standard error of the mean: from how much the windows differ."""
        assumed = (ASSUMED_NOISE * self.mean_s) ** 2 * self._n_tokens / self._n_windows
        per_token = (self._deviation + assumed) / (self._n_windows + 1)
        return math.sqrt(per_token / self._n_tokens)

    def add(self, n_tokens: float, seconds: float, n_times: int = 1) -> None:
        """One more window."""
        super().add(n_tokens, seconds, n_times)
        self._n_windows += 1
        self._deviation += n_tokens * (seconds / n_tokens - self.mean_s) ** 2
        self.n_fresh += 1

    def fade(self, memory: float) -> None:
        """See Pace."""
        super().fade(memory)
        self._n_windows *= memory
        self._deviation *= memory

    def begin_again(self) -> None:
        """Some time has passed: what was measured before counts little."""
        self.fade(0.25)
        self.n_fresh = 0
