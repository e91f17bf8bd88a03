"""The head's requests to a loaded pipeline, one after the other."""

from __future__ import annotations

import itertools
import json
import math
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pipeinfer_cli.checks import MAX_COUNT
from pipeinfer_cli.cluster.acceptance.text import SyntheticDrafter, SyntheticText
from pipeinfer_cli.cluster.emulation import ObservedPipeline, PacedDrafter, SyntheticPipeline
from pipeinfer_cli.cluster.overruns import Overruns
from pipeinfer_cli.drafters.chosen import ChosenDrafter
from pipeinfer_cli.drafters.thread import DraftThread
from pipeinfer_cli.engine.engine import Engine
from pipeinfer_cli.engine.vocab import Vocab
from pipeinfer_cli.errors import UserError
from pipeinfer_cli.runtime import pairs
from pipeinfer_cli.runtime.answer import Answer, AnswerBuilder, Ends, texts
from pipeinfer_cli.runtime.drafters import kind_of, model_alone, name_of_model, uses_model
from pipeinfer_cli.runtime.grammar.matcher import GrammarState
from pipeinfer_cli.runtime.pipeline import Plan
from pipeinfer_cli.runtime.text.token_stream import TokenStream
from pipeinfer_cli.runtime.text.token_streams import TokenStreams
from pipeinfer_cli.scheduler.batcher import Batcher
from pipeinfer_cli.scheduler.costs.measured import PriorCosts
from pipeinfer_cli.scheduler.interfaces import Drafter, Observer, Pipeline
from pipeinfer_cli.scheduler.kv_sequences import CachedPrefix, SequencePool
from pipeinfer_cli.scheduler.metrics import Counters, RequestInfo, Stats, measure
from pipeinfer_cli.scheduler.policy import (
    DEFAULT_DRAFT,
    N_BATCH,
    Ablation,
    DraftConfig,
    Policy,
    Strategy,
)
from pipeinfer_cli.scheduler.runs import SampleParams
from pipeinfer_cli.scheduler.scheduler import Knowledge, Scheduler
from pipeinfer_cli.trace.observe import RequestTracer

