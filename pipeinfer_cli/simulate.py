"""`pipeinfer simulate`: the speed of strategies on a cluster that is not there."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from pipeinfer_cli.counters import Counters
from pipeinfer_cli.emulation import profile_file, report
from pipeinfer_cli.emulation.bounds import Bounds, ProfileCosts, bounds_of
from pipeinfer_cli.emulation.profile import MAX_STAGES, Profile, check_positive
from pipeinfer_cli.emulation.simulator import HEAD_US, Simulation
from pipeinfer_cli.emulation.synthetic import Luck, RandomLuck, RecordedLuck, SyntheticText
from pipeinfer_cli.errors import UserError
from pipeinfer_cli.pacing import best_run_size, chain_tps
from pipeinfer_cli.policy import DraftConfig, Policy, Strategy
from pipeinfer_cli.scheduler import Scheduler
from pipeinfer_cli.stats import Setting, measure, ratio

SIMULATED: tuple[Strategy, ...] = ("iterative", "speculative", "pipeinfer")  # `auto` measures time
N_PROMPT = 8  # tokens; speed counts from the first generated token on
N_BATCH = 32
MAX_DRAFT = 256
MAX_PREDICT = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulateConfig:
    """Lists make the product. Raises UserError where a value makes no sense."""

    profiles: tuple[str, ...]  # names or paths
    stages: tuple[int, ...] = ()  # empty: those of the profile
    acceptance: tuple[str, ...]  # rates, or files of verdicts
    strategies: tuple[str, ...] = SIMULATED
    draft_max: tuple[int, ...] = (1, 2, 4, 8)
    n_predict: int = 512
    seed: int = 1
    draft_ms: float | None = None  # instead of the profile's
    draft_ratio: float | None = None  # draft_ms as a share of the first stage's time for a token
    head_us: float = HEAD_US
    output: str = "md"

    def __post_init__(self) -> None:
        for name in self.strategies:
            if name not in SIMULATED:
                raise UserError(f"--strategy {name!r}: give some of {', '.join(SIMULATED)}")
        for n_stages in self.stages:
            _check_count("--stages", n_stages, MAX_STAGES)
        for n_max in self.draft_max:
            _check_count("--draft-max", n_max, MAX_DRAFT)
        # Speed counts after the first token.
        _check_count("-n/--n-predict", self.n_predict, MAX_PREDICT, least=2)
        for option, value in (("--draft-ms", self.draft_ms), ("--draft-ratio", self.draft_ratio)):
            if value is not None:
                check_positive(option, value)
        if self.draft_ms is not None and self.draft_ratio is not None:
            raise UserError("--draft-ms and --draft-ratio were both given: give one of them")
        if not 0 <= self.head_us < float("inf"):
            raise UserError(f"--head-us {self.head_us:g}: give a number of 0 or more")
        if self.output not in report.FORMATS:
            raise UserError(f"--output {self.output!r}: give one of {', '.join(report.FORMATS)}")


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
    oracle_tps: float  # `pipeinfer` with a drafter that is always right; see _oracle_tps


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """One line of the table. Shares are parts of 1."""

    profile: str
    n_stages: int
    draft_ms: float
    acceptance: str
    strategy: Strategy
    draft_max: int  # 0: nothing is drafted
    tokens_per_s: float
    chain_tps: float  # of chains without any loss, best runs; 0: unknown for such an acceptance
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
    limits, predictions = [], []
    for profile in _profiles(config):
        limits.append(_limits(profile, config))
        for acceptance in config.acceptance:
            text = SyntheticText(luck=_luck(acceptance, config.seed), seed=config.seed)
            cluster = Cluster(profile=profile, acceptance=acceptance, text=text)
            predictions += compare(cluster, config)
    print(report.formatted(config.output, limits, predictions))
    return 0


def _profiles(config: SimulateConfig) -> Iterator[Profile]:
    for name, n_stages in itertools.product(config.profiles, config.stages or (None,)):
        profile = profile_file.load(name)
        if n_stages is not None and n_stages != profile.n_stages:
            profile = profile.spread(n_stages)
        draft_ms = config.draft_ms or profile.draft_ms
        if config.draft_ratio is not None:
            draft_ms = config.draft_ratio * profile.stages[0].ms(1)
        yield replace(profile, draft_ms=draft_ms)


def _luck(acceptance: str, seed: int) -> Luck:
    if acceptance.endswith(".json"):
        return RecordedLuck.read(Path(acceptance), N_PROMPT)
    return RandomLuck.parse(acceptance, seed)


def _limits(profile: Profile, config: SimulateConfig) -> Limits:
    bounds = bounds_of(profile, head_us=config.head_us, largest=max(config.draft_max))
    return Limits(
        profile=profile.name,
        n_stages=profile.n_stages,
        draft_ms=profile.draft_ms,
        oracle_tps=max(_oracle_tps(profile, n_max, config) for n_max in config.draft_max),
        **asdict(bounds),
    )


def _oracle_tps(profile: Profile, draft_max: int, config: SimulateConfig) -> float:
    """Over the second half of the tokens: the first ones were drafted while the prompt went in."""
    text = SyntheticText(luck=RandomLuck(rates=(1.0,)), seed=config.seed)
    cluster = Cluster(profile=profile, acceptance="1", text=text)
    simulation, _ = _run(cluster, "pipeinfer", draft_max, config)
    times_s = simulation.token_times_s
    middle = len(times_s) // 2
    return ratio(len(times_s) - 1 - middle, times_s[-1] - times_s[middle])


def compare(cluster: Cluster, config: SimulateConfig) -> list[Prediction]:
    """All strategies that were asked for on one cluster."""
    iterative = predict(cluster, "iterative", 0, config)
    found = [
        iterative if strategy == "iterative" else predict(cluster, strategy, n_max, config)
        for strategy in SIMULATED
        if strategy in config.strategies
        for n_max in ((0,) if strategy == "iterative" else config.draft_max)
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


def predict(
    cluster: Cluster, strategy: Strategy, draft_max: int, config: SimulateConfig
) -> Prediction:
    """One simulated request; what it is compared with, `compare` knows."""
    simulation, counters = _run(cluster, strategy, draft_max, config)
    profile = cluster.profile
    now_s = simulation.clock.now_s
    setting = Setting(
        strategy=strategy,
        n_ranks=profile.n_stages + 1,
        n_stages=profile.n_stages,
        n_prompt=N_PROMPT,
    )
    stats = measure(setting, 0.0, simulation.token_times_s, counters)
    return Prediction(
        profile=profile.name,
        n_stages=profile.n_stages,
        draft_ms=profile.draft_ms,
        acceptance=cluster.acceptance,
        strategy=strategy,
        draft_max=draft_max,
        tokens_per_s=stats.tokens_per_s,
        chain_tps=_chain_tps(cluster, max(config.draft_max)),
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


def _run(
    cluster: Cluster, strategy: Strategy, draft_max: int, config: SimulateConfig
) -> tuple[Simulation, Counters]:
    profile, text = cluster.profile, cluster.text
    draft = DraftConfig(n_max=draft_max) if draft_max else None
    scheduler = Scheduler(
        [text.token(position) for position in range(N_PROMPT)],
        n_max=config.n_predict,
        policy=Policy.of(strategy, draft, n_stages=profile.n_stages, n_batch=N_BATCH),
        run_ids=itertools.count(1),
    )
    simulation = Simulation(profile, scheduler, text, n_prompt=N_PROMPT, head_us=config.head_us)
    simulation.run(config.n_predict)
    return simulation, scheduler.counters


def _chain_tps(cluster: Cluster, largest: int) -> float:
    rate = cluster.text.luck.rate
    if rate is None:
        return 0.0
    costs = ProfileCosts(cluster.profile)
    size = best_run_size(costs, acceptance=rate, largest=largest)
    return chain_tps(costs, acceptance=rate, run_size=size)


def _check_count(option: str, value: int, most: int, *, least: int = 1) -> None:
    if not least <= value <= most:
        raise UserError(f"{option} {value}: give a number from {least} to {most}")
