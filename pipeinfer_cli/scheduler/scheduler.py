"""Which runs to submit next: pure decisions, without MPI, ctypes, clock or randomness.

The scheduler owns the token tree and the runs in flight. It is handed drafted tokens
(`on_drafted`) and results in the order of submission (`on_result`), and says what to submit
(`next_run`), what to give up (`take_cancels`) and what to draft (`take_batch`). It is told what
time it is.

Continuous asynchronous speculation and early cancellation follow "PipeInfer: Accelerating LLM
Inference using Asynchronous Pipelined Speculation" (SC24, arXiv 2407.11798).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from pipeinfer_cli.scheduler.auto import AutoSpeculation, Way
from pipeinfer_cli.scheduler.costs.measured import MeasuredCosts, PriorCosts
from pipeinfer_cli.scheduler.costs.pacer import StagePacer
from pipeinfer_cli.scheduler.costs.prefill import prefill_run_size
from pipeinfer_cli.scheduler.in_flight import InFlightRuns
from pipeinfer_cli.scheduler.interfaces import Constraint, DraftBatch, DraftedBatch
from pipeinfer_cli.scheduler.kv_sequences import CachedPrefix, SequencePool, Sequences
from pipeinfer_cli.scheduler.metrics import Counters
from pipeinfer_cli.scheduler.policy import MODEL_DRAFTERS, Policy
from pipeinfer_cli.scheduler.runs import Result, Run, RunToken, SampleParams
from pipeinfer_cli.scheduler.speculation import Speculation
from pipeinfer_cli.scheduler.speculation.adaptive import AdaptiveSpeculation
from pipeinfer_cli.scheduler.speculation.confidence import Confidence
from pipeinfer_cli.scheduler.speculation.fixed import FixedSpeculation
from pipeinfer_cli.scheduler.token_tree import Node, State, TokenTree, Verdict


@dataclass(frozen=True, slots=True)
class Knowledge:
    """What is learned while runs and drafts come and go; it may outlive a request."""

    costs: MeasuredCosts
    confidences: dict[str, Confidence]  # by drafter: "" is the only one
    pacer: StagePacer
    auto: AutoSpeculation  # for the strategy of that name

    @classmethod
    def of(
        cls, prior: PriorCosts | None, *, n_stages: int, drafters: Sequence[str] = ("",)
    ) -> Knowledge:
        """What a calibration says, if there is one; nothing else.

        `drafters`: those among which `auto` chooses.
        """
        costs = MeasuredCosts(prior, n_stages=n_stages)
        confidences = {each: Confidence() for each in ("", *drafters)}
        return cls(costs, confidences, StagePacer(costs), AutoSpeculation(drafters=drafters))


class Scheduler:
    """One request: a prompt, and a text of at most `n_max` tokens after it."""

    def __init__(
        self,
        prompt: Sequence[int],
        *,
        n_max: int,
        policy: Policy,
        run_ids: Iterator[int],
        pool: SequencePool | None = None,
        sample: SampleParams | None = None,
        constraint: Constraint | None = None,
        knowledge: Knowledge | None = None,
    ) -> None:
        """Pool and knowledge are the pipeline's, for all its requests.

        `sample` None: as the engine says. `constraint` is what may follow the prompt.
        """
        assert prompt and n_max > 0
        self.counters = Counters()
        self.policy = policy
        self._run_ids = run_ids  # of the pipeline: they grow over all its requests
        self._prompt = tuple(prompt)
        self._sample = sample
        self._pool = pool or SequencePool()
        self._sequences = Sequences(self._pool)
        self.n_reused = 0  # tokens of the prompt whose cells were there already
        self._n_prefilled = 0  # tokens of the prompt that were submitted, or are reused
        self._prefill_size = policy.n_batch  # tokens of the prompt in a run
        # A token is worth feeding if the one after it is still wanted.
        self._n_feed_max = len(prompt) + n_max - 1
        self._tree = TokenTree(prompt, constraint)
        self.knowledge = knowledge or Knowledge.of(policy.prior, n_stages=policy.n_stages)
        self._drafter = ""
        self._speculation = self._make_speculation()
        self._in_flight = InFlightRuns(self.counters, no_cancel=policy.no_cancel)

    def _make_speculation(self) -> Speculation:
        known = self.knowledge
        if not self.policy.is_adaptive:
            return FixedSpeculation(
                self._tree, self.policy, known.costs, n_feed_max=self._n_feed_max
            )
        return AdaptiveSpeculation(
            self._tree,
            self.policy,
            known.costs,
            n_feed_max=self._n_feed_max,
            confidence=known.confidences[""],
            pacer=known.pacer,
            counters=self.counters,
        )

    @property
    def n_live(self) -> int:
        """Runs in flight that are still believed."""
        return self._in_flight.n_live

    @property
    def n_drafted(self) -> int:
        """Drafted tokens that are neither confirmed nor refuted yet."""
        return self._tree.n_drafted

    @property
    def prefilled(self) -> CachedPrefix:
        """The part of the prompt that was submitted: what is submitted later may use its cells.

        A state that has more of the text in it is of no use.
        """
        has_states = self._pool.has_states
        n_tokens = self._n_prefilled if self.is_prefilling or not has_states else 0
        return CachedPrefix(
            tokens=self._prompt[:n_tokens],
            sequence=self._sequences.of_text(self._tree.root),
            is_whole=has_states,
        )

    @property
    def has_begun(self) -> bool:
        """True once a part of the prompt was submitted."""
        return self._n_prefilled > self.n_reused

    def n_common(self, cached: CachedPrefix) -> int:
        """With how many tokens of this text the prompt begins."""
        return cached.n_common(self._prompt)

    def reuse(self, cached: CachedPrefix) -> None:
        """What the prompt has in common with this text is not fed again. Before the first run."""
        assert not self.has_begun and not self.n_reused
        self.n_reused = self._n_prefilled = self.n_common(cached)
        if self.n_reused:
            self._sequences.begin_with(cached, self.n_reused)

    @property
    def epoch(self) -> int:
        """Drafts of earlier epochs are not wanted any more."""
        return self._speculation.epoch

    @property
    def is_idle(self) -> bool:
        """True if no run is in flight."""
        return self._in_flight.is_idle

    def speculate(self, way: Way) -> None:
        """Goes on without speculation, or with a drafter. What is in flight stays."""
        if way is not None and way != self._drafter:
            self._drafter = way
            self.knowledge.costs.change_drafter(way, has_prior=way in MODEL_DRAFTERS)
            self._speculation.change_drafter(self.knowledge.confidences[way])
        self._speculation.switch(way is not None)

    @property
    def expected_gain(self) -> float | None:
        """The expected speed of speculation over plain decoding's; None: unknown."""
        return self._speculation.gain

    def finish(self) -> None:
        """Gives up what is in flight: the text is long enough. Results still have to come."""
        self._n_feed_max = 0
        self._speculation.switch(False)
        self._in_flight.give_up_all()

    def close(self) -> CachedPrefix | None:
        """After `finish`: gives the sequence ids back, but for that of the text, if any."""
        assert self._n_feed_max == 0
        return self._sequences.close(self._tree)

    # runs

    def next_run(self, now_s: float) -> Run | None:
        """The run to submit now; None if there is nothing to submit yet."""
        if self.is_prefilling:
            return self.next_prefill() if self._in_flight.n_live < 2 * self.policy.depth else None
        if (run := self.next_decided()) is not None:
            return run
        return self.next_drafted(now_s) if self._in_flight.n_live < self.policy.depth else None

    @property
    def wake_s(self) -> float:
        """When a run may leave though nothing else has happened by then; infinite: never."""
        can_leave = self._tree.root.is_fed and self._in_flight.n_live < self.policy.depth
        return self._speculation.wake_s if can_leave else math.inf

    def take_cancels(self) -> list[tuple[int, int]]:
        """Ranges `[first, last]` of run ids to give up now, in this order."""
        return self._in_flight.take_cancels()

    @property
    def is_prefilling(self) -> bool:
        """True if a part of the prompt has not been submitted."""
        return self._n_feed_max > 0 and self._n_prefilled < len(self._prompt)

    @property
    def n_decided_max(self) -> int:
        """The most tokens in a run of `next_decided`."""
        if not self.policy.is_synchronous:
            return 1
        return 1 + min(self.policy.n_draft_max, self._tree.n_unfed)

    def next_decided(self, *, may_wait: bool = True) -> Run | None:
        """The run of a decided token, with the draft that it waits for, if it may and it pays.

        None if there is nothing to submit now.
        """
        root = self._tree.root
        is_due = not root.is_fed and root.position < self._n_feed_max and not self.is_prefilling
        if not is_due:
            return None
        n_drafted = self._speculation.n_with_decided(self._n_busy, may_wait=may_wait)
        if n_drafted is None:
            return None
        nodes: dict[Node, list[int]] = {}  # with their sequence ids
        is_fed = self._feed(root, nodes)
        assert is_fed, "the text continues in its own sequence"
        self._feed_drafts(nodes, n_drafted)
        return self._make_run((), nodes)

    @property
    def _n_busy(self) -> int:
        """Runs in flight that a decided token may wait for: synchronous ones to their very end."""
        if self.policy.is_synchronous:
            return 0 if self._in_flight.is_idle else 1
        return self._in_flight.n_live

    def next_drafted(self, now_s: float) -> Run | None:
        """A run of drafted tokens; None if there is nothing to submit now, or it pays to wait."""
        if not self._tree.root.is_fed or self.is_prefilling or self._n_feed_max == 0:
            return None
        n_drafted = self._speculation.n_alone(self._in_flight.n_live, now_s)
        nodes: dict[Node, list[int]] = {}
        if n_drafted:
            self._feed_drafts(nodes, n_drafted)
        return self._make_run((), nodes) if nodes else None

    def next_prefill(self, *, is_alone: bool = True) -> Run:
        """A part of the prompt: all stages shall have one to work on.

        `is_alone`: no other request's runs keep them at work.
        """
        assert self.is_prefilling
        first = self._n_prefilled
        if not self.has_begun:
            self._prefill_size = prefill_run_size(
                len(self._prompt) - first,
                n_stages=self.policy.n_stages if is_alone else 1,
                n_batch=self.policy.n_batch,
            )
        last = min(first + self._prefill_size, len(self._prompt))
        self._n_prefilled = last
        nodes: dict[Node, list[int]] = {}
        if last == len(self._prompt):
            last -= 1
            self._feed(self._tree.root, nodes)
        seq_ids = (self._sequences.first,)
        tokens = [
            RunToken(id=self._prompt[p], position=p, seq_ids=seq_ids) for p in range(first, last)
        ]
        return self._make_run(tokens, nodes)

    def _feed(self, node: Node, nodes: dict[Node, list[int]]) -> bool:
        """Adds a node to a run; False if it has to stay behind."""
        is_fed = self._sequences.feed(node, nodes)
        if is_fed:
            self._tree.mark_fed(node)
        return is_fed

    def _feed_drafts(self, nodes: dict[Node, list[int]], n_most: int) -> None:
        """Feeds the most probable drafted tokens, at most `n_most`.

        Those for whose branch there is no sequence id stay behind.
        """
        n_decided = len(self._tree.text)
        n_room = min(len(nodes) + n_most, self.policy.n_run_max or self.policy.n_batch)
        n_left = 0
        while len(nodes) < n_room and (node := self._tree.unfed_node(n_left)) is not None:
            if node.position < self._n_feed_max and self._feed(node, nodes):
                node.ahead = node.position - n_decided + 1
                self.counters.on_drafted(node.ahead)
            else:
                n_left += 1

    def _make_run(self, tokens: Sequence[RunToken], nodes: dict[Node, list[int]]) -> Run:
        run = Run(
            run_id=next(self._run_ids),
            tokens=(
                *tokens,
                *(
                    RunToken(
                        id=node.token,
                        position=node.position,
                        seq_ids=tuple(ids),
                        want=True,
                        sample=self._sample,
                        mask=node.mask,
                    )
                    for node, ids in nodes.items()
                ),
            ),
            kv_ops=self._pool.take_operations(),
        )
        self._in_flight.add(run, nodes)
        return run

    # results

    def on_result(
        self, result: Result, now_s: float = 0.0, *, is_shared: bool = False
    ) -> list[int]:
        """The token ids that this result, come now, has decided.

        `is_shared`: the run had tokens of other requests, too.
        """
        run = self._in_flight.complete(result)
        decided: list[int] = []
        if run.is_live:
            decided = self._advance(now_s)
            # A prompt's run has no output but for its last token: it says little of others.
            if not is_shared and run.n_tokens == len(run.nodes):
                self.knowledge.costs.on_run(run.n_tokens, result.times)
                self._speculation.on_run()
        n_wrong = sum(node.state is not State.DECIDED for node in run.nodes)
        self.counters.on_result(result, n_tokens=run.n_tokens, n_wrong=n_wrong)
        return decided

    def _advance(self, now_s: float) -> list[int]:
        """The text grows over all that is known by now."""
        dead, verdicts = [], []
        while self._tree.root.next_token is not None:
            self._speculation.on_decided(self._tree.root)
            verdict, died = self._tree.decide()
            dead += died
            verdicts.append(verdict)
            if verdict is Verdict.ACCEPTED:
                self.counters.on_accepted(self._tree.root.ahead)
        if not verdicts:
            return []
        self.counters.n_decided += len(verdicts)
        self.counters.n_verified += 1
        self._sequences.release(self._tree.root, dead)
        self._speculation.on_verdicts(verdicts, now_s)
        if dead:
            self._in_flight.give_up_wrong(dead)
        return self._tree.text[-len(verdicts) :]

    # drafting

    def take_batch(self) -> DraftBatch | None:
        """What to draft now; None if the drafter is at work or nothing more is wanted."""
        if self._n_prefilled < len(self._prompt) or self._n_feed_max == 0:
            return None
        if self.policy.is_synchronous and not self._in_flight.is_idle:
            return None
        batch = self._speculation.take_batch()
        return replace(batch, drafter=self._drafter) if batch and self._drafter else batch

    def on_drafted(self, drafted: DraftedBatch) -> None:
        """The answer to a batch. What is no longer wanted is ignored."""
        self._speculation.on_drafted(drafted)
