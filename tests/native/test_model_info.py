"""What a GGUF says of itself: architectures that split, models in several files, damage."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

import architectures
from architectures import N_VOCAB, TINY_MODELS, WHOLE_MODELS
from odd_ggufs import corpus
from pipeinfer_cli.commands import start
from pipeinfer_cli.engine.config import EngineConfig
from pipeinfer_cli.engine.engine import Engine
from pipeinfer_cli.engine.formats import stage_archs
from pipeinfer_cli.engine.llama_cpp import capture_log
from pipeinfer_cli.engine.vocab import Vocab
from pipeinfer_cli.errors import UserError
from pipeinfer_cli.models.gguf.info import read_model_info
from pipeinfer_cli.models.layer_split import split_layers
from random_gguf import begin, write
from small_models import SHAPE, in_parts

pytestmark = pytest.mark.native

DOCS = Path(__file__).parents[2] / "docs" / "architectures.md"


@pytest.fixture(autouse=True)
def _quiet():
    capture_log()


def test_an_architecture_splits_if_and_only_if_a_test_admits_it():
    assert set(stage_archs()) == {tiny.arch for tiny in TINY_MODELS}


def test_ranks_that_a_model_cannot_have_are_refused_before_they_start(tmp_path):
    model = str(TINY_MODELS[0].write(tmp_path / "tiny.gguf"))
    n_layer = TINY_MODELS[0].n_layer
    start.check_ranks(model, n_layer + 1)
    with pytest.raises(UserError, match=f"3000 stages .* use at most {n_layer} ranks"):
        start.check_ranks(model, 3000)


def test_models_with_another_memory_than_a_kv_cache_are_refused(tmp_path):
    path = tmp_path / "mamba.gguf"
    writer = begin(path, "mamba", SHAPE)
    writer.add_tokenizer_model("no_vocab")
    write(writer)
    with pytest.raises(UserError, match=r"mamba.gguf' .* a state that cannot be undone"):
        Vocab(path)


def test_the_table_in_the_docs_is_made_from_the_tests():
    assert DOCS.read_text(encoding="utf-8") == architectures.table(), "run make docs-architectures"


@pytest.mark.parametrize("tiny", TINY_MODELS, ids=lambda tiny: tiny.name)
def test_all_bytes_have_a_place(tiny, tmp_path):
    info = read_model_info(tiny.write(tmp_path / "tiny.gguf"))
    assert (info.arch, info.n_layer, info.n_vocab) == (tiny.arch, tiny.n_layer, N_VOCAB)
    assert (info.can_split, info.tied_output) == (True, tiny.is_tied)
    assert all(info.layer_bytes)
    assert sum(info.layer_bytes) + info.bytes_input + info.bytes_output == info.bytes_total


def test_others_are_refused_by_name(tmp_path):
    other = architectures.TinyModel(
        name="mamba", arch="mamba", known_as="", special="", layer=architectures.plain_layer
    )
    info = read_model_info(other.write(tmp_path / "other.gguf"))
    assert not info.can_split
    with pytest.raises(UserError, match=r"'mamba' cannot be split .*: use --ranks 1 \(\d\d others"):
        split_layers(info, 2, None)


@pytest.mark.parametrize("tiny", WHOLE_MODELS, ids=lambda tiny: tiny.name)
def test_models_that_carry_more_are_refused_by_name_and_reason(tiny, tmp_path):
    path = tiny.write(tmp_path / "tiny.gguf")
    info = read_model_info(path)
    assert not info.can_split
    assert len(split_layers(info, 1, None)) == 1
    with pytest.raises(UserError, match=f"{tiny.arch}' cannot be split .* keys and values of earl"):
        split_layers(info, 2, None)
    config = EngineConfig(
        model_path=path,
        layer_first=0,
        layer_last=2,
        n_ctx=256,
        n_cells=256,
        n_batch=1,
        n_threads=1,
    )
    with pytest.raises(UserError, match="cannot be split"):
        Engine(config)


@pytest.fixture
def parts(tmp_path):
    return in_parts(TINY_MODELS[0].write(tmp_path / "tiny.gguf"), tmp_path / "tiny", 3)


def test_a_model_in_several_files(parts, tmp_path):
    assert [part.name[-20:] for part in parts] == [f"-0000{i}-of-00003.gguf" for i in (1, 2, 3)]
    assert read_model_info(parts[0]) == read_model_info(tmp_path / "tiny.gguf")


def test_a_missing_part(parts):
    parts[1].unlink()
    with pytest.raises(UserError, match=r"part 2 of 3 .*00002-of-00003.gguf.: No such file"):
        read_model_info(parts[0])


def test_a_truncated_part(parts):
    parts[2].write_bytes(parts[2].read_bytes()[:-64])
    with pytest.raises(UserError, match=r"part 3 of 3 .*: the file is truncated: tensor"):
        read_model_info(parts[0])


def test_not_the_first_part(parts):
    with pytest.raises(UserError, match="part 2 of a model in 3 files: give the first"):
        read_model_info(parts[1])


def test_parts_in_the_wrong_order(parts):
    shutil.copy(parts[1], parts[2])
    with pytest.raises(UserError, match=r"part 3 of 3 .*another part"):
        read_model_info(parts[0])


def test_a_first_part_of_another_name(parts, tmp_path):
    renamed = parts[0].rename(tmp_path / "model.gguf")
    with pytest.raises(UserError, match=r"3 files.* must end in -00001-of-00003.gguf"):
        read_model_info(renamed)


@pytest.mark.parametrize("name", ["F64", "I8", "I16", "I64", "Q8_1", "Q8_K"])
def test_types_that_cannot_be_multiplied_are_refused(tmp_path, name):
    kind = GGMLQuantizationType[name]
    n_elements, n_bytes = GGML_QUANT_SIZES[kind]
    path = tmp_path / "odd.gguf"
    writer = begin(path, "llama", SHAPE)
    writer.add_tokenizer_model("no_vocab")
    writer.add_token_list(["a"])
    data = np.zeros((2, 256 // n_elements * n_bytes), np.uint8)
    writer.add_tensor("blk.0.attn_q.weight", data, raw_dtype=kind)
    write(writer)
    with pytest.raises(UserError, match=rf"(?i)blk.0.attn_q.weight has the type {name},"):
        read_model_info(path)


@pytest.mark.parametrize(
    ("name", "why"),
    {
        "bytes/empty": "not a GGUF file (it does not begin with",
        "bytes/only-magic": "damaged or incomplete: its header extends beyond its end",
        "header/version-4": "is of version 4; versions 2 and 3",
        "header/arch-missing": "the GGUF has no general.architecture",
        "header/arch-as-number": "the GGUF has no general.architecture",
        "header/key-empty": "a metadata entry has no name",
        "header/key-twice": "it has 'llama.block_count' twice",
        "header/tensor-name-long": "a name of 300 bytes",
        "header/split-second": "it is part 2 of a model in 2 files: give the first one",
        "sizes/block_count-0": "the GGUF says that it has 0 layers",
        "sizes/block_count-513": "the GGUF says that it has 513 layers",
        f"sizes/block_count-{2**32 - 1}": f"its llama.block_count is {2**32 - 1}",
        "sizes/embedding_length-as-text": "the GGUF has no llama.embedding_length",
        "sizes/context_length-missing": "the GGUF has no llama.context_length",
        "tensors/of-layer-99": "tensor blk.99.attn_q.weight is of a layer that the model does not",
        "tensors/offset-32": "the tensor 'output_norm.weight' is at a wrong place",
        f"tensors/offset-{2**40}": "the tensor 'output_norm.weight' is at a wrong place",
    }.items(),
)
def test_what_is_wrong_with_a_file_is_said(name, why, tmp_path):
    path = tmp_path / "odd.gguf"
    path.write_bytes(corpus()[name]())
    with pytest.raises(UserError) as error:
        read_model_info(path)
    said = str(error.value)
    assert said.startswith(f"cannot use the model {str(path)!r}: ")
    assert why in said
    assert said.endswith(": check -m/--model")


def test_a_model_without_vocabulary(tmp_path):
    path = tmp_path / "none.gguf"
    write(begin(path, "llama", SHAPE))
    with pytest.raises(UserError, match=r"has no vocabulary \(tokenizer.ggml.tokens\)"):
        read_model_info(path)
