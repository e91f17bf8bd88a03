"""Runs of one shape: equal to plain decoding in that shape, whatever else is in a run.

Here with the CPU's kernels; tests/vulkan has the same with a device's.
"""

import pytest

from pipeinfer_cli.engine.llama_cpp import capture_log
from shapes import check_texts, check_trees
from small_models import convert, random_llama, random_windowed
from support import pipeinfer, run, run_json, smollm2, smollm2_args

pytestmark = pytest.mark.mpi


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    capture_log()
    return tmp_path_factory.mktemp("shapes")


@pytest.fixture(scope="module")
def source(folder):
    return random_llama(folder / "random.gguf")


@pytest.mark.parametrize(
    ("file_type", "layers", "more"),
    [
        ("Q4_K_M", [[0, 3]], {"exact_shape": 8}),
        ("F16", [[0, 1], [1, 3]], {"exact_shape": 16, "first_position": 240}),
        ("Q8_0", [[0, 1], [1, 3]], {"exact_shape": 32, "cache_types": ["q8_0", "q8_0"]}),
    ],
    ids=["8", "16, over 256 cells", "32, cells of another type"],
)
def test_random_trees(file_type, layers, more, source, folder):
    check_trees(convert(source, folder, file_type), layers, n_rounds=60, **more)


def test_random_trees_in_a_model_with_sliding_windows(folder):
    check_trees(random_windowed(folder / "windowed.gguf"), [[0, 3]], n_rounds=60, exact_shape=8)


def test_all_strategies_give_the_same_text():
    cases = [{}, *({"strategy": each, "drafter": "ngram"} for each in ("speculative", "pipeinfer"))]
    for weights in ([1], [1, 1]):
        check_texts(smollm2(), weights, cases, n_predict=12, exact_shape=8)


def test_it_is_said_before_the_text_and_in_json():
    shape = ("--exact-shape", "8", "--drafter", "ngram")
    answer, said = run_json(
        pipeinfer(
            *smollm2_args(*shape, "--verify", "--format", "json", "One day, one day", n_predict=8)
        )
    )
    assert (answer["exact"], answer["exact_shape"]) == (True, 8)
    first = said.splitlines()[0]
    assert first.startswith("pipeinfer: note: 8 tokens are computed at a time (--exact-shape)")
    assert "verified: 8 tokens" in said


@pytest.mark.parametrize(
    ("args", "named"),
    [
        (["--exact-shape", "33"], "--exact-shape 33"),
        (["--exact-shape", "-1"], "--exact-shape -1"),
        (["--device", "CUDA7"], "--device CUDA7: rank 0 on "),
        (["--device", "a,,b"], "--device 'a,,b'"),
        (["-ngl", "few"], "-ngl/--gpu-layers 'few'"),
        (["-ngl", "1,2,3", "--ranks", "2"], "-ngl/--gpu-layers has 3 values for 2 ranks"),
        (["--draft-device", "CUDA7"], "--draft-device CUDA7"),
    ],
)
def test_bad_input_is_one_line(args, named):
    done = run(pipeinfer(*smollm2_args(*args, "One day")))
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert named in line
