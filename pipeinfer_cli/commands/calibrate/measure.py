"""The head's work in a calibration: runs of every size, alone in the pipeline, in turn."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from statistics import median

from pipeinfer_cli import console
from pipeinfer_cli.cluster import calibration as calibrations
from pipeinfer_cli.cluster.calibration import Calibration, Identity
from pipeinfer_cli.cluster.predict import SIZES
from pipeinfer_cli.cluster.profile import Profile, StageCurve
from pipeinfer_cli.commands.bench import prompts
from pipeinfer_cli.commands.calibrate.config import CalibrateJob
from pipeinfer_cli.commands.calibrate.estimate import Estimate, Probe, estimate
from pipeinfer_cli.engine.engine import Engine
from pipeinfer_cli.engine.vocab import Vocab
from pipeinfer_cli.errors import RunError, UserError
from pipeinfer_cli.models import resolve
from pipeinfer_cli.models.adapters import adapters_digest
from pipeinfer_cli.models.shards import file_digest
from pipeinfer_cli.runtime.decode_loop import POLL_S
from pipeinfer_cli.runtime.drafters import Drafters
from pipeinfer_cli.runtime.pipeline import Plan
from pipeinfer_cli.runtime.vocabulary import load_vocab
from pipeinfer_cli.scheduler.interfaces import DraftBatch, Drafter, Pipeline
from pipeinfer_cli.scheduler.policy import N_BATCH, N_CANDIDATES
from pipeinfer_cli.scheduler.runs import KvKind, KvOp, Run, RunToken
from pipeinfer_cli.trace.recorder import Recorder

N_CONTEXT = 256  # tokens before those of a run: a typical text
LEAST_CONTEXT = 16
N_WARMUP = 2  # repetitions that do not count
N_DRAFTED = 8  # batches of a size in a repetition
DRAFT_SIZES = (1, 2, 4, 8)  # branches in a batch
LEAST_DRAFT_MS = 1e-3
PROBES = (*(Probe(size, size) for size in SIZES), Probe(1, 0))


class CalibrateWork:
    """What the head does with the pipeline: see pipeline.run.

    Made before the pipeline is loaded; raises UserError if there is no room, or the draft model
    cannot be used.
    """

    def __init__(self, job: CalibrateJob, plan: Plan) -> None:
        self._job, self._plan = job, plan
        self._n_context = min(N_CONTEXT, plan.n_ctx - max(SIZES) - N_DRAFTED)
        if self._n_context < LEAST_CONTEXT:
            raise UserError(
                f"-c {plan.n_ctx}: --calibrate needs room for {max(SIZES)} tokens after a text: "
                f"use -c {N_CONTEXT + max(SIZES) + N_DRAFTED}"
            )
        vocab = load_vocab(plan.files.head_path, verbose=job.verbose)
        self._text = some_text(vocab, self._n_context + max(SIZES))
        self._drafters = Drafters(job, vocab, plan.draft_cores)
        drafter = self._drafters.make("model" if job.draft_model else "ngram", job.draft_model)
        assert drafter is not None
        self._drafter = drafter
        context = self._text[: self._n_context]
        self._draft_context = context if job.draft_model else context * 2  # n-grams find something

    def __call__(self, engine: Engine) -> None:
        """Measures; the profile goes to the cache, and to a file if asked. Says on stdout where."""
        job, plan = self._job, self._plan
        with closing(self._drafters):
            found, draft = self._measure(engine)
        calibration = Calibration(
            profile=Profile(
                name="calibration",
                description=self._description(),
                stages=found.stages,
                links=found.links,
                result_link=found.result_link,
                hidden_bytes=4 * plan.model.n_embd,
                draft=draft,
            ),
            layers=plan.layers,
            output_ms=found.output_ms,
            draft_model=file_digest(resolve.resolve(job.draft_model)) if job.draft_model else "",
            draft_threads=plan.draft_cores.n_threads,
        )
        for line in summary(calibration):
            print(f"pipeinfer: {line}", file=sys.stderr)
        name = f"{plan.files.head_path.stem}-{plan.n_stages}-stages"
        chosen = None if job.save_to is None else Path(job.save_to)
        identity = Identity.of(
            plan.files.head_path,
            plan.all_resources,
            adapters_digest(plan.adapters),
            plan.computed_with,
        )
        print(save(calibration, identity, name, chosen), flush=True)

    def _measure(self, engine: Pipeline) -> tuple[Estimate, StageCurve]:
        """What the runs show, and the drafter's ms by the number of branches in a batch."""
        job = self._job
        drafts_s: dict[int, list[float]] = {n: [] for n in DRAFT_SIZES}
        prober = Prober(engine, self._text, self._n_context, self._plan, job.timeout_s)
        measured: dict[int, Probe] = {}  # by run id
        for repetition in range(-N_WARMUP, job.repetitions):
            if repetition >= 0:
                place = f"repetition {repetition + 1} of {job.repetitions}"
                print(f"pipeinfer: calibrating: {place}", file=sys.stderr)
            for index in range(len(PROBES)):
                probe = PROBES[(index + repetition) % len(PROBES)]
                run_id = prober.run(probe)
                if repetition >= 0:
                    measured[run_id] = probe
            for n_branches in DRAFT_SIZES:
                times_s = draft_times(self._drafter, self._draft_context, n_branches)
                drafts_s[n_branches] += times_s if repetition >= 0 else []
        recording = prober.recorder.recording()
        return estimate(recording, measured), draft_curve(drafts_s)

    def _description(self) -> str:
        plan, job = self._plan, self._job
        hosts = list(dict.fromkeys(resources.host for resources in plan.all_resources))
        drafter = Path(job.draft_model).name if job.draft_model else "n-gram lookup"
        day = time.strftime("%Y-%m-%d", time.gmtime())
        text = (
            f"{plan.files.head_path.name}, {plan.n_stages} stages on {', '.join(hosts)}, drafter "
            f"{drafter}: measured {day} after {self._n_context} tokens, medians of "
            f"{job.repetitions}"
        )
        return text.encode(errors="replace").decode()


