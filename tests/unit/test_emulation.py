"""Emulated clusters and synthetic texts, as far as the head goes: no ranks, no real clock."""

from itertools import islice

import pytest

from pipeinfer_cli.cluster.emulation import (
    EmulationSettings,
    PacedDrafter,
    check_model,
    count_ranks,
    load_profile,
    rank_emulation,
)
from pipeinfer_cli.cluster.overruns import Overruns
from pipeinfer_cli.cluster.profile import Link, Profile, StageCurve
from pipeinfer_cli.commands.generate_config import GenerateConfig, Prompt
from pipeinfer_cli.errors import UserError
from pipeinfer_cli.models.layer_split import LayerRange
from pipeinfer_cli.runtime.head import Head, Request
from pipeinfer_cli.scheduler.interfaces import DraftBatch
from pipeinfer_cli.scheduler.policy import DraftConfig
from pipeinfer_cli.scheduler.runs import StageTime
from plans import plan_of
from scripted import PositionPipeline

PROFILE = Profile(
    name="test",
    stages=(StageCurve.line(base_ms=10, token_ms=1), StageCurve.line(base_ms=20, token_ms=2)),
    links=(Link(latency_us=5, gbit_per_s=8), Link(latency_us=6.4, gbit_per_s=0.8)),
    result_link=Link(latency_us=7, gbit_per_s=80),
    hidden_bytes=1000,
    draft=StageCurve(points=((1, 4),)),
)


class RealEngine(PositionPipeline):
    """In place of the model: rows that no synthetic text has, and results of an hour's delay."""

    def row(self, token):
        return -1

    def times(self, run, status):
        late_us = 1500 if run.run_id == 1 else 0
        return (StageTime(0, status, 0, 0, 10), StageTime(1, status, 0, 0, 10, late_us=late_us))


def decode(acceptance, strategy, *, n_tokens=60, seed=3, n_prompt=4, profile=None, n_max=3):
    """Tokens, the text that they should be, the counters and the head."""
    layers = (LayerRange(0, 0), LayerRange(0, 1), LayerRange(1, 2))
    plan = plan_of(layers, n_ctx=256, profile=profile)
    text = EmulationSettings.of(profile, acceptance, seed).text(n_vocab=500)
    head = Head(plan, RealEngine(), timeout_s=5)
    request = Request(
        prompt=range(n_prompt),
        n_max=n_tokens,
        strategy=strategy,
        synthetic=text,
        draft=DraftConfig(n_max=n_max),
    )
    with head.begin(request) as active:
        tokens = list(islice(active.tokens, n_tokens))
    expected = [text.token(position) for position in range(n_prompt, n_prompt + n_tokens)]
    return tokens, expected, active.counters, head


@pytest.mark.parametrize("acceptance", ["0", "0.7", "1"])
@pytest.mark.parametrize("strategy", ["iterative", "speculative", "pipeinfer", "auto"])
def test_all_strategies_write_the_synthetic_text(strategy, acceptance):
    tokens, expected, counters, _ = decode(acceptance, strategy)
    assert tokens == expected
    if strategy == "iterative" or acceptance == "0":
        assert counters.n_accepted == 0
    if strategy == "speculative":  # only here drafts do not depend on who is faster
        assert counters.n_drafted > 20
        assert (counters.n_accepted == counters.n_drafted) == (acceptance == "1")


def test_rates_by_distance_count_from_the_decided_text():
    # the first token ahead is always right, the second never: one is accepted of each draft
    tokens, expected, counters, _ = decode("1/0", "speculative")
    assert tokens == expected
    assert counters.ahead_accepted.keys() == {1}
    assert counters.ahead_accepted[1] == counters.ahead_drafted[1] > 20
    assert counters.ahead_drafted[2] > 20


def test_another_seed_writes_another_text():
    assert decode("0.5", "iterative")[0] != decode("0.5", "iterative", seed=4)[0]


def test_what_is_late_is_counted_and_said():
    *_, head = decode("0.5", "iterative", profile=PROFILE)
    overruns = head.overruns
    assert overruns.n_late == {1: 1}
    assert overruns.n_computed >= 2 * 59
    (note,) = overruns.notes()
    assert "1 of " in note
    assert "up to 1.5 ms (stages 1)" in note
    assert overruns.as_dict()["worst_late_ms"] == 1.5
    assert Overruns().notes() == []


