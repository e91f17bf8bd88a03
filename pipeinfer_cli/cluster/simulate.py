"""`pipeinfer simulate`: the simulated speed of strategies on a cluster."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from pipeinfer_cli.checks import check_count, check_lists
from pipeinfer_cli.cluster import profile_toml, report
from pipeinfer_cli.cluster.acceptance.models import (
    AcceptanceModel,
    RandomAcceptance,
    RecordedAcceptance,
    RepeatedAcceptance,
)
from pipeinfer_cli.cluster.acceptance.source import SimulatedSource
from pipeinfer_cli.cluster.acceptance.text import SyntheticText
from pipeinfer_cli.cluster.bounds import Bounds, ProfileCosts, TextBound, bounds_of
from pipeinfer_cli.cluster.profile import MAX_STAGES, Profile, check_positive
from pipeinfer_cli.cluster.simulator import HEAD_US, Simulation
from pipeinfer_cli.errors import UserError
from pipeinfer_cli.scheduler.costs.run_size import best_run_sizes, chain_tps
from pipeinfer_cli.scheduler.metrics import Counters, RequestInfo, measure, ratio
from pipeinfer_cli.scheduler.policy import (
    CHOICE,
    DEFAULT_DRAFT,
    MAX_AUTO_DRAFT,
    MAX_DRAFT,
    N_CANDIDATES,
    DraftConfig,
    DrafterKind,
    Policy,
    Strategy,
    Variant,
    check_auto_drafter,
    parse_strategy,
)
from pipeinfer_cli.scheduler.scheduler import Knowledge, Scheduler

ITERATIVE = Variant(strategy="iterative")
N_PROMPT = 8  # tokens; speed counts from the first generated token on
MAX_PREDICT = 1_000_000
SIMULATED_DRAFTERS = (*CHOICE, "auto")


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulateConfig:
    """Lists make the product. Raises UserError where a value is invalid."""

    profiles: tuple[str, ...]  # names or paths
    stages: tuple[int, ...] = ()  # empty: those of the profile
    acceptance: tuple[str, ...]  # rates, or files of verdicts
    strategies: tuple[str, ...] = ("iterative", "speculative", "pipeinfer")  # or `pipeinfer:...`
    # None: auto. If there is nothing else, and all the others are as they come, it is chosen by
    # expected gain what to draft; strategies named `...:paper` never do that.
    draft_max: tuple[int | None, ...] = (None,)
    draft_width: tuple[int, ...] = (1,)
    drafters: tuple[str, ...] = ("model",)
    repetition: float = 0.0  # share of the text that n-grams know
    draft_p_split: tuple[float, ...] = (DEFAULT_DRAFT.p_split,)
    draft_p_min: tuple[float, ...] = (DEFAULT_DRAFT.p_min,)
    n_prompt: int = N_PROMPT
    n_predict: int = 512
    seed: int = 1
    draft_ms: float | None = None  # instead of the profile's
    draft_ratio: float | None = None  # draft_ms as a share of the first stage's time for a token
    head_us: float = HEAD_US
    shares_cores: bool = False  # a single stage computes when the drafter does not
    output: str = "auto"
    is_auto: bool = True  # no option says how to draft

    def __post_init__(self) -> None:
        check_lists(
            {
                "--profile": self.profiles,
                "--acceptance": self.acceptance,
                "--strategy": self.strategies,
                "--drafter": self.drafters,
                "--draft-max": self.draft_max,
                "--draft-width": self.draft_width,
                "--draft-p-split": self.draft_p_split,
                "-pa/--draft-p-min": self.draft_p_min,
            }
        )
        self.variants()  # says what is wrong with them
        for n_stages in self.stages:
            check_count("--stages", n_stages, MAX_STAGES)
        check_count("--prompt-tokens", self.n_prompt, MAX_PREDICT)
        # Speed counts after the first token.
        check_count("-n/--n-predict", self.n_predict, MAX_PREDICT, least=2)
        for option, value in (("--draft-ms", self.draft_ms), ("--draft-ratio", self.draft_ratio)):
            if value is not None:
                check_positive(option, value)
        if self.draft_ms is not None and self.draft_ratio is not None:
            raise UserError("--draft-ms cannot be combined with --draft-ratio: give one of them")
        RepeatedAcceptance(share=self.repetition)
        if self.shares_cores and self.stages != (1,):
            raise UserError("--shared-cores requires --stages 1")
        if not 0 <= self.head_us < float("inf"):
            raise UserError(f"--head-us {self.head_us:g}: give a number of 0 or more")
        if self.output not in report.FORMATS:
            raise UserError(f"--output {self.output!r}: give one of {', '.join(report.FORMATS)}")

    @property
    def largest_draft(self) -> int:
        """Of all variants."""
        return max(MAX_AUTO_DRAFT if each is None else each for each in self.draft_max)

    def variants(self) -> list[Variant]:
        """The ways to the text that are compared."""
        drafts = [
            DraftConfig.of(n_max, width=width, p_split=p_split, p_min=p_min, is_auto=self.is_auto)
            for width, p_split, p_min, n_max in itertools.product(
                self.draft_width, self.draft_p_split, self.draft_p_min, self.draft_max
            )
        ]
        found: list[Variant] = []
        for strategy, ablations in map(parse_strategy, self.strategies):
            if strategy == "iterative":
                found.append(ITERATIVE)
            else:
                found += (
                    Variant(strategy=strategy, ablations=ablations, drafter=drafter, draft=draft)
                    for drafter, draft in itertools.product(self._drafters(strategy), drafts)
                )
        return found

    def _drafters(self, strategy: Strategy) -> Iterator[DrafterKind]:
        for drafter in self.drafters:
            if drafter not in SIMULATED_DRAFTERS:
                choice = ", ".join(SIMULATED_DRAFTERS)
                raise UserError(f"--drafter {drafter!r}: give one or more of {choice}")
            check_auto_drafter(drafter, strategy, strategy)
            yield drafter


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """One profile with one acceptance: what strategies are compared on."""

    profile: Profile
    acceptance: str  # as it was asked for
    text: SyntheticText


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits(Bounds):
    """What the profile allows, whatever the acceptance."""

    profile: str
    n_stages: int
    draft_ms: float
    drafted_tps: float  # see Bounds
    oracle_tps: float  # `pipeinfer` with a drafter that is always right; see _oracle_tps


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """One line of the table. Shares are parts of 1."""

    profile: str
    n_stages: int
    draft_ms: float
    acceptance: str
    strategy: str  # may have ablations
    drafter: str
    draft_max: int | None  # 0: nothing is drafted; None: chosen from measured costs
    draft_width: int
    draft_p_split: float
    draft_p_min: float
    tokens_per_s: float
    bound_tps: float  # nothing writes this text faster with drafts of these lengths; see TextBound
    chain_tps: float  # chains without any loss, the mean of all texts; 0: unknown for such rates
    speedup: float = 0.0  # over iterative
    over_speculative: float = 0.0  # over the fastest `speculative` of the table; 0: there is none
    utilisation: float  # compute of the stages over their time; the mean of all stages
    wasted: float  # of the compute: for tokens that are not in the text
    acceptance_rate: float  # as in the stats of generate: accepted / drafted
    drafter_busy: float  # of the time
    n_runs: int
    n_invalidated: int  # runs that rest on a wrong token
    n_aborted: int  # of these: in mid-compute
    n_cancels: int  # what the head sent; each goes to all stages
    n_generated: int
    seed: int


def simulate(config: SimulateConfig) -> int:
    """Prints the table; the exit code."""
    sections = [
        (_limits(profile, config), _predictions(profile, config)) for profile in _profiles(config)
    ]
    report.report(config.output, sections)
    return 0


def predictions(config: SimulateConfig) -> list[Prediction]:
    """All that was asked for."""
    return [each for profile in _profiles(config) for each in _predictions(profile, config)]


def _predictions(profile: Profile, config: SimulateConfig) -> list[Prediction]:
    found = []
    for acceptance in config.acceptance:
        text = SyntheticText(acceptance=_acceptance_model(acceptance, config), seed=config.seed)
        cluster = Cluster(profile=profile, acceptance=acceptance, text=text)
        found += compare(cluster, config)
    return found


def _profiles(config: SimulateConfig) -> Iterator[Profile]:
    for name, n_stages in itertools.product(config.profiles, config.stages or (None,)):
        profile = profile_toml.load(name)
        if n_stages is not None and n_stages != profile.n_stages:
            profile = profile.spread(n_stages)
        if config.draft_ratio is not None:
            profile = profile.with_draft_ratio(config.draft_ratio)
        if config.draft_ms is not None:
            profile = profile.with_draft_ms(config.draft_ms)
        yield profile


def _acceptance_model(acceptance: str, config: SimulateConfig) -> AcceptanceModel:
    if acceptance.endswith(".json"):
        return RecordedAcceptance.read(Path(acceptance), config.n_prompt)
    return RandomAcceptance.parse(acceptance, config.seed)


def _limits(profile: Profile, config: SimulateConfig) -> Limits:
    # A decided token goes with the drafted ones.
    bounds = bounds_of(profile, head_us=config.head_us, largest=config.largest_draft + 1)
    drafts = [
        DraftConfig.of(n_max, width=width)
        for n_max, width in itertools.product(config.draft_max, config.draft_width)
    ]
    return Limits(
        profile=profile.name,
        n_stages=profile.n_stages,
        draft_ms=profile.draft_ms,
        drafted_tps=bounds.drafted_tps,
        oracle_tps=max(_oracle_tps(profile, draft, config) for draft in drafts),
        **asdict(bounds),
    )


def _oracle_tps(profile: Profile, draft: DraftConfig, config: SimulateConfig) -> float:
    """Of all tokens, or of their second half: the first ones are drafted while the prompt goes in.

    With few tokens that makes all of them faster, else the second half.
    """
    text = SyntheticText(acceptance=RandomAcceptance(rates=(1.0,)), seed=config.seed)
    cluster = Cluster(profile=profile, acceptance="1", text=text)
    simulation, _ = _run(
        cluster, Variant(strategy="pipeinfer", drafter="model", draft=draft), config
    )
    times_s = simulation.token_times_s
    last = len(times_s) - 1
    return max(
        ratio(last - first, times_s[-1] - times_s[first]) for first in (0, len(times_s) // 2)
    )


def compare(cluster: Cluster, config: SimulateConfig) -> list[Prediction]:
    """All strategies that were asked for on one cluster."""
    iterative = predict(cluster, ITERATIVE, config)
    found = [
        iterative if variant == ITERATIVE else predict(cluster, variant, config)
        for variant in config.variants()
    ]
    synchronous = [each.tokens_per_s for each in found if each.strategy == "speculative"]
    return [
        replace(
            each,
            speedup=each.tokens_per_s / iterative.tokens_per_s,
            over_speculative=each.tokens_per_s / max(synchronous) if synchronous else 0.0,
        )
        for each in found
    ]


def predict(cluster: Cluster, variant: Variant, config: SimulateConfig) -> Prediction:
    """One simulated request; what it is compared with, `compare` knows."""
    simulation, counters = _run(cluster, variant, config)
    profile, draft = cluster.profile, variant.draft
    now_s = simulation.clock.now_s
    info = RequestInfo(
        strategy=variant.name,
        n_ranks=profile.n_stages + 1,
        n_stages=profile.n_stages,
        n_prompt=config.n_prompt,
    )
    stats = measure(info, 0.0, simulation.token_times_s, counters)
    return Prediction(
        profile=profile.name,
        n_stages=profile.n_stages,
        draft_ms=profile.draft_ms,
        acceptance=cluster.acceptance,
        strategy=variant.name,
        drafter=variant.drafter,
        draft_max=_draft_max(draft),
        draft_width=draft.width if draft else 0,
        draft_p_split=draft.p_split if draft else 0.0,
        draft_p_min=draft.p_min if draft else 0.0,
        tokens_per_s=stats.tokens_per_s,
        bound_tps=_bound_tps(cluster, variant, simulation.token_times_s, config),
        chain_tps=_chain_tps(cluster, config),
        utilisation=float(simulation.pipeline.busy_s(now_s).mean()) / now_s,
        wasted=ratio(sum(stats.wasted_ms), sum(stats.busy_ms)),
        acceptance_rate=stats.acceptance_rate,
        drafter_busy=simulation.drafts.busy_s / now_s,
        n_runs=stats.n_runs,
        n_invalidated=stats.n_invalidated,
        n_aborted=stats.n_aborted,
        n_cancels=simulation.n_cancels,
        n_generated=stats.n_generated,
        seed=config.seed,
    )


def _run(cluster: Cluster, variant: Variant, config: SimulateConfig) -> tuple[Simulation, Counters]:
    profile, text = cluster.profile, cluster.text
    policy = Policy.of(
        variant.strategy,
        variant.draft,
        n_stages=profile.n_stages,
        ablations=variant.ablations,
        shares_cores=config.shares_cores,
    )
    names = CHOICE if variant.drafter == "auto" else ("",)
    known = Knowledge.of(None, n_stages=profile.n_stages, drafters=names)
    scheduler = Scheduler(
        [text.token(position) for position in range(config.n_prompt)],
        n_max=config.n_predict,
        policy=policy,
        run_ids=itertools.count(1),
        knowledge=known,
    )
    simulation = Simulation(
        profile,
        scheduler,
        text,
        n_prompt=config.n_prompt,
        head_us=config.head_us,
        auto=known.auto if variant.strategy == "auto" else None,
        source=SimulatedSource(
            text, profile.draft_batch_s, kind=variant.drafter, repetition=config.repetition
        ),
    )
    simulation.run(config.n_predict)
    return simulation, scheduler.counters


def _draft_max(draft: DraftConfig | None) -> int | None:
    if draft is None:
        return 0
    return None if draft.auto_length else draft.n_max


def _bound_tps(
    cluster: Cluster, variant: Variant, times_s: Sequence[float], config: SimulateConfig
) -> float:
    """Over the same tokens as `tokens_per_s`: all but the first."""
    draft = variant.draft
    n_candidates, largest = 0, 1
    if draft is not None and draft.is_auto:
        n_candidates, largest = N_CANDIDATES, 1 + MAX_DRAFT
    elif draft is not None:
        n_candidates = draft.width
        largest = 1 + (MAX_AUTO_DRAFT if draft.auto_length else draft.n_max)
    bound = TextBound(
        profile=cluster.profile,
        bounds=bounds_of(cluster.profile, head_us=config.head_us, largest=largest),
        largest=largest,
        n_prompt=config.n_prompt,
    )
    models: list[AcceptanceModel] = []
    if variant.drafter != "ngram":
        models.append(cluster.text.acceptance)
    if variant.drafter != "model":
        models.append(RepeatedAcceptance(share=config.repetition, seed=config.seed))
    positions = range(config.n_prompt, config.n_prompt + len(times_s))
    known = [
        any(model.best_rank(position) < n_candidates for model in models) for position in positions
    ]
    return ratio(len(times_s) - 1, bound.least_s(known, first_s=times_s[0]))


def _chain_tps(cluster: Cluster, config: SimulateConfig) -> float:
    """An ideal scheduler decodes plainly where drafts cost more than they gain."""
    rate = cluster.text.acceptance.rate
    if rate is None:
        return 0.0
    costs = ProfileCosts(cluster.profile)
    sizes = best_run_sizes(costs, acceptance=rate, largest=config.largest_draft)
    plain = bounds_of(cluster.profile, head_us=config.head_us, largest=1)
    return max(chain_tps(costs, sizes, acceptance=rate), plain.iterative_tps)
