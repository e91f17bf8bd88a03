"""Strategies on a virtual clock, in cases that can be worked out by hand."""

from itertools import count, pairwise

import pytest

from pipeinfer_cli.cluster import profile_toml
from pipeinfer_cli.cluster.acceptance.models import RandomAcceptance
from pipeinfer_cli.cluster.acceptance.text import SyntheticText
from pipeinfer_cli.cluster.bounds import ProfileCosts, TextBound, bounds_of
from pipeinfer_cli.cluster.profile import Link, Profile, StageCurve, assumed_draft
from pipeinfer_cli.cluster.simulator import Clock, SimulatedDrafter, Simulation
from pipeinfer_cli.scheduler.costs.run_size import RunSizes, best_run_sizes, chain_tps
from pipeinfer_cli.scheduler.policy import DraftConfig, Policy
from pipeinfer_cli.scheduler.scheduler import Scheduler
from pipeinfer_cli.scheduler.speculation import Draft, DraftRequest

N_PROMPT = 4


def flat(n_stages, ms=10.0, draft_ms=2.0, link=None):
    link = link or Link(latency_us=100, gbit_per_s=1)
    stage = StageCurve.line(base_ms=ms, token_ms=0)
    return Profile(
        name="flat",
        stages=(stage,) * n_stages,
        links=(link,) * n_stages,
        result_link=link,
        hidden_bytes=1000,
        draft=assumed_draft(stage, draft_ms),
    )


def simulate(profile, strategy, rate, n_max=1, n=60, seed=1, head_us=50.0):
    text = SyntheticText(acceptance=RandomAcceptance(rates=(rate,), seed=seed), seed=seed)
    prompt = [text.token(position) for position in range(N_PROMPT)]
    draft = None if strategy == "iterative" else DraftConfig(n_max=n_max)
    policy = Policy.of(strategy, draft, n_stages=profile.n_stages, n_batch=32)
    scheduler = Scheduler(prompt, n_max=n, policy=policy, run_ids=count(1))
    simulation = Simulation(profile, scheduler, text, n_prompt=N_PROMPT, head_us=head_us)
    simulation.run(n)
    return simulation


def gaps_ms(simulation):
    return [1000 * (b - a) for a, b in pairwise(simulation.token_times_s)]


@pytest.mark.parametrize("name", profile_toml.names())
def test_iterative_is_the_sum(name) -> None:
    profile = profile_toml.load(name)
    expected_ms = 0.050 + sum(stage.ms(1) for stage in profile.stages)
    for link, n_bytes in zip(profile.links, [0] + [32768] * (profile.n_stages - 1), strict=True):
        expected_ms += link.latency_us / 1000 + 8e-6 * n_bytes / link.gbit_per_s
    expected_ms += profile.result_link.latency_us / 1000
    found_ms = gaps_ms(simulate(profile, "iterative", 0.5, n=20))
    assert found_ms == pytest.approx([expected_ms] * 19)
    bounds = bounds_of(profile, head_us=50, largest=8)
    assert bounds.iterative_tps == pytest.approx(1000 / expected_ms)


@pytest.mark.parametrize("n_stages", [1, 2, 5, 16])
def test_oracle_reaches_the_pipeline_bound(n_stages) -> None:
    profile = flat(n_stages)  # five tokens can be drafted while a stage computes one run
    found_ms = gaps_ms(simulate(profile, "pipeinfer", 1.0, n=100))
    assert found_ms[60:] == pytest.approx([10.0] * 39)
    assert bounds_of(profile, head_us=50, largest=1).pipeline_tps == pytest.approx(100)


@pytest.mark.parametrize("n_stages", [2, 5, 16])
def test_oracle_reaches_the_draft_bound(n_stages) -> None:
    profile = flat(n_stages, draft_ms=13.0)
    found_ms = gaps_ms(simulate(profile, "pipeinfer", 1.0, n=100))
    assert found_ms[60:] == pytest.approx([13.0] * 39)
    assert bounds_of(profile, head_us=50, largest=1).draft_tps == pytest.approx(1000 / 13)


def test_larger_runs_raise_the_pipeline_bound() -> None:
    bounds = bounds_of(profile_toml.load("cpu70b-8-ib"), head_us=50, largest=16)
    assert bounds.pipeline_tps == pytest.approx(1000 / 25)
    assert bounds.batch == 16
    assert bounds.batched_tps == pytest.approx(16 * 1000 / 79)


@pytest.mark.parametrize("strategy", ["speculative", "pipeinfer"])
@pytest.mark.parametrize("name", ["cpu70b-4-gbe", "cpu70b-8-ib"])
@pytest.mark.parametrize("n_max", [1, 4])
def test_always_wrong_never_beats_iterative(strategy, name, n_max) -> None:
    profile = profile_toml.load(name)
    plain = simulate(profile, "iterative", 0.0).token_times_s
    wrong = simulate(profile, strategy, 0.0, n_max).token_times_s
    assert all(a <= b + 1e-9 for a, b in zip(plain, wrong, strict=True))


def test_synchronous_rounds_by_hand() -> None:
    """Always right, 3 drafted tokens: 3 x 2 ms, then one pass decides them and a bonus token."""
    profile = flat(3, link=Link(latency_us=100, gbit_per_s=1000))
    simulation = simulate(profile, "speculative", 1.0, n_max=3, n=41)
    times_ms = [1000 * time for time in simulation.token_times_s]
    round_ms = 3 * 2 + 0.05 + 3 * 10 + 4 * 0.1 + 2 * 4 * 1000 * 8e-9
    assert times_ms[4 * 8] - times_ms[4] == pytest.approx(7 * round_ms)
    assert gaps_ms(simulation)[1:4] == [0, 0, 0]