def test_a_paced_drafter_takes_its_time_for_each_batch():
    now = [100.0]

    def sleep(seconds):
        now[0] += seconds

    class Drafter:
        cost_s = 1.0

        def expand(self, batch, is_wanted):
            now[0] += self.cost_s
            return [[(7, 1.0)]] * len(batch.branches) if is_wanted() else None

    def expand(*branches):
        batch = DraftBatch(1, [1, 2], 2, branches, 1)
        return paced.expand(batch, lambda: is_wanted)

    drafter, overruns, is_wanted = Drafter(), Overruns(), True
    paced = PacedDrafter(drafter, lambda n: 3.0 + n, overruns, clock=lambda: now[0], sleep=sleep)
    assert expand((), (1,)) == [[(7, 1.0)]] * 2
    assert now[0] == 105
    assert (overruns.n_drafted, overruns.n_drafted_late) == (2, 0)
    drafter.cost_s = 6.0
    assert expand((), (1,)) is not None
    assert now[0] == 111
    assert (overruns.n_drafted, overruns.n_drafted_late) == (4, 2)
    assert overruns.worst_draft_us == 1_000_000
    assert "2 of 4 drafted tokens" in overruns.notes()[0]
    drafter.cost_s, is_wanted = 1.0, False
    assert expand(()) is None
    assert (now[0], overruns.n_drafted) == (112, 4), "what nobody wants takes no longer"


def test_what_a_rank_is_told_of_the_profile():
    head, first, last = (rank_emulation(PROFILE, rank, n_batch=3) for rank in range(3))
    assert (head.stage_us, head.latency_us, head.bytes_per_us) == ((), 7, 10_000)
    assert (first.stage_us, first.latency_us) == ((11_000, 12_000, 13_000), 5)
    assert (last.stage_us, last.latency_us) == ((22_000, 24_000, 26_000), 6)
    assert (first.bytes_per_us, last.bytes_per_us) == (1000, 100)
    assert last.hidden_bytes == 1000


def test_labels_and_marks():
    real = EmulationSettings.of(None, None, 0)
    assert (real.label, real.notes(), real.as_dict(Overruns())) == ("", [], {})
    both = EmulationSettings.of(PROFILE, "0.8,0.5", 7)
    assert both.label == ", emulated test, synthetic acceptance 0.8/0.5"
    assert "the text is not the model's" in both.notes()[0]
    marks = both.as_dict(Overruns())
    assert marks["synthetic"] == {"acceptance": [0.8, 0.5], "confidence": "plain", "seed": 7}
    assert marks["emulation"]["profile"] == "test"


def test_ranks_and_layers_follow_from_the_profile():
    assert load_profile(None, 3) is None
    profile = load_profile("cpu70b-8-ib", None)
    assert count_ranks(profile) == 9
    assert load_profile("cpu70b-8-ib", 9) == profile
    with pytest.raises(UserError, match="8 stages and a head are 9 ranks, not 4: use --ranks 9"):
        load_profile("cpu70b-8-ib", 4)
    check_model(profile, 8, None)
    check_model(profile, 30, (0, *(1,) * 8))
    with pytest.raises(UserError, match="8 stages for a model of 7 layers"):
        check_model(profile, 7, None)
    with pytest.raises(UserError, match="the head of an emulated cluster holds no layers"):
        check_model(profile, 30, (1,) * 9)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"synth_acceptance": "1.5"}, "a rate from 0 to 1"),
        ({"synth_acceptance": "high"}, "a rate from 0 to 1"),
        ({"synth_acceptance": "0.5", "verify": True}, "leave --verify out"),
        (
            {"synth_acceptance": "0.5", "draft_model": "m", "drafter": "model"},
            "--synth-acceptance needs none",
        ),
    ],
)
def test_what_does_not_go_together(fields, words):
    with pytest.raises(UserError, match=words):
        GenerateConfig(model="m", prompt=Prompt(), **fields)