class Prober:
    """Submits runs, one at a time, that continue the same context."""

    def __init__(
        self,
        pipeline: Pipeline,
        text: Sequence[int],
        n_context: int,
        plan: Plan,
        timeout_s: float,
    ) -> None:
        self.recorder = Recorder(n_prompt=n_context, n_stages=plan.n_stages)
        self._pipeline = pipeline
        self._text = text
        self._n_context = n_context
        self._timeout_s = timeout_s
        self._run_ids = itertools.count(1)
        for first in range(0, n_context, N_BATCH):
            self._submit(range(first, min(first + N_BATCH, n_context)), 0)

    def run(self, probe: Probe) -> int:
        """The id of a run, which is over."""
        positions = range(self._n_context, self._n_context + probe.n_tokens)
        return self._submit(positions, probe.n_rows)

    def _submit(self, positions: range, n_rows: int) -> int:
        """Whatever stood at these positions and after them is removed first."""
        run = Run(
            run_id=next(self._run_ids),
            tokens=tuple(
                RunToken(id=self._text[p], position=p, want=p >= positions.stop - n_rows)
                for p in positions
            ),
            kv_ops=(KvOp(kind=KvKind.REMOVE, pos_first=positions.start),),
        )
        self.recorder.on_submit(run)
        self._pipeline.submit(run)
        deadline_s = time.monotonic() + self._timeout_s
        while (result := self._pipeline.wait(POLL_S)) is None:
            if time.monotonic() > deadline_s:
                raise RunError(f"no result for {self._timeout_s:g} s (--timeout)")
        self.recorder.on_result(result, (), 0)
        return run.run_id


def save(calibration: Calibration, identity: Identity, name: str, chosen: Path | None) -> Path:
    """Where it is: in the file that was asked for, or else in the cache, where it goes anyway.

    RunError if it is not there; if it is in the cache at least, that says where.
    """
    saved = None
    try:
        saved = calibrations.save(calibration, identity, name)
        if chosen is None:
            return saved
    except RunError as error:
        if chosen is None:
            raise
        console.note(str(error))
    try:
        calibrations.write(calibration, identity, chosen)
    except RunError as error:
        there = f"; what was measured is in {str(saved)!r}" if saved is not None else ""
        raise RunError(f"{error}{there}") from None
    return chosen


def draft_times(drafter: Drafter, text: Sequence[int], n_branches: int) -> list[float]:
    """Seconds that the drafter takes for batches of n branches of one token each.

    The first batch, which reads the text, is left out. No branch is asked for twice, not even by
    another call: to the drafter the text is another one each time.
    """
    times_s, text = [], list(text)
    for first in range(0, (1 + N_DRAFTED) * n_branches, n_branches):
        branches = tuple((token,) for token in range(first, first + n_branches))
        batch = DraftBatch(0, text, len(text), branches, N_CANDIDATES)
        begin_s = time.perf_counter()
        drafter.expand(batch, lambda: True)
        times_s.append(time.perf_counter() - begin_s)
    return times_s[1:]


def draft_curve(times_s: Mapping[int, Sequence[float]]) -> StageCurve:
    """The medians, by the number of branches; a larger batch never takes less time."""
    points: list[tuple[int, float]] = []
    least_ms = LEAST_DRAFT_MS
    for n_branches, each_s in sorted(times_s.items()):
        least_ms = max(least_ms, 1000 * median(each_s))
        points.append((n_branches, least_ms))
    return StageCurve(points=tuple(points))


def some_text(vocab: Vocab, n_tokens: int) -> list[int]:
    """The first n tokens of the packaged prompts, repeated as often as needed."""
    tokens = vocab.tokenize("\n".join(prompt.text for prompt in prompts.load(None)))
    return list(itertools.islice(itertools.cycle(tokens), n_tokens))


def summary(calibration: Calibration) -> list[str]:
    """For people: a line per stage, and what is between them."""
    profile = calibration.profile
    held = [(rank, each) for rank, each in enumerate(calibration.layers) if len(each)]
    lines = []
    for stage, (rank, layers) in zip(profile.stages, held, strict=True):
        times = ", ".join(f"{size}: {ms:.3g}" for size, ms in stage.points)
        lines.append(f"rank {rank}, layers {layers}: ms by tokens of a run: {times}")
    links = ", ".join(f"{link.latency_us:.0f} us" for link in (*profile.links, profile.result_link))
    rates = ", ".join(f"{link.gbit_per_s:.3g} Gbit/s" for link in profile.links[1:])
    return [
        *lines,
        f"output head: {calibration.output_ms:.3g} ms of the last stage's time for a token",
        f"links: {links}" + (f"; between stages {rates}" if rates else ""),
        f"drafted token: {profile.draft_ms:.3g} ms",
    ]
