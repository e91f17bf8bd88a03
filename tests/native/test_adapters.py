"""LoRA adapters: what --lora names, and those that do not fit a model are refused with one line."""

import dataclasses
from pathlib import Path

import gguf
import numpy as np
import pytest

from lora_files import write_adapter
from pipeinfer_cli.engine.config import Adapter, EngineConfig
from pipeinfer_cli.engine.engine import Engine
from pipeinfer_cli.engine.llama_cpp import capture_log
from pipeinfer_cli.errors import UserError
from pipeinfer_cli.models.adapters import adapters_digest, check_adapters, parse_adapters
from pipeinfer_cli.models.gguf.info import read_model_info
from pipeinfer_cli.models.make_shards import ShardConfig, shard
from random_gguf import write
from small_models import N_LAYER, SHAPE, talking_llama

pytestmark = pytest.mark.native

Q = "blk.1.attn_q.weight"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return talking_llama(tmp_path_factory.mktemp("base") / "base.gguf")


def check(path, base):
    return check_adapters([Adapter(path=path)], base, read_model_info(base))


def adapter(path, tensors, **keys):
    """An adapter with these tensors (names to shapes, rows first) and keys."""
    writer = gguf.GGUFWriter(path, keys.pop("arch", "llama"))
    writer.add_type(keys.pop("type", "adapter"))
    writer.add_string("adapter.type", keys.pop("adapter", "lora"))
    alpha = keys.pop("alpha", 1.0)
    if isinstance(alpha, float):
        writer.add_float32("adapter.lora.alpha", alpha)
    else:
        writer.add_uint32("adapter.lora.alpha", alpha)
    for name, value in keys.items():
        writer.add_array(f"adapter.{name}", value)
    for name, shape in tensors.items():
        writer.add_tensor(name, np.zeros(shape, np.float32))
    write(writer)
    return path


def pair(name=Q, a=(4, SHAPE.n_embd), b=(SHAPE.n_embd, 4)):
    return {f"{name}.lora_a": a, f"{name}.lora_b": b}


def test_one_that_fits_is_told_from_others(base, tmp_path):
    names = r"blk\.\d\.attn_q\.weight|output\.weight|token_embd\.weight"
    path = write_adapter(tmp_path / "a.gguf", base, names=names)
    other = write_adapter(tmp_path / "b.gguf", base, names=names, seed=1)
    (checked,), (checked_other,) = check(path, base), check(other, base)
    assert checked.digest != checked_other.digest
    assert checked.here() == Adapter(path=path)
    scaled = dataclasses.replace(checked, adapter=Adapter(path=path, scale=0.5))
    digests = [[checked], [scaled], [checked, checked_other], [checked_other, checked], []]
    assert len({adapters_digest(each) for each in digests}) == len(digests)
    path.write_bytes(other.read_bytes())
    with pytest.raises(UserError, match="is not the file that the head has"):
        checked.here()


@pytest.mark.parametrize(
    ("tensors", "keys", "said"),
    [
        (pair(), {"arch": "qwen2"}, "for models of architecture 'qwen2', and this one is 'llama'"),
        (pair(), {"type": "model"}, "not a LoRA adapter"),
        (pair(), {"adapter": "ia3"}, "not a LoRA adapter"),
        (pair(), {"alpha": 3}, "its adapter.lora.alpha has another type"),
        (pair(), {"alpha": float("nan")}, "its adapter.lora.alpha is not finite"),
        (pair(), {"alora.invocation_tokens": [1, 2]}, "certain tokens"),
        ({}, {}, "it has no tensors"),
        ({f"{Q}.lora_a": (4, SHAPE.n_embd)}, {}, f"its pair of tensors for '{Q}' lacks one"),
        ({**pair(), Q: (4, 4)}, {}, "none of a LoRA adapter"),
        (pair("blk.7.attn_q.weight"), {}, "'blk.7.attn_q.weight', which the model does not have"),
        (pair("blk.1.attn_z.weight"), {}, "'blk.1.attn_z.weight', which the model does not have"),
        (pair(a=(4, 8)), {}, "8x4 and 4x512, which do not fit the model's 512x512"),
        (pair(b=(8, 4)), {}, "512x4 and 4x8, which do not fit the model's 512x512"),
        (pair(a=(3, SHAPE.n_embd)), {}, "512x3 and 4x512, which do not fit"),
        (pair(a=(2, 4, SHAPE.n_embd)), {}, "512x4x2 and 4x512, which do not fit"),
        (pair("token_embd.weight"), {}, "which do not fit the model's 512x384"),
    ],
)
def test_one_that_does_not_fit_is_refused(base, tmp_path, tensors, keys, said):
    path = adapter(tmp_path / "lora.gguf", tensors, **keys)
    with pytest.raises(UserError) as error:
        check(path, base)
    assert str(error.value).startswith(f"--lora {str(path)!r}: ")
    assert said in str(error.value)