def test_misses_cancel_and_free_the_stages() -> None:
    """Always wrong on 4 stages: what follows the right token is given up when its result comes."""
    profile = flat(4)
    simulation = simulate(profile, "pipeinfer", 0.0, n=40)
    assert simulation.n_cancels >= 38
    plain = simulate(profile, "iterative", 0.0, n=40)
    # Stages that were busy with wrong tokens are free for the right one when the cancel is there.
    extra_s = simulation.token_times_s[-1] - plain.token_times_s[-1]
    assert extra_s <= 40 * 100e-6


def test_same_seed_same_times() -> None:
    profile = profile_toml.load("cpu70b-8-gbe")
    one, same, other = (
        simulate(profile, "pipeinfer", 0.7, 2, seed=seed).token_times_s for seed in (3, 3, 4)
    )
    assert one == same
    assert one != other


@pytest.mark.parametrize("rate", [0.3, 0.6, 0.9])
def test_strategies_meet_the_same_verdicts(rate) -> None:
    """With one run in flight at a time, more draft never decides fewer tokens per round."""
    profile = flat(4, draft_ms=1e-6)
    rounds = {
        n_max: len(set(simulate(profile, "speculative", rate, n_max, n=200).token_times_s))
        for n_max in (1, 2, 4, 8)
    }
    assert rounds[1] >= rounds[2] >= rounds[4] >= rounds[8]


def test_512_stages() -> None:
    profile = profile_toml.load("cpu70b-31-ib").spread(512)
    simulation = simulate(profile, "pipeinfer", 0.95, n=64)
    assert len(simulation.token_times_s) >= 64
    assert simulation.pipeline.busy_s(simulation.clock.now_s).shape == (512,)


class Numbers:
    def propose(self, context, n_candidates=1):
        yield from ([(number, 0.5)] for number in range(len(context), 100))


def test_draft_of_an_earlier_epoch_ends_with_its_token() -> None:
    """As thread.DraftThread: the token under way takes its time, and is not posted."""
    clock, posted = Clock(), []
    drafter = SimulatedDrafter(
        clock, Numbers(), 2.0, lambda: posted.extend((clock.now_s, each) for each in drafter.take())
    )
    drafter.request(DraftRequest(0, (7, 7), 5))
    clock.at(3.0, lambda: drafter.set_epoch(1))
    clock.at(3.0, lambda: drafter.request(DraftRequest(1, (7, 7, 8), 2)))
    for _ in range(2 + 4):  # the two above, and four tokens
        clock.step()
    assert posted == [
        (2.0, Draft(0, 2, 2, 0.5, took_us=2_000_000)),
        (6.0, Draft(1, 3, 3, 0.5, took_us=2_000_000)),
        (8.0, Draft(1, 4, 4, 0.5, took_us=2_000_000)),
        (8.0, Draft(1, 3, None)),
    ]
    assert drafter.busy_s == 8.0


def test_chains_without_loss_by_hand() -> None:
    """Flat stages of 10 ms, two of them."""
    profile = ProfileCosts(flat(2))
    assert chain_tps(profile, RunSizes(3), acceptance=0) == pytest.approx(1000 / 20)
    # Two tokens per cycle: 20 ms, 10 more with probability 1/2, again with 1/4, 1/8, ...
    assert chain_tps(profile, RunSizes(1), acceptance=0.5) == pytest.approx(2 * 1000 / 30)
    assert chain_tps(profile, RunSizes(3), acceptance=1) == pytest.approx(3 * 1000 / 10)


@pytest.mark.parametrize(
    ("known", "expected_ms"),
    [
        # Two stages of 10 ms, a draft of 2 ms: a token that is not known takes 20 ms.
        ([False, False, False], 2 * 20),
        ([False, True, False], 20 + 2),
        # Ends with a known one, which the run of the token before it decides.
        ([False, True, True], 20 + 2),
        # One of three pass a stage, and the next takes 20 ms again.
        ([False, True, True, False, False], 3 * 10 + 20),
        # All are known, and drafted since 0; but they leave one by one.
        ([True] * 5, 4 * 10),
        # Runs of one token: seven pass a stage after the first.
        ([False] + [True] * 6 + [False], 7 * 10),
    ],
)
def test_the_least_time_of_a_text_by_hand(known, expected_ms) -> None:
    profile = flat(2)
    bound = TextBound(
        profile=profile,
        bounds=bounds_of(profile, head_us=0, largest=1),
        largest=1,
        n_prompt=1,
    )
    links_ms = 1000 * profile.links_s()
    found_ms = 1000 * bound.least_s(known, first_s=0.02)
    assert expected_ms <= found_ms <= expected_ms + 4 * links_ms


@pytest.mark.parametrize(
    ("rate", "sizes"), [(0.5, (1, 0)), (0.66, (2, 0)), (0.79, (2, 0)), (0.9, (3, 1))]
)
def test_best_run_sizes(rate, sizes) -> None:
    profile = profile_toml.load("cpu70b-8-ib")
    costs = ProfileCosts(profile)
    assert best_run_sizes(costs, acceptance=rate, largest=16) == sizes
    # No scheduler of chains may be faster, except by chance over 600 tokens.
    ideal_tps = chain_tps(costs, RunSizes(*sizes), acceptance=rate)
    times_s = simulate(profile, "pipeinfer", rate, sizes[0], n=600).token_times_s
    assert 599 / (times_s[599] - times_s[0]) < 1.1 * ideal_tps
