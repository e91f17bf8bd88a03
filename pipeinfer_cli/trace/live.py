"""What the panel of `--live` shows: who is busy with what, estimated from the runs in flight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from pipeinfer_cli.console import Activity, Panel, Row
from pipeinfer_cli.scheduler.metrics import ratio
from pipeinfer_cli.scheduler.runs import RunStatus
from pipeinfer_cli.trace.recorder import Recorder, Recording, RunRecord

N_RECENT = 300  # runs to look back at
SPEED_S = 3.0  # tokens/s are those of the last seconds
DRAFTING_S = 0.25  # a drafter that was silent for this long rests
MAX_ROWS = 8  # more stages share one row


class LiveView:
    """Looks at a recorder; `panel` may be called on any thread."""

    def __init__(self, recorder: Recorder, title: str) -> None:
        self._recorder = recorder
        self._title = title
        self._totals = _Totals()

    def panel(self, now_s: float) -> Panel:
        """What to show now."""
        recording = self._recorder.recording(N_RECENT)
        self._totals = self._totals.after(recording)
        in_flight = [each for each in recording.runs if each.result is None]
        doing = stage_runs(recording, now_s)
        given_up = {
            each.run.run_id
            for each in in_flight
            for cancel in recording.cancels
            if cancel.run_first <= each.run.run_id <= cancel.run_last
        }
        rows = [_drafter_row(recording, now_s)] if self._totals.has_drafts else []
        rows += _stage_rows(doing, given_up)
        decided_s = [each for each in recording.decided_s if each > now_s - SPEED_S]
        speed = ratio(len(decided_s) - 1, now_s - decided_s[0]) if decided_s else 0.0
        return Panel(self._title, tuple(rows), self._summary(len(in_flight), speed))

    def _summary(self, n_in_flight: int, tokens_per_s: float) -> str:
        totals = self._totals
        words = [f"{totals.n_decided} tokens", f"{tokens_per_s:.1f} tok/s"]
        words.append(f"{n_in_flight} in flight")
        if totals.n_drafted:
            percent = 100 * totals.n_accepted / totals.n_drafted
            words.append(f"{percent:.0f} % of {totals.n_drafted} drafted tokens accepted")
        return " · ".join(words)


@dataclass(frozen=True, slots=True)
class _Totals:
    """Sums over all runs, though only the recent ones are looked at."""

    n_decided: int = 0
    n_drafted: int = 0
    n_accepted: int = 0
    last_submitted: int = 0  # run ids that are counted already
    last_answered: int = 0
    has_drafts: bool = False

    def after(self, recording: Recording) -> _Totals:
        submitted = [r for r in recording.runs if r.run.run_id > self.last_submitted]
        answered = [
            r for r in recording.runs if r.result is not None and r.run.run_id > self.last_answered
        ]
        return _Totals(
            n_decided=self.n_decided + sum(len(each.decided) for each in answered),
            n_drafted=self.n_drafted + sum(each.n_speculative for each in submitted),
            n_accepted=self.n_accepted + sum(each.n_accepted for each in answered),
            last_submitted=max([self.last_submitted, *(r.run.run_id for r in submitted)]),
            last_answered=max([self.last_answered, *(r.run.run_id for r in answered)]),
            has_drafts=self.has_drafts or bool(recording.drafts),
        )


def stage_runs(recording: Recording, now_s: float) -> list[RunRecord | None]:
    """The run that each stage computes now, by estimate; None for a stage that idles.

    Runs pass the stages in order and take as long as similar ones did before. The first run in
    flight cannot have left the last stage, whatever the estimate says.
    """
    n_stages = recording.n_stages
    costs = stage_costs(recording)
    doing: list[RunRecord | None] = [None] * n_stages
    free_s = [0.0] * n_stages  # when each stage has done what came before
    free_s[-1] = max((each.result_s for each in recording.runs if each.result), default=0.0)
    for record in (each for each in recording.runs if each.result is None):
        at_s = record.submit_s
        for stage, cost in enumerate(costs):
            begin_s = max(at_s, free_s[stage])
            at_s = begin_s + _nearest(cost, len(record.run.tokens))
            if stage == n_stages - 1:
                at_s = max(at_s, now_s + 1e-9)
            free_s[stage] = at_s
            if begin_s <= now_s < at_s:
                doing[stage] = record
    return doing


def stage_costs(recording: Recording) -> list[dict[int, float]]:
    """For each stage the median seconds of runs of n tokens."""
    seen: list[dict[int, list[float]]] = [{} for _ in range(recording.n_stages)]
    for record in recording.runs:
        for time in record.result.times if record.result is not None else ():
            if time.status is RunStatus.COMPLETED:
                times_s = seen[time.stage].setdefault(len(record.run.tokens), [])
                times_s.append(time.compute_us / 1e6)
    return [{tokens: median(times_s) for tokens, times_s in each.items()} for each in seen]


def _nearest(cost: dict[int, float], n_tokens: int) -> float:
    if not cost:
        return 0.0
    return cost[min(cost, key=lambda seen_tokens: abs(seen_tokens - n_tokens))]


def _drafter_row(recording: Recording, now_s: float) -> Row:
    recent = [each for each in recording.drafts if each.end_s > now_s - SPEED_S]
    is_busy = bool(recent) and recent[-1].end_s > now_s - DRAFTING_S
    text = f"{len(recent) / SPEED_S:.0f} tokens/s" if recent else ""
    return Row("drafter", ("drafting" if is_busy else "idle",), text)


def _stage_rows(doing: Sequence[RunRecord | None], given_up: set[int]) -> list[Row]:
    activities = [_activity(each, given_up) for each in doing]
    if len(doing) > MAX_ROWS:
        n_busy = sum(each != "idle" for each in activities)
        return [Row("stages", tuple(activities), f"{n_busy} of {len(doing)} busy")]
    return [
        Row(f"stage {stage}", (activity,), _text(record))
        for stage, (activity, record) in enumerate(zip(activities, doing, strict=True))
    ]


def _activity(record: RunRecord | None, given_up: set[int]) -> Activity:
    if record is None:
        return "idle"
    if record.run.run_id in given_up:
        return "cancelled"
    return "speculative" if record.n_speculative else "plain"


def _text(record: RunRecord | None) -> str:
    if record is None:
        return ""
    n_tokens = len(record.run.tokens)
    tokens = f"{n_tokens} token" + "s" * (n_tokens != 1)
    if record.n_prefill == n_tokens:
        return f"{tokens} of the prompt"
    return f"{tokens}, {record.n_speculative} drafted" if record.n_speculative else tokens