LEAST_ROOM = 2  # tokens of a text: with less, there is no use in it


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A prompt, and how to speculate on what follows it."""

    prompt: Sequence[int]  # token ids
    n_max: int  # at most this number of tokens
    strategy: Strategy = "iterative"
    draft: DraftConfig = DEFAULT_DRAFT
    ablations: tuple[Ablation, ...] = ()
    drafter: Drafter | None = None  # None: iterative, whatever the strategy
    prior: PriorCosts | None = None  # what runs are expected to cost
    sample: SampleParams | None = None  # how tokens are drawn; None: as the job says
    constraint: GrammarState | None = None  # what the text must follow
    reuse: bool = False  # what the request before has left in the KV cache is not computed again
    synthetic: SyntheticText | None = None  # in place of what target and drafter say

    @property
    def speculates(self) -> bool:
        """Whether anything is drafted."""
        has_drafter = self.drafter is not None or self.synthetic is not None
        return has_drafter and self.strategy != "iterative"


@dataclass(frozen=True, slots=True, kw_only=True)
class ActiveRequest:
    """A request that has begun: its answer so far, and what that has cost."""

    request: Request
    info: RequestInfo
    scheduler: Scheduler
    answer: Answer = field(default_factory=Answer)
    start_s: float = field(default_factory=time.monotonic)

    @property
    def counters(self) -> Counters:
        """What has happened so far."""
        return self.scheduler.counters

    @property
    def grammar_error(self) -> str:
        """Why the answer ends where its grammar does not, once it is over; empty: all is well."""
        if self.request.constraint is None:
            return ""
        why = self.request.constraint.error_after(self.answer.tokens)
        return f"the text cannot go on as its grammar wants: {why}" if why else ""

    def builder(self, vocab: Vocab, ends: Ends) -> AnswerBuilder:
        """To be fed the tokens. In a synthetic text, drawn ends of generation end nothing."""
        if self.request.synthetic is not None:
            ends = ends.without_eos()
        return AnswerBuilder(self.answer, vocab, self.request.n_max, ends)

    def end(self) -> None:
        """The text is long enough: what is in flight is superfluous. Twice is fine."""
        self.scheduler.finish()

    def measure(self) -> Stats:
        """Ends the text: what it has cost. See metrics.measure."""
        self.end()
        info = replace(self.info, n_reused=self.scheduler.n_reused)
        return measure(info, self.start_s, self.answer.times_s, self.counters)


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamedRequest(ActiveRequest):
    """A request that has the pipeline to itself: iterate over its tokens, or its text."""

    tokens: TokenStream
    tracer: RequestTracer | None = None

    def text(self, vocab: Vocab, ends: Ends) -> Iterator[str]:
        """Takes tokens until the answer is over; its text as it comes. See answer.texts."""
        return texts(self.tokens, self.builder(vocab, ends))

    def end(self) -> None:
        """The text is long enough: what follows is superfluous, and not in pictures."""
        ActiveRequest.end(self)
        if self.tracer is not None:
            self.tracer.finish()


class Head:
    """Begins one request after the other; what the one before has left in flight is given up."""

    def __init__(
        self,
        plan: Plan,
        engine: Engine,
        *,
        timeout_s: float,
        stop_requested: Callable[[], bool] = lambda: False,  # to end: see TokenStream
    ) -> None:
        self._plan = plan
        self.is_exact = plan.is_exact  # texts are those of plain decoding
        self.changes = plan.changes
        self._engine = engine
        self.overruns = Overruns()  # of an emulated cluster, over all requests
        # A watchdog knows better when waiting is in vain: slow is not dead.
        self._timeout_s = math.inf if engine.watched else timeout_s
        self._stop_requested = stop_requested
        self._run_ids = itertools.count(1)  # they grow over all requests of a pipeline
        self._pool = SequencePool(has_states=plan.states is not None)
        self._last: tuple[TokenStream, Scheduler] | None = None
        self._knowledge: dict[Hashable, Knowledge] = {}  # by drafter

    def info(self, request: Request) -> RequestInfo:
        """What the stats say of a request besides its measurements."""
        return RequestInfo(
            strategy=request.strategy if request.speculates else "iterative",
            n_ranks=len(self._plan.layers),
            n_stages=self._plan.n_stages,
            n_prompt=len(request.prompt),
        )

    @contextmanager
    def begin(
        self, request: Request, tracer: RequestTracer | None = None
    ) -> Iterator[StreamedRequest]:
        """The request while the block runs; its drafter is at rest after it."""
        cached = self._end_last(may_keep=request.reuse)
        pipeline, drafter = self._pipeline_and_drafter(request)
        strategy = request.strategy if request.speculates else "iterative"
        has_model = uses_model(drafter)
        if tracer is not None:
            drafter = tracer.drafter(drafter)
        thread = DraftThread(drafter, self._engine.nudge) if drafter is not None else None
        known = self._known_of(request)
        known.auto.begin_text()
        with closing(thread) if thread is not None else nullcontext():
            scheduler = self._scheduler(
                request,
                self._run_ids,
                has_drafter=request.speculates,
                shares_cores=has_model and self._plan.draft_cores.shares_cores,
                knowledge=known,
            )
            if cached is not None:
                scheduler.reuse(cached)
                self._pool.drop(cached)
            stream = TokenStream(
                pipeline,
                scheduler,
                timeout_s=self._timeout_s,
                drafts=thread,
                auto=known.auto if strategy == "auto" else None,
                observer=tracer.observer if tracer is not None else None,
                stop_requested=self._stop_requested,
            )
            self._last = stream, scheduler
            yield StreamedRequest(
                request=request,
                info=self.info(request),
                scheduler=scheduler,
                tokens=stream,
                tracer=tracer,
            )
        self._keep_known(request)

    def answer(
        self, request: Request, vocab: Vocab, ends: Ends, tracer: RequestTracer | None = None
    ) -> StreamedRequest:
        """The request with its whole answer, once that is there."""
        with self.begin(request, tracer) as active:
            for _ in active.text(vocab, ends):
                pass
            active.end()
        return active

    @contextmanager
    def streams(
        self,
        strategy: Strategy,
        *,
        like: Request | None = None,
        n_cached: int = 0,
        observer: Observer | None = None,
    ) -> Iterator[TokenStreams[Any]]:
        """For several requests at a time, all of one strategy, while the block runs.

        Whoever begins them chooses their keys. `like`: a request with a drafter as theirs, of which
        something may be known. `n_cached`: see Batcher.
        """
        self._end_last(may_keep=False)
        n_stages = self._plan.n_stages
        prior = self._plan.prior(None)
        self._shared = self._known_of(like) if like else Knowledge.of(prior, n_stages=n_stages)
        batcher: Batcher[Any] = Batcher(
            self._pool,
            n_stages=n_stages,
            depth=Policy.depth_of(n_stages, prior),
            n_batch=N_BATCH,
            run_ids=self._run_ids,
            pacer=self._shared.pacer,
            n_cached=n_cached,
        )
        streams = TokenStreams(
            self._engine,
            batcher,
            timeout_s=self._timeout_s,
            nudge=self._engine.nudge,
            auto=self._shared.auto if strategy == "auto" else None,
            observer=observer,
        )
        with closing(streams):
            yield streams
        if like is not None:
            self._keep_known(like)

    def begin_shared(self, request: Request, *, has_drafter: bool) -> ActiveRequest:
        """A request for `streams`; its own drafter is made when it may draft."""
        scheduler = self._scheduler(
            request,
            itertools.count(1),
            has_drafter=has_drafter,
            shares_cores=uses_model(request.drafter) and self._plan.draft_cores.shares_cores,
            knowledge=self._shared,
        )
        return ActiveRequest(request=request, info=self.info(request), scheduler=scheduler)

    def _scheduler(
        self,
        request: Request,
        run_ids: Iterator[int],
        *,
        has_drafter: bool,
        knowledge: Knowledge,
        shares_cores: bool = False,
    ) -> Scheduler:
        policy = Policy.of(
            request.strategy,
            request.draft if has_drafter else None,
            n_stages=self._plan.n_stages,
            ablations=request.ablations,
            prior=request.prior,
            shares_cores=shares_cores,
            states=self._plan.states,
        )
        return Scheduler(
            request.prompt,
            n_max=request.n_max,
            policy=policy,
            run_ids=run_ids,
            pool=self._pool,
            sample=request.sample,
            constraint=request.constraint,
            knowledge=knowledge,
        )

    def _known_of(self, request: Request) -> Knowledge:
        """What the pipeline's requests with this drafter have shown so far."""
        key: Hashable = None
        if request.speculates:
            key = request.synthetic if request.synthetic is not None else kind_of(request.drafter)
        if key not in self._knowledge:
            names = request.drafter.names if isinstance(request.drafter, ChosenDrafter) else ("",)
            known = Knowledge.of(request.prior, n_stages=self._plan.n_stages, drafters=names)
            if (pair := self._pair_of(request)) is not None:
                learned = pairs.load(*pair, self._target_name())
                known.confidences[name_of_model(request.drafter)] = learned
            self._knowledge[key] = known
        return self._knowledge[key]

    def _keep_known(self, request: Request) -> None:
        """For later jobs: what was learned of target and draft model, if there is one."""
        if (pair := self._pair_of(request)) is not None:
            learned = self._known_of(request).confidences[name_of_model(request.drafter)]
            pairs.keep(*pair, learned, self._target_name())

    def _target_name(self) -> str:
        """Tells the target from others of the same file."""
        return json.dumps(self.changes) if self.changes else ""

    def _pair_of(self, request: Request) -> tuple[Path, Path] | None:
        """The target's file and the draft model's, if there is one and both are real."""
        is_real = request.speculates and request.synthetic is None
        if is_real and (model := model_alone(request.drafter)) is not None:
            return self._plan.files.head_path, model.path
        return None

    def _end_last(self, *, may_keep: bool) -> CachedPrefix | None:
        """The request before is over; the cells of its text stay if they may be of use."""
        if self._last is None:
            return None
        stream, scheduler = self._last
        self._last = None
        stream.finish()
        cached = scheduler.close()
        if may_keep:
            return cached
        self._pool.drop(cached)
        return None

    def _pipeline_and_drafter(self, request: Request) -> tuple[Pipeline, Drafter | None]:
        """The pipeline and drafter of a request: real, paced, or synthetic."""
        pipeline: Pipeline = self._engine
        drafter = request.drafter
        profile, text = self._plan.profile, request.synthetic
        if profile is not None:
            pipeline = ObservedPipeline(pipeline, self.overruns)
        if text is not None:
            knowing = SyntheticDrafter(text)
            pipeline = SyntheticPipeline(pipeline, text, knowing, len(request.prompt))
            drafter = knowing if request.speculates else None
        if profile is not None and drafter is not None:
            drafter = PacedDrafter(drafter, profile.draft_batch_s, self.overruns)
        return pipeline, drafter


def room_for(prompt: Sequence[int], n_ctx: int) -> int:
    """Tokens that the context leaves for a text; its last one is never fed, and needs no cell."""
    return n_ctx - len(prompt) + 1


def check_room(prompt: Sequence[int], n_ctx: int, n_predict: int) -> int:
    """How many tokens the context leaves for the text. UserError if that is hardly any."""
    if not prompt:
        raise UserError("the prompt is empty, and this model adds no token of its own: give a text")
    room = room_for(prompt, n_ctx)
    if room < LEAST_ROOM:
        n_wanted = len(prompt) + (LEAST_ROOM if n_predict == MAX_COUNT else n_predict)
        raise UserError(
            f"the prompt has {len(prompt)} tokens, the context {n_ctx} "
            f"(-c/--ctx-size): use -c {n_wanted} or a shorter prompt"
        )
    return room
