"""From signs of life to a verdict: who is lost, and what hangs. Times are handed in; no clock."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pipeinfer_cli.launch.watchdog.heartbeat import Heartbeat, Phase

# A rank that gives no sign of life for this long is lost. Less than the 10 s within which a job
# must notice that a rank was killed; a live process answers within a second, also while computing.
SILENCE_S = 8.0
# Patience grows with --timeout, so that there is a way out where nodes freeze for longer.
PATIENCE = 40

NO_HEARTBEAT = Heartbeat()


def silence_s(timeout_s: float) -> float:
    """How long a rank may be silent, for a --timeout."""
    return min(timeout_s, max(SILENCE_S, timeout_s / PATIENCE))


@dataclass(slots=True)
class RankState:
    """What is known of one rank."""

    rank: int
    heard_s: float  # when it last gave a sign of life
    moved_s: float  # when it last made progress
    heartbeat: Heartbeat = NO_HEARTBEAT
    place: str = ""  # what it holds

    @property
    def name(self) -> str:
        """For people: `rank 2 on nodeb (stage 2, layers 20-29)`."""
        host = f" on {self.heartbeat.host}" if self.heartbeat.host else ""
        return f"rank {self.rank}{host}" + (f" ({self.place})" if self.place else "")


class FailureDetector:
    """Watches the other ranks that it hears of, and its own rank's work.

    The head hears of all ranks, the others only of the head. `stages` are the ranks with layers.
    """

    def __init__(self, own: int, others: Iterable[int], *, timeout_s: float, now_s: float) -> None:
        self._own = own
        self._timeout_s = timeout_s
        # In turn, so that one of the survivors speaks of a silent head.
        self._silence_s = silence_s(timeout_s) + min(max(own - 1, 0), 4) * 0.4
        self.ranks = {rank: RankState(rank, now_s, now_s) for rank in (own, *others)}
        self._stages: Sequence[int] = ()
        self._due_s = now_s  # when the head began to wait, or something last moved

    def place(self, places: Sequence[str], first_stage: int) -> None:
        """What each rank of the job holds, in words, and the rank of the first stage."""
        for rank, state in self.ranks.items():
            state.place = places[rank]
        self._stages = range(first_stage, len(places))

    def hear(self, rank: int, heartbeat: Heartbeat, now_s: float) -> None:
        """A sign of life has come."""
        state = self.ranks[rank]
        before, state.heartbeat, state.heard_s = state.heartbeat, heartbeat, now_s
        if (before.moved, before.phase, before.run_id) != (
            heartbeat.moved,
            heartbeat.phase,
            heartbeat.run_id,
        ):
            state.moved_s = self._due_s = now_s
        if rank == self._own and not heartbeat.is_due:
            self._due_s = now_s

    def reset_timers(self, now_s: float) -> None:
        """This process itself was stopped or held up: nobody could be heard."""
        self._due_s = now_s
        for state in self.ranks.values():
            state.heard_s = state.moved_s = now_s

    def verdict(self, now_s: float) -> str | None:
        """Why the job cannot continue, in one line; None if all is well."""
        if silent := self._silent(now_s):
            return silent
        return None if self._quiet(now_s) else self._loading(now_s) or self._hanging(now_s)

    def everybody_in(self, *phases: Phase) -> bool:
        """Whether all others are in one of these phases."""
        return all(state.heartbeat.phase in phases for state in self._others())

    def _others(self) -> list[RankState]:
        return [state for rank, state in self.ranks.items() if rank != self._own]

    def _quiet(self, now_s: float) -> bool:
        """Whether somebody may be about to be lost: then that is what there is to say."""
        limit_s = self._silence_s / 4
        return any(
            now_s - each.heard_s > limit_s and each.heartbeat.phase != Phase.GONE
            for each in self._others()
        )

    def _silent(self, now_s: float) -> str | None:
        silent = [
            each
            for each in self._others()
            if now_s - each.heard_s > self._silence_s and each.heartbeat.phase != Phase.GONE
        ]
        if not silent:
            return None
        names = " and ".join(each.name for each in silent)
        phase = silent[0].heartbeat.phase
        verb = "have" if len(silent) > 1 else "has"
        return (
            f"{names} {verb} given no sign of life for {now_s - silent[0].heard_s:.0f} s"
            f"{_phase_words(phase)}: killed, stopped, or cut off from the network"
        )

    def _loading(self, now_s: float) -> str | None:
        for each in self.ranks.values():
            stuck_s = now_s - each.moved_s
            if each.heartbeat.phase == Phase.LOADING and stuck_s > self._timeout_s:
                return (
                    f"{each.name} has made no progress in loading for {stuck_s:.0f} s: "
                    "does the model's file system answer? (--timeout)"
                )
        return None

    def _hanging(self, now_s: float) -> str | None:
        """Slow is not dead: a rank hangs only if no rank has made progress."""
        own, stuck_s = self.ranks[self._own], now_s - self._due_s
        if stuck_s <= self._timeout_s:
            return None
        if own.heartbeat.is_due:
            return f"{self._blame(own.heartbeat.awaited_id, stuck_s)} (--timeout)"
        return None

    def not_ending(self, now_s: float, since_s: float) -> str | None:
        """For a head that has come to the end at `since_s`: who has not, after --timeout."""
        if now_s - since_s <= self._timeout_s or self._quiet(now_s):
            return None
        late = [each for each in self._others() if each.heartbeat.phase < Phase.ENDING]
        return (
            f"{late[0].name} has not ended, though the work is done (--timeout)" if late else None
        )

    def _blame(self, run_id: int, stuck_s: float) -> str:
        """Who holds the run: stages take runs in order, and tell what they are at."""
        stages = [self.ranks[rank] for rank in self._stages if rank in self.ranks]
        for stage in stages:
            if stage.heartbeat.run_id:
                return (
                    f"{stage.name} has been computing run {stage.heartbeat.run_id} for "
                    f"{stage.heartbeat.computing_us / 1e6:.0f} s without progress"
                )
        before = self.ranks[self._own].name
        for stage in stages:
            if stage.heartbeat.done_id < run_id:
                return (
                    f"run {run_id} has not arrived at {stage.name} within {stuck_s:.0f} s, though "
                    f"{before} has sent it: check the link between them"
                )
            before = stage.name
        return (
            f"the result of run {run_id} has not arrived from {before} within {stuck_s:.0f} s: "
            "check the link between them"
        )


def _phase_words(phase: Phase) -> str:
    words = {Phase.LOADING: " while loading", Phase.ENDING: " at the end of the job"}
    return words.get(phase, "")
