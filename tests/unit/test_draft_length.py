"""How long a synchronous draft shall be, and whether `auto` speculates: on a virtual clock."""

from itertools import count
from statistics import median

import pytest

from pipeinfer_cli.cluster.acceptance.models import RandomAcceptance
from pipeinfer_cli.cluster.acceptance.text import SyntheticText
from pipeinfer_cli.cluster.profile import Link, Profile, StageCurve, assumed_draft
from pipeinfer_cli.cluster.simulator import Simulation
from pipeinfer_cli.scheduler.auto import AutoSpeculation
from pipeinfer_cli.scheduler.costs.draft_length import DraftOdds, best_draft_length, draft_lengths
from pipeinfer_cli.scheduler.policy import DraftConfig, Policy
from pipeinfer_cli.scheduler.scheduler import Scheduler

N_PROMPT, N_TOKENS = 8, 128
FLAT, STEEP = 0.02, 0.3  # T(k + 1) - T(k) over T(1)
SEEDS = range(3)


class Line:
    """Stages that take a second for a token, and so much longer for each further one."""

    def __init__(self, slope, draft_s):
        self.slope, self.draft_s = slope, draft_s

    def compute_s(self, n_tokens):
        return 1 + self.slope * (n_tokens - 1)


def test_rounds_by_hand() -> None:
    """Half right: 1, 1.5, 1.75 tokens in 1, 1.2 and 1.4 seconds."""
    found = draft_lengths(Line(0.1, 0.1), DraftOdds(acceptance=0.5), 2)
    assert [each.tokens_per_s for each in found] == pytest.approx([1, 1.5 / 1.2, 1.75 / 1.4])
    # Half of the drafts have no first token, and half of the others no second: all are tried.
    odds = DraftOdds(acceptance=1, begins=0.5, continues=0.5)
    found = draft_lengths(Line(0.1, 0.1), odds, 2)
    expected = [1, 1.5 / (1 + 0.1 + 0.05), 1.75 / (1 + 0.1 + 0.05 + 0.05 + 0.025)]
    assert [each.tokens_per_s for each in found] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("slope", "draft_s", "acceptance", "n_max"),
    [
        (0.0, 0.01, 1.0, 16),  # nothing speaks against more
        (0.1, 0.1, 0.0, 1),  # at least one: others decide whether to draft at all
        (0.02, 0.01, 0.5, 4),
        (0.02, 0.25, 0.8, 3),
        (0.3, 0.25, 0.8, 2),
        (0.3, 0.6, 0.8, 1),
    ],
)
def test_the_best_length(slope, draft_s, acceptance, n_max) -> None:
    odds = DraftOdds(acceptance=acceptance)
    assert best_draft_length(Line(slope, draft_s), odds, 16).n_max == n_max


def cluster(slope, draft_ratio):
    link = Link(latency_us=20, gbit_per_s=10)
    stage = StageCurve.line(base_ms=40 * (1 - slope), token_ms=40 * slope)
    return Profile(
        name="one",
        stages=(stage,),
        links=(link,),
        result_link=link,
        hidden_bytes=4000,
        draft=assumed_draft(stage, 40 * draft_ratio),
    )


def tokens_per_s(profile, strategy, rate, seed, n_max=None):
    text = SyntheticText(acceptance=RandomAcceptance(rates=(rate,), seed=seed), seed=seed)
    draft = None if strategy == "iterative" else DraftConfig.of(n_max)
    scheduler = Scheduler(
        [text.token(position) for position in range(N_PROMPT)],
        n_max=N_TOKENS,
        policy=Policy.of(strategy, draft, n_stages=1, shares_cores=True),
        run_ids=count(1),
    )
    auto = AutoSpeculation() if strategy == "auto" else None
    simulation = Simulation(profile, scheduler, text, n_prompt=N_PROMPT, auto=auto)
    simulation.run(N_TOKENS)
    times_s = simulation.token_times_s
    return (N_TOKENS - 1) / (times_s[N_TOKENS - 1] - times_s[0])


@pytest.mark.parametrize("slope", [FLAT, STEEP])
@pytest.mark.parametrize("draft_ratio", [0.01, 0.1, 0.25, 0.6])
def test_auto_on_shared_cores_costs_little_where_drafts_are_always_wrong(
    slope, draft_ratio
) -> None:
    profile = cluster(slope, draft_ratio)
    plain = tokens_per_s(profile, "iterative", 0.0, 1)
    assert tokens_per_s(profile, "auto", 0.0, 1) > 0.97 * plain


@pytest.mark.parametrize("slope", [FLAT, STEEP])
@pytest.mark.parametrize("draft_ratio", [0.1, 0.25, 0.6])
@pytest.mark.parametrize("rate", [0.5, 0.8, 1.0])
def test_auto_on_shared_cores_keeps_gains(slope, draft_ratio, rate) -> None:
    """Of the best of iterative and a chosen length; in the median of some texts."""
    profile = cluster(slope, draft_ratio)
    shares = []
    for seed in SEEDS:
        names = ("iterative", "speculative", "pipeinfer")
        best = max(tokens_per_s(profile, name, rate, seed) for name in names)
        shares.append(tokens_per_s(profile, "auto", rate, seed) / best)
    assert median(shares) > 0.93


@pytest.mark.parametrize("slope", [FLAT, STEEP])
@pytest.mark.parametrize(("draft_ratio", "rate"), [(0.1, 0.5), (0.1, 0.8), (0.25, 0.8)])
def test_a_chosen_length_is_nearly_as_good_as_the_best_given_one(slope, draft_ratio, rate) -> None:
    profile = cluster(slope, draft_ratio)
    shares = []
    for seed in SEEDS:
        given = [tokens_per_s(profile, "speculative", rate, seed, n) for n in (1, 2, 3, 4, 6, 8)]
        shares.append(tokens_per_s(profile, "speculative", rate, seed) / max(given))
    assert median(shares) > 0.85


def test_pipeinfer_is_synchronous_on_one_stage_that_shares_cores() -> None:
    draft = DraftConfig(n_max=5)
    of = Policy.of("pipeinfer", draft, n_stages=1, shares_cores=True)
    assert (of.is_synchronous, of.chooses_length, of.n_draft_max) == (True, True, 5)
    assert not Policy.of("pipeinfer", draft, n_stages=2, shares_cores=True).is_synchronous
    assert not Policy.of("pipeinfer", draft, n_stages=1).is_synchronous
    assert not Policy.of("speculative", draft, n_stages=1).chooses_length
    assert Policy.of("speculative", DraftConfig.of(None), n_stages=1).chooses_length
