"""Strategies on a virtual clock, in cases that can be worked out by hand."""

from itertools import count, pairwise
from statistics import mean, median

import pytest

from pipeinfer_cli.cluster import profile_toml
from pipeinfer_cli.cluster.acceptance.models import RandomAcceptance
from pipeinfer_cli.cluster.acceptance.text import SyntheticText
from pipeinfer_cli.cluster.bounds import ProfileCosts, TextBound, bounds_of
from pipeinfer_cli.cluster.profile import Link, Profile, StageCurve, assumed_draft
from pipeinfer_cli.cluster.simulator import Clock, SimulatedDrafter, Simulation
from pipeinfer_cli.scheduler.costs.run_size import RunSizes, best_run_sizes, chain_tps
from pipeinfer_cli.scheduler.interfaces import DraftBatch, DraftedBatch
from pipeinfer_cli.scheduler.policy import DEFAULT_DRAFT, DraftConfig, Policy
from pipeinfer_cli.scheduler.scheduler import Scheduler

N_PROMPT = 4
ADAPTIVE = 0  # for the length of drafts: it is chosen, and so is all else


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
    draft = DraftConfig(n_max=n_max) if n_max else DEFAULT_DRAFT
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


@pytest.mark.parametrize("n_stages", [2, 5, 16])
@pytest.mark.parametrize("draft_ms", [2.0, 13.0])
def test_an_oracle_that_drafts_one_token_at_a_time_sets_the_pace_of_adaptive_speculation(
    n_stages, draft_ms
) -> None:
    """Its path is certain: there is never more than one node to expand."""
    profile = flat(n_stages, draft_ms=draft_ms)
    found_ms = gaps_ms(simulate(profile, "pipeinfer", 1.0, ADAPTIVE, n=400))
    assert mean(found_ms[200:]) < 1.1 * draft_ms


@pytest.mark.parametrize("name", ["cpu70b-4-gbe", "cpu70b-8-ib", "flat-8"])
@pytest.mark.parametrize("rate", [0.5, 0.79])
def test_adaptive_speculation_is_about_as_fast_as_the_best_chains(name, rate) -> None:
    """In the median of some texts."""
    profile = profile_toml.load(name)
    shares = []
    for seed in range(3):
        spans_s = [
            simulate(profile, "pipeinfer", rate, n_max, n=128, seed=seed).token_times_s[127]
            for n_max in (ADAPTIVE, 1, 3)
        ]
        shares.append(min(spans_s[1:]) / spans_s[0])
    assert median(shares) > 0.93


def test_larger_runs_raise_the_pipeline_bound() -> None:
    bounds = bounds_of(profile_toml.load("cpu70b-8-ib"), head_us=50, largest=16)
    assert bounds.pipeline_tps == pytest.approx(1000 / 25)
    assert bounds.batch == 16
    assert bounds.batched_tps == pytest.approx(16 * 1000 / 79)


@pytest.mark.parametrize("strategy", ["speculative", "pipeinfer"])
@pytest.mark.parametrize("name", ["cpu70b-4-gbe", "cpu70b-8-ib"])
@pytest.mark.parametrize("n_max", [1, 4, ADAPTIVE])
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


@pytest.mark.parametrize("n_max", [2, ADAPTIVE])
def test_same_seed_same_times(n_max) -> None:
    profile = profile_toml.load("cpu70b-8-gbe")
    one, same, other = (
        simulate(profile, "pipeinfer", 0.7, n_max, seed=seed).token_times_s for seed in (3, 3, 4)
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


class Lengths:
    """What follows a branch is its length."""

    def expand(self, batch, is_wanted):
        return [[(batch.n_text + len(branch), 0.5)] for branch in batch.branches]

    def batch_s(self, batch):
        return 1.0 + len(batch.branches)


def test_batches_of_earlier_epochs_take_their_time_and_are_not_posted() -> None:
    """As with thread.DraftThread: what is under way ends, what waits does not begin."""
    clock, posted = Clock(), []
    drafter = SimulatedDrafter(
        clock,
        Lengths(),
        lambda: posted.extend((clock.now_s, each) for each in drafter.take()),
    )
    text = [7, 7]
    drafter.request(DraftBatch(1, text, 2, ((),), 1))
    clock.at(3.0, lambda: drafter.request(DraftBatch(2, text, 2, ((), (8,)), 1)))
    clock.at(4.0, lambda: drafter.request(DraftBatch(3, text, 2, ((8, 9),), 1)))
    clock.at(5.0, lambda: drafter.request(DraftBatch(4, text, 2, ((8,), (9,)), 1)))
    for _ in range(3 + 3):  # the three above, and what is carried out
        clock.step()
    assert posted == [
        (2.0, DraftedBatch(1, ([(2, 0.5)],), took_us=2_000_000)),
        (9.0, DraftedBatch(4, ([(3, 0.5)], [(3, 0.5)]), took_us=3_000_000)),
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
