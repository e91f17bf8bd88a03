"""The GGUF in the shape of a real mixture of experts has the real one's tensors and counts."""

import gguf
import pytest

import large
from pipeinfer_cli.engine.vocab import Vocab
from pipeinfer_cli.models.gguf.info import read_model_info
from pipeinfer_cli.models.layer_split import split_layers

pytestmark = pytest.mark.native

HEADER_BYTES = 16 << 20  # of five files, of which one has the vocabulary: less than this together


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("large") / large.NAME
    large.make(path)
    return path


def test_its_tensors_take_what_the_published_files_do():
    n_bytes = sum(large.n_bytes(shape, kind) for _, shape, kind in large.tensors())
    assert 0 < large.PUBLISHED_BYTES - n_bytes < HEADER_BYTES


def test_it_takes_the_disk_its_header(path):
    status = path.stat()
    assert abs(status.st_size - large.PUBLISHED_BYTES) < HEADER_BYTES
    assert status.st_blocks * 512 < HEADER_BYTES


def test_it_is_read_as_the_real_one_would_be(path):
    info = read_model_info(path)
    assert (info.arch, info.n_layer, info.n_vocab) == ("qwen3moe", 94, 151936)
    assert not info.tied_output
    assert len(set(info.layer_bytes)) == 2, "more bits for the down projections of some layers"
    assert info.bytes_total == sum(large.n_bytes(shape, kind) for _, shape, kind in large.tensors())
    stages = split_layers(info, large.N_STAGES, None)
    assert [len(each) for each in stages] == [23, 24, 24, 23]


def test_its_vocabulary_is_one(path):
    vocab = Vocab(path)
    text = "Once upon a time, there were 151,936 tokens."
    tokens = vocab.tokenize(text)
    assert len(tokens) < len(text)
    assert b"".join(map(vocab.piece, tokens)).decode() == text


def test_llama_cpps_choice_of_types():
    """Of 94 layers: the first and last eighth, and each third one between."""
    chosen = [layer for layer in range(large.N_LAYER) if large.takes_more_bits(layer)]
    assert chosen[:13] == [*range(11), 13, 16]
    assert chosen[-12:] == list(range(82, 94))
    assert {kind for *_, kind in large.tensors()} == {
        gguf.GGMLQuantizationType.F32,
        gguf.GGMLQuantizationType.Q4_K,
        gguf.GGMLQuantizationType.Q6_K,
    }