def test_norms_are_left_out_as_llama_cpp_does(base, tmp_path):
    tensors = {**pair(), "blk.0.attn_norm.weight": (SHAPE.n_embd,)}
    check(adapter(tmp_path / "lora.gguf", tensors), base)


@pytest.mark.parametrize("content", [b"", b"GGUF", b"no GGUF at all"])
def test_other_files_are_refused(base, tmp_path, content):
    path = tmp_path / "lora.gguf"
    path.write_bytes(content)
    with pytest.raises(UserError, match="--lora"):
        check(path, base)


def test_a_missing_file_is_refused(base, tmp_path):
    with pytest.raises(UserError, match="No such file"):
        check(tmp_path / "none.gguf", base)


def test_of_shards_what_the_head_sees_is_checked(base, tmp_path):
    first, *_ = shard(ShardConfig(model=base, n_stages=3, layer_split=None, folder=tmp_path / "s"))
    info = read_model_info(first)

    def check_first(tensors):
        path = adapter(tmp_path / "lora.gguf", tensors)
        check_adapters([Adapter(path=path)], first, info)

    check_first({**pair("blk.0.attn_q.weight"), **pair(f"blk.{N_LAYER - 1}.attn_z.weight")})
    check_first(pair("output.weight", b=(SHAPE.n_vocab, 4)))
    for wrong in (pair("blk.0.attn_q.weight", a=(4, 8)), pair(f"blk.{N_LAYER}.attn_q.weight")):
        with pytest.raises(UserError):
            check_first(wrong)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["a.gguf"], [("a.gguf", 1.0)]),
        (["a.gguf:0.5", "b.gguf:-2"], [("a.gguf", 0.5), ("b.gguf", -2.0)]),
        (["a.gguf,b.gguf:3"], [("a.gguf", 1.0), ("b.gguf", 3.0)]),
        (["c:1.gguf"], [("c:1.gguf", 1.0)]),
        (["c:1.gguf:0"], [("c:1.gguf", 0.0)]),
        (["d,e.gguf"], [("d,e.gguf", 1.0)]),
        (["f:2"], [("f:2", 1.0)]),
    ],
)
def test_a_scale_may_follow_the_name(values, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("c:1.gguf", "d,e.gguf", "f:2"):
        Path(name).touch()
    found = parse_adapters(values)
    assert [(each.path, each.scale) for each in found] == [
        (tmp_path / name, scale) for name, scale in expected
    ]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("a.gguf:b", "there is no such file, and 'b' is not a scale"),
        ("a.gguf:", "is not a scale"),
        ("a.gguf:nan", "give a scale from"),
        ("a.gguf:inf", "give a scale from"),
        ("a.gguf:1e7", "give a scale from"),
        ("", "give FILE, or FILE:SCALE"),
        (":1", "give FILE, or FILE:SCALE"),
        ("a.gguf,,b.gguf", "give FILE, or FILE:SCALE"),
    ],
)
def test_what_names_no_adapter_is_refused(value, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=said):
        parse_adapters([value])


@pytest.mark.parametrize(
    ("tensors", "layers", "said"),
    [
        (pair("blk.1.attn_z.weight"), (0, N_LAYER), "'blk.1.attn_z.weight' does not exist"),
        (pair(a=(4, 8)), (0, N_LAYER), f"'{Q}' has incorrect shape"),
        (pair("blk.1.attn_z.weight"), (1, 2), "'blk.1.attn_z.weight' does not exist"),
    ],
)
def test_a_stage_checks_its_own_part(base, tmp_path, tensors, layers, said):
    capture_log()
    path = adapter(tmp_path / "lora.gguf", tensors)
    config = EngineConfig(
        model_path=base,
        n_ctx=256,
        n_cells=256,
        n_batch=32,
        n_threads=1,
        layer_first=layers[0],
        layer_last=layers[1],
        adapters=(Adapter(path=path),),
    )
    with pytest.raises(UserError, match=f"LoRA adapter '{path}': .*{said}"):
        Engine(config)
