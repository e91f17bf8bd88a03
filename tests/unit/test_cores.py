"""Cores of a host: what the kernel says of them, and how ranks divide them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pipeinfer_cli.engine.config import MAX_CPUS
from pipeinfer_cli.launch.environment import RankResources
from pipeinfer_cli.launch.host.cores import Core, Cores, cpus_for, divide

# Two nodes of two cores; the hyperthreads of core i are i and i + 4. Nodes have every other core.
SMT: tuple[Core, ...] = ((0, 4), (2, 6), (1, 5), (3, 7))


@pytest.fixture
def system_dir(tmp_path: Path) -> Path:
    """As the kernel describes SMT."""
    for node in (0, 1):
        (tmp_path / f"node/node{node}").mkdir(parents=True)
        (tmp_path / f"node/node{node}/cpulist").write_text(
            f"{node},{node + 2},{node + 4}-{node + 4},{node + 6}\n"
        )
    for cpu in range(8):
        topology = tmp_path / f"cpu/cpu{cpu}/topology"
        topology.mkdir(parents=True)
        (topology / "thread_siblings_list").write_text(f"{cpu % 4},{cpu % 4 + 4}\n")
    return tmp_path


@pytest.mark.parametrize(
    ("cpus", "cores"),
    [
        (range(8), SMT),
        ([0, 1, 2, 3], ((0,), (2,), (1,), (3,))),
        ([1, 4, 5], ((4,), (1, 5))),
        ([0, 9], ((0,), (9,))),
    ],
)
def test_cpus_by_core_and_node(system_dir: Path, cpus: list[int], cores: tuple[Core, ...]) -> None:
    assert Cores.read(system_dir).of(cpus) == cores


def test_a_kernel_that_does_not_tell(tmp_path: Path) -> None:
    assert Cores.read(tmp_path).of([3, 1]) == ((1,), (3,))


@pytest.mark.parametrize(
    ("threads", "parts"),
    [
        pytest.param([1], [SMT], id="alone"),
        pytest.param([2, 2], [SMT[:2], SMT[2:]], id="a node each"),
        pytest.param([1, 1], [SMT[:2], SMT[2:]], id="what is left is shared"),
        pytest.param([3, 1], [SMT[:3], SMT[3:]], id="in proportion"),
        pytest.param([1, 1, 1], [SMT[:1], SMT[1:2], SMT[2:]], id="not evenly"),
        pytest.param(
            [4, 4], [((0,), (4,), (2,), (6,)), ((1,), (5,), (3,), (7,))], id="hyperthreads, too"
        ),
        pytest.param([4, 5], None, id="too few CPUs"),
    ],
)
def test_division(threads: list[int], parts: list[tuple[Core, ...]] | None) -> None:
    assert divide(SMT, threads) == parts


@pytest.mark.parametrize("n_cores", range(1, 12))
@pytest.mark.parametrize("threads", [[1], [1, 1], [2, 1], [1, 2, 3], [3, 3, 1], [1] * 7])
def test_parts_are_disjoint_and_large_enough(n_cores: int, threads: list[int]) -> None:
    cores = [(cpu, cpu + n_cores) for cpu in range(n_cores)]
    parts = divide(cores, threads)
    if sum(threads) > 2 * n_cores:
        assert parts is None
        return
    assert parts is not None
    cpus = [{cpu for core in part for cpu in core} for part in parts]
    assert set().union(*cpus) == set(range(2 * n_cores))
    assert sum(map(len, cpus)) == 2 * n_cores
    assert all(len(each) >= n for each, n in zip(cpus, threads, strict=True))


def test_threads_take_whole_cores_if_there_are_enough() -> None:
    assert cpus_for(SMT, 4) == (0, 1, 2, 3)
    assert cpus_for(SMT, 5) == tuple(range(8))
    assert cpus_for((), 1) == ()


def rank(
    cpus: set[int], n_threads: int = 1, n_sharers: int = 1, quota: float | None = None
) -> RankResources:
    return RankResources(
        host="h",
        n_threads=n_threads,
        cpus=frozenset(cpus),
        n_sharers=n_sharers,
        cpu_quota=quota,
    )


PLAIN = Cores(siblings={}, node={})


def taken(
    ranks: list[RankResources], must: bool = True, host: Cores = PLAIN
) -> list[RankResources]:
    return [each.with_own_cores(i, ranks, must=must, host=host) for i, each in enumerate(ranks)]


@pytest.mark.parametrize(
    ("n_threads", "n_ranks", "cpus"),
    [
        pytest.param(2, 2, [{0, 4, 2, 6}, {1, 5, 3, 7}], id="a node each"),
        pytest.param(1, 4, [set(range(8))] * 4, id="two ranks in a node"),
        pytest.param(8, 1, [set(range(8))], id="alone"),
    ],
)
def test_auto_divides_whole_nodes(
    system_dir: Path, n_threads: int, n_ranks: int, cpus: list[set[int]]
) -> None:
    ranks = [rank(set(range(8)), n_threads, n_sharers=n_ranks)] * n_ranks
    found = taken(ranks, must=False, host=Cores.read(system_dir))
    assert [each.cpus for each in found] == cpus


def test_ranks_on_the_same_cores_divide_them() -> None:
    first, second = taken([rank({0, 1, 2, 3}, n_sharers=2)] * 2)
    assert (first.cpus, second.cpus) == ({0, 1}, {2, 3})
    assert (first.stage_cpus(), second.stage_cpus()) == ((0, 1), (2, 3))
    assert first.has_own_cores and first.n_sharers == 1


def test_ranks_that_a_launcher_has_bound_keep_their_cores() -> None:
    first, second = taken([rank({0, 1}, 2), rank({2, 3}, 2)])
    assert (first.stage_cpus(), second.stage_cpus()) == ((0, 1), (2, 3))


@pytest.mark.parametrize(
    "ranks",
    [
        pytest.param([rank({0, 1}, n_sharers=3)] * 3, id="more threads than CPUs"),
        pytest.param([rank({0, 1}, 3)], id="more threads than CPUs, alone"),
        pytest.param([rank({0, 1}, n_sharers=2), rank({1, 2}, n_sharers=2)], id="masks overlap"),
        pytest.param([rank({0, 1}, 2, quota=1.0)], id="more threads than the quota allows"),
        pytest.param([rank({0, MAX_CPUS})], id="numbers that ggml does not have"),
    ],
)
def test_nothing_is_bound(ranks: list[RankResources]) -> None:
    assert taken(ranks) == ranks
    assert [each.cpus for each in taken(ranks)] == [each.cpus for each in ranks]
    assert [each.stage_cpus() for each in taken(ranks)] == [()] * len(ranks)
    assert taken(ranks)[0].draft_cores(None, beside_layers=True).cpus == ()


@pytest.mark.parametrize("threads", [[3, 1], [1, 1], [2, 2]])
def test_a_quota_is_divided_with_the_cores(threads: list[int]) -> None:
    ranks = [rank(set(range(8)), n, n_sharers=2, quota=4.0) for n in threads]
    assert all(each.has_own_cores and each.stage_cpus() for each in taken(ranks))


@pytest.mark.parametrize(
    ("n_threads", "asked", "beside", "stage", "draft"),
    [
        pytest.param(2, None, True, (0, 1), (2, 3), id="what the layers leave"),
        pytest.param(3, None, True, (0, 1, 2), (3,), id="less than the layers have"),
        pytest.param(4, None, True, (0, 1, 2, 3), (0, 1, 2, 3), id="in turn"),
        pytest.param(2, 3, True, (0, 1, 2, 3), (0, 1, 2, 3), id="more than is left"),
        pytest.param(2, None, False, (0, 1, 2, 3), (0, 1, 2, 3), id="no layers"),
    ],
)
def test_a_draft_model_has_the_cores_that_the_layers_leave(
    n_threads: int,
    asked: int | None,
    beside: bool,
    stage: tuple[int, ...],
    draft: tuple[int, ...],
) -> None:
    (resources,) = taken([rank({0, 1, 2, 3}, n_threads)])
    cores = resources.draft_cores(asked, beside_layers=beside)
    n_beside = cores.n_threads if beside and not cores.shares_cores else 0
    assert (resources.stage_cpus(n_beside), cores.cpus) == (stage, draft)
    assert replace(resources, cores=()).draft_cores(asked, beside_layers=beside).cpus == ()
