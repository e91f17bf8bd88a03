"""Token trees in the KV caches give what plain decoding gives, bit for bit."""

import pytest

from cache_cases import TREES
from pipeinfer_cli.engine.llama_cpp import capture_log
from shapes import check_trees
from small_models import N_LAYER, convert, random_llama, random_windowed
from support import smollm2

pytestmark = pytest.mark.mpi

N_ROUNDS = 120


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    capture_log()
    return tmp_path_factory.mktemp("trees")


@pytest.fixture(scope="module")
def source(folder):
    return random_llama(folder / "random.gguf")


def check(model, layers, *, n_rounds=N_ROUNDS, **more):
    check_trees(model, layers, n_rounds=n_rounds, more_than=n_rounds // 10, **more)


@pytest.mark.parametrize("layers", [[[0, 3]], [[0, 1], [1, 3]]], ids=["1 stage", "2 stages"])
@pytest.mark.parametrize("file_type", ["F32", "Q4_1", "Q4_K_M"])
def test_random_trees_against_plain_decoding(file_type, layers, source, folder):
    check(convert(source, folder, file_type), layers)


@pytest.mark.parametrize("types", TREES, ids="-".join)
def test_random_trees_with_other_types_of_keys_and_values(types, source, folder):
    check(convert(source, folder, "Q8_0"), [[0, 1], [1, 3]], cache_types=types)


def test_random_trees_in_a_model_with_sliding_windows(folder):
    check(random_windowed(folder / "windowed.gguf"), [[0, N_LAYER]])


def test_random_trees_in_a_real_model(folder):
    check(smollm2(), [[0, 0], [0, 14], [14, 30]], n_vocab=49152, n_rounds=30)
