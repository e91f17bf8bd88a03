import pytest

from pipeinfer_cli.stats import measure, percentile


def test_definitions():
    stats = measure(10.0, [10.5, 10.6, 10.7, 11.0], n_ranks=3, n_stages=2, n_prompt=7)
    assert stats.ttft_ms == pytest.approx(500)
    assert stats.tokens_per_s == pytest.approx(3 / 0.5)
    assert stats.itl_p50_ms == pytest.approx(100)
    assert stats.itl_p99_ms == pytest.approx(300)
    assert stats.total_ms == pytest.approx(1000)
    line = stats.line()
    assert line.startswith("3 ranks, 4 tokens, 6.00 tok/s, TTFT 500.0 ms, ITL p50 100.00 ms p99")


@pytest.mark.parametrize("times", [[], [1.5]])
def test_few_tokens_have_no_rate(times):
    stats = measure(1.0, times, n_ranks=1, n_stages=1, n_prompt=1)
    assert stats.tokens_per_s == 0
    assert stats.itl_p50_ms == 0
    assert stats.n_generated == len(times)


def test_percentile_is_the_nearest_rank():
    values = [float(each) for each in range(1, 101)]
    assert percentile(values, 50) == 50
    assert percentile(values, 99) == 99
    assert percentile([4.0], 99) == 4
    assert percentile([1.0, 2.0], 99) == 2
