"""Strategies as plain values: what the scheduler may do."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

from pipeinfer_cli.errors import UserError
from pipeinfer_cli.scheduler.costs.measured import PriorCosts

# Of bench. The last one is what it traces, and whose acceptance it records.
DEFAULT_STRATEGIES = ("iterative", "speculative", "auto", "pipeinfer")

Strategy = Literal["iterative", "speculative", "pipeinfer", "auto"]
STRATEGIES: tuple[Strategy, ...] = ("iterative", "speculative", "pipeinfer", "auto")
DrafterKind = Literal["none", "ngram", "model", "both", "auto"]
# `pipeinfer` as in the paper: chains of a given length with reactive cutoffs, nothing adaptive;
# and that without one of its parts, to see what the part is worth: fields of Policy.
Ablation = Literal["paper", "no-continuous", "no-cancel", "no-reactive"]
PAPER: Ablation = "paper"
ABLATIONS: tuple[Ablation, ...] = (PAPER, "no-continuous", "no-cancel", "no-reactive")
DRAFTERS: tuple[DrafterKind, ...] = ("none", "ngram", "model", "both", "auto")
# Among which the drafter `auto` chooses, in the order in which they are tried.
CHOICE: tuple[DrafterKind, ...] = ("model", "both", "ngram")
MODEL_DRAFTERS: tuple[DrafterKind, ...] = ("model", "both", "auto")  # they need a draft model

# Most tokens in a run. Longer runs do not make a prompt faster with our kernels (Prompts in
# docs/benchmarks.md), and small ones give all stages of a pipeline something to do.
N_BATCH = 32
MAX_DRAFT = N_BATCH - 1  # tokens: a decided one goes with them
MAX_WIDTH = 16  # candidates per position
N_CANDIDATES = 8  # of them where it is chosen what to draft
MAX_AUTO_DRAFT = 16  # tokens of a draft whose length is chosen from measured costs
MAX_KEPT = 4  # tokens of a run that may be taken back to any of them
MAX_PLACES = 255
IDLE_SHARE = 0.25  # of a run: for that much, no further run is kept in flight


@dataclass(frozen=True, slots=True, kw_only=True)
class StateConfig:
    """Which states of recurrent layers a stage keeps; see struct pi_states.

    The scheduler keeps within these bounds (docs/architecture.md has the design): drafts are chains
    in runs of at most `n_tokens` tokens, and a miss takes a text back over at most `n_runs` runs.
    """

    n_places: int  # for what a run leaves of a sequence
    n_runs: int  # of a sequence, beside its last one
    n_tokens: int  # of a run: the last ones

    @property
    def n_states(self) -> int:
        """Of each recurrent layer; one is an empty text's."""
        return (self.n_places + 1) * self.n_tokens


ONE_TEXT = StateConfig(n_places=3, n_runs=1, n_tokens=1)  # that nothing is drafted for


