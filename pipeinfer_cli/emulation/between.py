"""What stands between the head and its pipeline or drafter, when these pretend something."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

from pipeinfer_cli.emulation.lateness import Lateness
from pipeinfer_cli.emulation.synthetic import SyntheticDrafter, SyntheticText
from pipeinfer_cli.scheduler.interfaces import Candidate, Drafter, Pipeline
from pipeinfer_cli.scheduler.runs import Fate, Result, Run


class WatchedPipeline:
    """An emulated pipeline: takes note of what was late."""

    def __init__(self, pipeline: Pipeline, lateness: Lateness) -> None:
        self._pipeline = pipeline
        self._lateness = lateness

    def submit(self, run: Run) -> None:
        """See interfaces.Pipeline."""
        self._pipeline.submit(run)

    def cancel(self, run_first: int, run_last: int) -> None:
        """See interfaces.Pipeline."""
        self._pipeline.cancel(run_first, run_last)

    def wait(self, timeout_s: float) -> Result | None:
        """See interfaces.Pipeline."""
        result = self._pipeline.wait(timeout_s)
        if result is not None:
            self._lateness.count(result)
        return result


class SyntheticPipeline:
    """A pipeline whose results are a synthetic text's; all else about them is real.

    For one request. `drafter` is told how long the text is.
    """

    def __init__(
        self, pipeline: Pipeline, text: SyntheticText, drafter: SyntheticDrafter, n_prompt: int
    ) -> None:
        self._pipeline = pipeline
        self._text = text
        self._drafter = drafter
        self._drafter.n_decided = n_prompt
        self._n_prompt = n_prompt
        self._runs: dict[int, Run] = {}  # in flight

    def submit(self, run: Run) -> None:
        """See interfaces.Pipeline."""
        self._runs[run.run_id] = run
        self._pipeline.submit(run)

    def cancel(self, run_first: int, run_last: int) -> None:
        """See interfaces.Pipeline."""
        self._pipeline.cancel(run_first, run_last)

    def wait(self, timeout_s: float) -> Result | None:
        """See interfaces.Pipeline."""
        result = self._pipeline.wait(timeout_s)
        if result is None:
            return None
        run = self._runs.pop(result.run_id)
        if result.fate is Fate.COMPLETED:
            self._note_decided(run)
        return self._text.with_verdicts(result, run)

    def _note_decided(self, run: Run) -> None:
        """A row decides the token after its own if that is in the text itself."""
        for token in run.tokens:
            position = token.position
            is_prompt = position < self._n_prompt
            is_right = is_prompt or token.id == self._text.token(position)
            if token.want and is_right and position < self._drafter.n_decided:
                self._drafter.n_decided = max(self._drafter.n_decided, position + 2)


class PacedDrafter:
    """A drafter on an emulated machine: each position takes a given time.

    It can be told to stop between tokens, as any drafter.
    """

    def __init__(
        self,
        drafter: Drafter,
        token_s: float,
        lateness: Lateness,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._drafter = drafter
        self._token_s = token_s
        self._lateness = lateness
        self._clock = clock
        self._sleep = sleep

    def propose(
        self, context: Sequence[int], n_candidates: int = 1
    ) -> Iterator[Sequence[Candidate]]:
        """See interfaces.Drafter. Each is due so long after the last one: delays do not add up."""
        due_s = self._clock()
        for candidates in self._drafter.propose(context, n_candidates):
            if not candidates:
                yield candidates
                continue
            due_s += self._token_s
            now_s = self._clock()
            self._lateness.count_drafted(max(0, round(1e6 * (now_s - due_s))))
            if now_s < due_s:
                self._sleep(due_s - now_s)
            else:
                due_s = now_s
            yield candidates
