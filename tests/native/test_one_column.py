"""Which kernel a pool of threads takes for one column: the faster, found in its first graphs.

The bits are the same, which test_batch_shape shows: its reference decodes one token at a time, in
the first graphs of a pool by either kernel in turn.
"""

import ctypes
from ctypes import POINTER, c_bool, c_int, c_int64

import pytest

from mul_mats import Ggml, InitParams
from pipeinfer_cli.engine import abi
from pipeinfer_cli.engine.cpu import variants

pytestmark = pytest.mark.native

N_ROUNDS = 5
N_WARM = 2
N_TRIAL = N_WARM + 2 * N_ROUNDS  # graphs of one token
HOUR_US = 3_600_000_000
F32 = 0


class OneColumn(ctypes.Structure):
    """struct ggml_one_column."""

    _fields_ = (
        ("is_ours", c_bool),
        ("is_decided", c_bool),
        ("is_timed", c_bool),
        ("n_nodes", c_int),
        ("n_graphs", c_int),
        ("begin_us", c_int64),
        ("times_us", c_int64 * N_ROUNDS * 2),
    )


class Pool:
    """Begins and ends graphs as a pool does; hours that ours and upstream's kernel take."""

    def __init__(self, ggml: Ggml, lib: ctypes.CDLL, *, ours: int, upstream: int) -> None:
        lib.ggml_one_column_new.restype = OneColumn
        lib.ggml_one_column_begin.argtypes = (POINTER(OneColumn), ctypes.c_void_p)
        lib.ggml_one_column_end.argtypes = (POINTER(OneColumn), c_bool)
        self._ggml, self._lib = ggml, lib
        self._hours = {True: ours, False: upstream}
        self._context = ggml.ggml_init(InitParams(1 << 20, None, True))
        self.one = lib.ggml_one_column_new()

    def graph(self, *, n_columns: int = 1, n_products: int = 1):
        """Weights times that many columns."""
        ggml, context = self._ggml, self._context
        graph = ggml.ggml_new_graph(context)
        for _ in range(n_products):
            weights = ggml.ggml_new_tensor_2d(context, F32, 32, 32)
            columns = ggml.ggml_new_tensor_2d(context, F32, 32, n_columns)
            ggml.ggml_build_forward_expand(graph, ggml.ggml_mul_mat(context, weights, columns))
        return graph

    def compute(self, graph, *, is_complete: bool = True) -> bool:
        """Whether ours had it."""
        self._lib.ggml_one_column_begin(self.one, graph)
        is_ours = self.one.is_ours
        self.one.begin_us -= HOUR_US * self._hours[is_ours]
        self._lib.ggml_one_column_end(self.one, is_complete)
        return is_ours

    def close(self) -> None:
        """Frees the graphs."""
        self._ggml.ggml_free(self._context)


@pytest.fixture
def new_pool():
    if not variants.built(abi.lib_dir()):
        pytest.skip("a build with one backend")
    backend = abi.lib_dir() / f"libggml-cpu-{variants.usable()[0]}.so"
    ggml, lib, pools = Ggml(backend), ctypes.CDLL(str(backend)), []

    def new(ours: int, upstream: int) -> Pool:
        pools.append(Pool(ggml, lib, ours=ours, upstream=upstream))
        return pools[-1]

    yield new
    for pool in pools:
        pool.close()


@pytest.mark.parametrize(("ours", "upstream"), [(2, 1), (1, 2), (1, 1)])
def test_the_faster_one_is_kept(new_pool, ours, upstream):
    pool = new_pool(ours, upstream)
    graph = pool.graph()
    trial = [pool.compute(graph) for _ in range(N_TRIAL)]
    assert trial[N_WARM:].count(True) == trial[N_WARM:].count(False) == N_ROUNDS
    assert all(trial[:N_WARM])
    assert pool.one.is_decided
    assert {pool.compute(graph) for _ in range(20)} == {ours <= upstream}


def test_several_tokens_and_aborted_graphs_do_not_count(new_pool):
    pool = new_pool(2, 1)
    one, several = pool.graph(), pool.graph(n_columns=3)
    for _ in range(N_TRIAL - 1):
        pool.compute(one)
    for _ in range(N_TRIAL):
        assert pool.compute(several), "ours take several columns whatever was found"
        pool.compute(one, is_complete=False)
    assert not pool.one.is_decided
    pool.compute(one)
    assert pool.one.is_decided


def test_graphs_of_another_size_begin_anew(new_pool):
    pool = new_pool(2, 1)
    first = pool.graph()
    for _ in range(N_TRIAL - 1):
        pool.compute(first)
    other = pool.graph(n_products=2)
    for _ in range(N_TRIAL - 1):
        pool.compute(other)
        assert not pool.one.is_decided
    pool.compute(other)
    assert pool.one.is_decided


@pytest.mark.parametrize("choice", ["ours", "upstream"])
def test_the_environment_can_say_which(new_pool, monkeypatch, choice):
    monkeypatch.setenv("GGML_ONE_COLUMN", choice)
    pool = new_pool(2, 1)
    graph = pool.graph()
    assert {pool.compute(graph) for _ in range(N_TRIAL + 5)} == {choice == "ours"}