def kept_states(
    *, depth: int, n_stages: int, n_texts: int, n_draft_max: int, inside_runs: bool
) -> StateConfig:
    """What is needed for a pipeline's requests; `depth` is Policy's.

    n_draft_max: most drafted tokens in a run, 0: nothing is drafted. `inside_runs`: whether states
    inside a run can be kept.
    """
    n_text_places = 2 * n_texts + 1  # each text's last state and the one before; one to spare
    if n_draft_max == 0 or not inside_runs:
        return StateConfig(n_places=min(n_text_places, MAX_PLACES), n_runs=1, n_tokens=1)
    n_drafting = min(n_texts, max(2, n_stages))  # see Batcher.drafting
    return StateConfig(
        n_places=min(n_text_places + n_drafting * depth, MAX_PLACES),
        n_runs=depth,  # those that may be in flight behind the one that a miss goes back to
        n_tokens=min(MAX_KEPT, n_draft_max + 1),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftConfig:
    """Lengths and confidence cutoffs of drafts. Raises UserError where a value is invalid."""

    n_max: int = 8  # drafted tokens in one run at most (--draft-max)
    n_min: int = 0  # shorter drafts are not worth a synchronous verification (--draft-min)
    p_min: float = 0.4  # a token below this probability ends the draft (--draft-p-min, -pa)
    p_recovery: float = 0.1  # the cutoff rises by this at each miss (-pr)
    p_decay: float = 0.1  # and falls by this when the pipeline would idle (-pd)
    width: int = 1  # candidates per position; more than one make a tree (--draft-width)
    p_split: float = 0.1  # a further candidate below this is not worth a branch (--draft-p-split)
    # --draft-max was not given: how long a synchronous draft may be follows from measured costs.
    auto_length: bool = False
    # None of all this was given: what to draft and to feed is chosen by expected gain.
    is_auto: bool = False

    @classmethod
    def of(cls, n_max: int | None, *, is_auto: bool = False, **others: Any) -> DraftConfig:
        """As the options say; `n_max` None: --draft-max auto."""
        if n_max is None:
            return cls(auto_length=True, is_auto=is_auto, **others)
        return cls(n_max=n_max, **others)

    def within(self, states: StateConfig) -> DraftConfig | None:
        """The same as chains whose runs can be taken back; None: there are no such."""
        n_max = min(self.n_max, states.n_tokens - 1)
        if n_max == 0:
            return None
        return replace(self, n_max=n_max, n_min=min(self.n_min, n_max), width=1)

    def __post_init__(self) -> None:
        if not 1 <= self.n_max <= MAX_DRAFT:
            raise UserError(f"--draft-max {self.n_max}: give a number from 1 to {MAX_DRAFT}")
        if not 0 <= self.n_min <= self.n_max:
            raise UserError(
                f"--draft-min {self.n_min}: give a number from 0 to --draft-max ({self.n_max})"
            )
        if not 1 <= self.width <= MAX_WIDTH:
            raise UserError(f"--draft-width {self.width}: give a number from 1 to {MAX_WIDTH}")
        for option, value in (
            ("--draft-p-split", self.p_split),
            ("--draft-p-min/-pa", self.p_min),
            ("-pr", self.p_recovery),
            ("-pd", self.p_decay),
        ):
            if not 0 <= value <= 1:
                raise UserError(f"{option} {value:g}: give a probability from 0 to 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What the scheduler may do.

    - iterative: nothing is drafted;
    - synchronous: one run in flight, which waits for the whole draft;
    - asynchronous: up to `depth` runs in flight; a decided token leaves at once, drafts follow.

    What is drafted and fed follows given lengths and cutoffs (speculation/fixed.py), or is chosen
    by expected gain (speculation/adaptive.py).
    """

    draft: DraftConfig | None = None  # None: iterative
    is_adaptive: bool = False
    is_synchronous: bool = False
    chooses_length: bool = False  # of synchronous drafts; else they have draft.n_max tokens
    shares_cores: bool = False  # drafter and first stage compute in turn, not at the same time
    depth: int = 1  # most live runs in flight
    n_stages: int = 1  # that a prompt is to fill
    n_batch: int = N_BATCH  # most tokens in a run
    run_size: int | None = None  # drafted tokens in a run; None: what costs least, as measured
    prior: PriorCosts | None = None  # what that starts from; None: from nothing
    n_run_max: int | None = None  # tokens in a run that may be taken back; None: n_batch
    # A draft begins when every token of the one before is decided or given up, not before.
    no_continuous: bool = False
    # Runs that rest on a wrong token are computed to their end; what comes of them is ignored.
    no_cancel: bool = False
    # The cutoff stays `p_min`: no rise at a miss, no fall when the pipeline would idle.
    no_reactive: bool = False

    def __post_init__(self) -> None:
        assert self.depth > 0 and self.n_batch > 0
        assert self.draft or not self.is_synchronous, "there is no draft to wait for"

    @property
    def n_draft_max(self) -> int:
        """The most drafted tokens in a run."""
        if self.draft is None:
            return 1
        if self.is_adaptive:
            return MAX_DRAFT
        is_open = self.chooses_length and self.draft.auto_length
        n_most = MAX_AUTO_DRAFT if is_open else self.draft.n_max
        return n_most if self.n_run_max is None else min(n_most, self.n_run_max - 1)

    @staticmethod
    def depth_of(n_stages: int, prior: PriorCosts | None = None) -> int:
        """One run in each stage, and one that waits at the first.

        Where it is known what stages and links take: as many as keep the slowest stage at work, and
        one that waits. More of them would only be wrong more often.
        """
        n_filled = n_stages if prior is None else math.ceil(prior.n_stages_filled() - IDLE_SHARE)
        return min(max(n_filled, 1), 2 * n_stages) + 1

    @classmethod
    def of(
        cls,
        strategy: Strategy,
        draft: DraftConfig | None,
        *,
        n_stages: int,
        n_batch: int = N_BATCH,
        ablations: Collection[Ablation] = (),
        prior: PriorCosts | None = None,
        shares_cores: bool = False,
        states: StateConfig | None = None,
    ) -> Policy:
        """The policy of a strategy for n_stages stages; without a drafter there is only one.

        Of models with recurrent layers, `states` are kept: drafts are chains, if there are any.

        A single stage that takes turns with the drafter gains nothing from drafts that are made
        while it computes: they cost as much as later ones, and may be wrong. So `pipeinfer` is
        synchronous there.
        """
        depth = cls.depth_of(n_stages, prior)
        if draft is not None and states is not None:
            draft = draft.within(states)
        if draft is None or strategy == "iterative":
            return cls(depth=depth, n_batch=n_batch, n_stages=n_stages)
        is_chain = draft.width == 1
        in_turn = shares_cores and n_stages == 1 and is_chain and not ablations
        parts_left_out = [each for each in ablations if each != PAPER]
        return cls(
            draft=draft,
            is_adaptive=draft.is_auto and not ablations and states is None,
            is_synchronous=strategy == "speculative" or in_turn,
            chooses_length=is_chain and (draft.auto_length or strategy != "speculative"),
            shares_cores=shares_cores,
            depth=depth,
            n_stages=n_stages,
            n_batch=n_batch,
            prior=prior,
            n_run_max=states.n_tokens if states is not None else None,
            **{each.replace("-", "_"): True for each in parts_left_out},
        )


def check_ablations(strategy: str, ablations: Collection[str]) -> None:
    """UserError unless the strategy has these forms."""
    for ablation in ablations:
        if ablation not in ABLATIONS:
            raise UserError(f"--strategy {strategy}:{ablation}: give {', '.join(ABLATIONS)}")
        if strategy not in ("pipeinfer", "auto"):
            raise UserError(f"--strategy {strategy}:{ablation}: only pipeinfer has that form")


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One of the ways to the same text that are compared."""

    strategy: Strategy
    ablations: tuple[Ablation, ...] = ()
    drafter: DrafterKind = "none"
    draft_model: str | None = None
    draft: DraftConfig | None = None  # None: nothing is drafted

    @property
    def name(self) -> str:
        """As `--strategy` takes it: `pipeinfer:no-cancel`."""
        return ":".join((self.strategy, *self.ablations))


def parse_strategy(text: str) -> tuple[Strategy, tuple[Ablation, ...]]:
    """`pipeinfer:no-cancel:no-reactive` as a strategy and its ablations."""
    strategy, *ablations = text.split(":")
    if strategy not in STRATEGIES:
        raise UserError(f"--strategy {text!r}: give one or more of {', '.join(STRATEGIES)}")
    check_ablations(strategy, ablations)
    return strategy, cast("tuple[Ablation, ...]", tuple(sorted(set(ablations))))


def check_auto_drafter(drafter: str, strategy: Strategy, name: str) -> None:
    """UserError if a drafter is to be chosen where nothing chooses; `name` is the strategy's."""
    if drafter == "auto" and strategy != "auto":
        raise UserError(f"--drafter auto requires --strategy auto, not {name}")


DEFAULT_DRAFT = DraftConfig(auto_length=True, is_auto=True)
