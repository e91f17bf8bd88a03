"""Derived models: what changes, what stays, the note of their descent, and errors."""

import hashlib
import os
import shutil
import subprocess
import sys

import gguf
import numpy as np
import pytest
from gguf.quants import dequantize

from architectures import TINY_MODELS
from pipeinfer_cli.errors import RunError, UserError
from pipeinfer_cli.models import derive
from pipeinfer_cli.models.derive import DeriveConfig, parse_layers, show_layers
from pipeinfer_cli.models.gguf import reader
from pipeinfer_cli.models.gguf.info import read_model_info
from pipeinfer_cli.models.make_shards import ShardConfig, shard
from small_models import in_parts
from support import smollm2

pytestmark = pytest.mark.native

TINY = {tiny.name: tiny for tiny in TINY_MODELS}


@pytest.fixture
def model(tmp_path):
    return TINY["llama"].write(tmp_path / "tiny.gguf")


def tensors(path):
    return {t.name: t for t in gguf.GGUFReader(path).tensors}


def metadata(path):
    fields = gguf.GGUFReader(path).fields.values()
    return {f.name: f.contents() for f in fields if not f.name.startswith("GGUF.")}


def test_fewer_layers(model, tmp_path):
    target = tmp_path / "new" / "fewer.gguf"
    derive.derive(DeriveConfig(model=model, target=target, left_out=(1, 3)))
    old, new = tensors(model), tensors(target)
    for name, tensor in new.items():
        head, _, rest = name.partition(".")
        layer, _, kind = rest.partition(".")
        twin = f"blk.{[0, 2, 4][int(layer)]}.{kind}" if head == "blk" else name
        assert tensor.tensor_type == old[twin].tensor_type
        assert tensor.data.tobytes() == old[twin].data.tobytes()
    assert len(old) - len(new) == 2 * sum(name.startswith("blk.0.") for name in old)
    was, now = metadata(model), metadata(target)
    assert now["llama.block_count"] == 3
    for key in was.keys() - {"llama.block_count", "general.file_type"}:
        assert now[key] == was[key], key


@pytest.mark.parametrize(("file_type", "kind"), [("F32", "F32"), ("Q4_0", "Q4_0")])
def test_another_type(model, tmp_path, file_type, kind):
    target = tmp_path / "other.gguf"
    derive.derive(DeriveConfig(model=model, target=target, file_type=file_type))
    old, new = tensors(model), tensors(target)
    assert old.keys() == new.keys()
    weight = "blk.2.ffn_down.weight"
    assert new[weight].tensor_type.name == kind
    values = dequantize(old[weight].data, old[weight].tensor_type)
    found = dequantize(new[weight].data, new[weight].tensor_type)
    assert np.array_equal(found, values) if kind == "F32" else np.allclose(found, values, atol=0.05)


def test_the_note_of_its_descent(model, tmp_path):
    target = tmp_path / "draft.gguf"
    config = DeriveConfig(model=model, target=target, file_type="Q4_0", left_out=(2, 3, 4))
    derive.derive(config)
    note = {key: value for key, value in metadata(target).items() if "derived" in key}
    assert note == {
        "pipeinfer.derived.source": "tiny.gguf",
        "pipeinfer.derived.source_sha256": hashlib.sha256(model.read_bytes()).hexdigest(),
        "pipeinfer.derived.how": "type Q4_0; without layers 2-4",
    }


def test_from_a_model_in_several_files(model, tmp_path):
    parts = in_parts(model, tmp_path / "parts", 3)
    made = [tmp_path / "a.gguf", tmp_path / "b.gguf"]
    for source, target in zip((model, parts[0]), made, strict=True):
        derive.derive(DeriveConfig(model=source, target=target, left_out=(2,)))
    first, second = map(tensors, made)
    assert {n: t.data.tobytes() for n, t in first.items()} == {
        n: t.data.tobytes() for n, t in second.items()
    }


