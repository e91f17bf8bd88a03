from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeinfer_cli.errors import UserError
from pipeinfer_cli.models.layer_split import LayerRange, split_by_time, split_layers, stage_bytes
from plans import model_info


def model(layer_bytes, *, can_split=True, obstacle="", output=0, tied=False, embedding=0):
    return model_info(
        layer_bytes,
        bytes_input=embedding,
        bytes_output=output,
        can_split=can_split,
        obstacle=obstacle,
        tied_output=tied,
    )


@given(
    layer_bytes=st.lists(st.integers(1, 1000), min_size=1, max_size=60),
    output=st.integers(0, 5000),
    data=st.data(),
)
def test_stages_cover_all_layers_in_order_and_none_is_empty(layer_bytes, output, data):
    n_stages = data.draw(st.integers(1, len(layer_bytes)))
    weights = data.draw(
        st.none() | st.lists(st.floats(0.01, 100), min_size=n_stages, max_size=n_stages)
    )
    layers = split_layers(model(layer_bytes, output=output), n_stages, weights)
    assert layers[0].first == 0
    assert layers[-1].last == len(layer_bytes)
    assert all(a.last == b.first for a, b in zip(layers, layers[1:], strict=False))
    assert all(len(each) >= 1 for each in layers)


@given(n_layer=st.integers(1, 100), data=st.data())
def test_auto_is_as_even_as_whole_layers_allow(n_layer, data):
    n_stages = data.draw(st.integers(1, n_layer))
    whole = model([1000] * n_layer)
    sizes = [stage_bytes(whole, each) for each in split_layers(whole, n_stages, None)]
    assert max(sizes) - min(sizes) <= 1000


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ((1, 1), [(0, 15), (15, 30)]),
        ((29, 1), [(0, 29), (29, 30)]),
        ((10, 15, 5), [(0, 10), (10, 25), (25, 30)]),
        ((0, 1, 2), [(0, 0), (0, 10), (10, 30)]),
        ((1000, 1), [(0, 29), (29, 30)]),
    ],
)
def test_weights_are_shares_of_the_layers(weights, expected):
    ranges = split_layers(model([7] * 30), len(weights), weights)
    assert ranges == tuple(LayerRange(*each) for each in expected)


def test_the_output_head_counts_with_the_last_stage():
    heavy_head = model([10] * 8, embedding=40, tied=True)
    assert split_layers(heavy_head, 2, None) == (LayerRange(0, 6), LayerRange(6, 8))


@pytest.mark.parametrize(
    ("whole", "ranks", "weights", "words"),
    [
        (model([1] * 4), 5, None, "use at most 4 ranks"),
        (model([1] * 4), 6, (0, 1, 1, 1, 1, 1), "use at most 5 ranks"),
        (model([1] * 4), 2, (1, 1, 1), "3 weights for 2 ranks"),
        (model([1] * 4, can_split=False), 2, None, "cannot be split"),
        (model([1] * 4, obstacle="of Y"), 2, None, "cannot be split by layers: of Y: use --ranks"),
    ],
)
def test_impossible_splits_are_refused(whole, ranks, weights, words):
    with pytest.raises(UserError, match=words):
        split_layers(whole, ranks, weights)


def test_an_architecture_that_cannot_be_split_runs_whole():
    assert split_layers(model([1] * 4, can_split=False), 1, None) == (LayerRange(0, 4),)
    assert split_layers(model([1] * 4, can_split=False), 2, (0, 1))[1] == LayerRange(0, 4)


def slowest(times, layers):
    return max(row[each.first : each.last].sum() for row, each in zip(times, layers, strict=True))


@given(data=st.data(), n_layer=st.integers(1, 8))
def test_by_time_nothing_is_faster(data, n_layer):
    n_stages = data.draw(st.integers(1, n_layer))
    cells = st.lists(st.integers(1, 50), min_size=n_layer, max_size=n_layer)
    rows = data.draw(st.lists(cells, min_size=n_stages, max_size=n_stages))
    times = np.array(rows, dtype=np.float64)
    layers = split_by_time(times)
    assert [each.first for each in layers] == [0, *(each.last for each in layers[:-1])]
    assert layers[-1].last == n_layer
    assert all(len(each) for each in layers)
    every = (
        [LayerRange(*cut) for cut in pairwise((0, *cuts, n_layer))]
        for cuts in combinations(range(1, n_layer), n_stages - 1)
    )
    assert slowest(times, layers) == min(slowest(times, each) for each in every)


def test_by_time_a_slow_rank_gets_less():
    times = np.ones((3, 30)) * [[1.0], [2.0], [1.0]]
    assert split_by_time(times) == (LayerRange(0, 12), LayerRange(12, 18), LayerRange(18, 30))


def test_by_time_the_most_stages_there_can_be_take_no_time():
    assert [len(each) for each in split_by_time(np.ones((120, 128)))].count(0) == 0
