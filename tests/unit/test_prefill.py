"""In how many runs a prompt goes through the stages."""

from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeinfer_cli.scheduler.costs.prefill import prefill_run_size
from pipeinfer_cli.scheduler.policy import Policy
from pipeinfer_cli.scheduler.scheduler import Scheduler


@pytest.mark.parametrize(
    ("n_tokens", "n_stages", "size"),
    [
        pytest.param(32, 1, 32, id="one stage: as long as they may be"),
        pytest.param(128, 2, 32, id="a prompt that fills two stages anyway"),
        pytest.param(32, 2, 16, id="one that does not"),
        pytest.param(512, 8, 32, id="many stages, a long prompt"),
        pytest.param(128, 8, 16, id="many stages"),
        pytest.param(64, 8, 8, id="many stages, a short prompt"),
        pytest.param(20, 64, 8, id="not too short"),
    ],
)
def test_length_of_runs(n_tokens: int, n_stages: int, size: int) -> None:
    assert prefill_run_size(n_tokens, n_stages=n_stages, n_batch=32) == size


@given(n_tokens=st.integers(1, 3000), n_stages=st.integers(1, 64), n_batch=st.integers(1, 64))
def test_runs_are_never_longer_than_they_may_be(n_tokens: int, n_stages: int, n_batch: int) -> None:
    assert 1 <= prefill_run_size(n_tokens, n_stages=n_stages, n_batch=n_batch) <= n_batch


@pytest.mark.parametrize(("is_alone", "lengths"), [(True, [8] * 8), (False, [32, 32])])
def test_stages_that_others_keep_at_work_need_no_short_runs(
    is_alone: bool, lengths: list[int]
) -> None:
    policy = Policy.of("iterative", None, n_stages=8)
    scheduler = Scheduler(range(64), n_max=1, policy=policy, run_ids=count(1))
    found = []
    while scheduler.is_prefilling:
        found.append(len(scheduler.next_prefill(is_alone=is_alone).tokens))
    assert found == lengths
