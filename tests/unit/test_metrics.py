import re
from dataclasses import fields
from pathlib import Path

import pytest

from pipeinfer_cli.scheduler.metrics import Counters, RequestInfo, Stats, measure, percentile

INFO = RequestInfo(strategy="pipeinfer", n_ranks=3, n_stages=2, n_prompt=7)


def test_definitions():
    counters = Counters(
        n_drafted=4,
        n_accepted=3,
        n_decided=5,
        n_launched=4,
        n_verified=2,
        n_cancelled=1,
        n_aborted=1,
        ahead_drafted={2: 1, 1: 3},
        ahead_accepted={1: 3},
        busy_us={0: 1500, 1: 500},
        wasted_us={1: 250},
        n_messages=8,
        n_bytes=4000,
        live_sum=6,
    )
    stats = measure(INFO, 10.0, [10.5, 10.6, 10.7, 11.0], counters)
    assert stats.ttft_ms == pytest.approx(500)
    assert stats.tokens_per_s == pytest.approx(3 / 0.5)
    assert stats.itl_p50_ms == pytest.approx(100)
    assert stats.itl_p99_ms == pytest.approx(300)
    assert stats.total_ms == pytest.approx(1000)
    assert stats.acceptance_rate == 0.75
    assert stats.mean_acceptance_length == 2.5
    assert stats.acceptance_by_position == (1.0, 0.0)
    assert stats.busy_ms == (1.5, 0.5)
    assert stats.wasted_ms == (0.0, 0.25)
    assert stats.messages_per_token == 2
    assert stats.bytes_per_token == 1000
    assert stats.mean_in_flight == 1.5
    line = stats.line()
    assert line.startswith("pipeinfer, 3 ranks, 4 tokens, 6.00 tok/s, TTFT 500.0 ms, ITL p50 100.")
    assert "acceptance 3/4 (75 %), length 2.50, runs 4, cancelled 1 (1 in mid-compute)" in line


@pytest.mark.parametrize("times", [[], [1.5]])
def test_few_tokens_have_no_rate(times):
    stats = measure(INFO, 1.0, times, Counters())
    assert stats.tokens_per_s == 0
    assert stats.itl_p50_ms == 0
    assert stats.n_generated == len(times)
    assert "acceptance" not in stats.line()


def test_percentile_is_the_nearest_rank():
    values = [float(each) for each in range(1, 101)]
    assert percentile(values, 50) == 50
    assert percentile(values, 99) == 99
    assert percentile([4.0], 99) == 4
    assert percentile([1.0, 2.0], 99) == 2


def test_the_docs_define_every_field():
    text = (Path(__file__).parents[2] / "docs" / "statistics.md").read_text()
    defined = set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\|(.*?)\|", text, re.MULTILINE))))
    assert defined == {field.name for field in fields(Stats)}