@pytest.mark.parametrize(
    ("text", "layers"),
    [("", ()), ("3", (3,)), ("9,14,20-22", (9, 14, 20, 21, 22)), ("2,1,1-2", (1, 2))],
)
def test_lists_of_layers(text, layers):
    assert parse_layers(text) == layers
    assert parse_layers(show_layers(layers)) == layers


@pytest.mark.parametrize("text", ["x", "1-", "3-1", "-", "1,,x", "1.5", "0-99999999"])
def test_lists_that_are_none(text):
    with pytest.raises(UserError, match="--without"):
        parse_layers(text)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "nothing to change"),
        ({"file_type": "Q9"}, "--type 'Q9': give one of F32"),
        ({"file_type": "F16", "n_threads": -5}, "--threads -5: give a number from 1 to 512"),
        ({"file_type": "F16", "n_threads": 0}, "--threads 0"),
        ({"file_type": "F16", "n_threads": 2**40}, "--threads 1099511627776"),
        ({"left_out": (5,)}, "--without 5: the model has the layers 0 to 4"),
        ({"left_out": (0, 1, 2, 3, 4)}, "leaves nothing"),
    ],
)
def test_what_makes_no_sense(model, tmp_path, changes, said):
    with pytest.raises(UserError, match=said):
        derive.derive(DeriveConfig(model=model, target=tmp_path / "no.gguf", **changes))
    assert list(tmp_path.iterdir()) == [model]


@pytest.mark.parametrize(
    ("name", "layer", "said"),
    [
        ("gemma3", 2, "not all of one kind .gemma3.attention.sliding_window"),
        ("deepseek2", 2, "first 3 layers of this model are of another kind"),
    ],
)
def test_layers_that_cannot_be_left_out(tmp_path, name, layer, said):
    model = TINY[name].write(tmp_path / "tiny.gguf")
    with pytest.raises(UserError, match=said):
        derive.derive(DeriveConfig(model=model, target=tmp_path / "no.gguf", left_out=(layer,)))


def test_not_from_a_shard_and_not_over_another_file(model, tmp_path):
    config = ShardConfig(model=model, n_stages=2, layer_split=None, folder=tmp_path / "out")
    first = shard(config)[0]
    with pytest.raises(UserError, match="is a shard"):
        derive.derive(DeriveConfig(model=first, target=tmp_path / "no.gguf", file_type="F16"))
    with pytest.raises(UserError, match="exists: remove it"):
        derive.derive(DeriveConfig(model=model, target=model, file_type="F16"))


def test_a_full_disk(model, tmp_path):
    """llama.cpp does not notice it; we do."""
    program = (
        "import resource, sys; from pipeinfer_cli.cli import main\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))\n"
        "sys.exit(main.main(sys.argv[1:]))"
    )
    args = ["models", "derive", str(model), "--type", "F32", "-o", str(tmp_path / "no.gguf")]
    done = subprocess.run(
        [sys.executable, "-c", program, *args],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=60,
        cwd=tmp_path,
    )
    assert done.returncode == RunError.exit_code, done.stderr
    line = done.stderr.splitlines()[-1]
    assert "came out damaged" in line or "cannot derive" in line
    assert list(tmp_path.iterdir()) == [model]


def test_the_note_says_when_the_disk_is_full(model, tmp_path, monkeypatch):
    monkeypatch.setattr(
        derive, "_quantize", lambda _config, _parts, made: made.write_bytes(b"GGUF")
    )
    usage = shutil.disk_usage(tmp_path)._replace(free=0)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(RunError, match="came out damaged: the disk is full"):
        derive.derive(DeriveConfig(model=model, target=tmp_path / "no.gguf", file_type="F16"))
    assert list(tmp_path.iterdir()) == [model]


def test_a_draft_of_a_real_model_loads(tmp_path):
    target = tmp_path / "draft.gguf"
    config = DeriveConfig(model=smollm2(), target=target, file_type="Q4_0", left_out=(9, 14, 19))
    assert read_model_info(derive.derive(config)).n_layer == 27
    assert reader.read(target).text("pipeinfer.derived.how") == (
        "type Q4_0; without layers 9,14,19"
    )
