"""In how many runs a prompt goes through the stages."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeinfer_cli.scheduler.costs.prefill import LEAST_TOKENS, RUN_OVERHEAD, prefill_run_size


@pytest.mark.parametrize(
    ("n_tokens", "n_stages", "size"),
    [
        pytest.param(512, 1, 32, id="one stage: as long as they may be"),
        pytest.param(513, 1, 31, id="equal ones"),
        pytest.param(512, 2, 32, id="a long prompt fills two stages anyway"),
        pytest.param(512, 8, 15, id="many stages"),
        pytest.param(32, 2, 11, id="a short prompt"),
        pytest.param(32, 8, LEAST_TOKENS, id="not too short"),
        pytest.param(5, 8, 5, id="shorter than that"),
        pytest.param(1, 3, 1, id="one token"),
    ],
)
def test_length_of_runs(n_tokens, n_stages, size):
    assert prefill_run_size(n_tokens, n_stages=n_stages, n_batch=32) == size


@given(
    n_tokens=st.integers(1, 3000),
    n_stages=st.integers(1, 64),
    n_batch=st.integers(1, 64),
)
def test_no_prompt_takes_longer_than_in_the_longest_runs(n_tokens, n_stages, n_batch):
    def time(size):
        n_runs = -(-n_tokens // size)
        return (n_runs + n_stages - 1) * (min(size, n_tokens) + RUN_OVERHEAD)

    size = prefill_run_size(n_tokens, n_stages=n_stages, n_batch=n_batch)
    assert 1 <= size <= n_batch
    # lengths are whole numbers: the last run may be shorter
    assert time(size) <= 1.1 * time(n_batch)
