"""Files with a layer for predictions after those of the text: it is counted nowhere.

tests/mpi/test_architectures.py decodes them, whole, split and as shards.
"""

from dataclasses import replace

import gguf
import pytest

from architectures import TINY_MODELS
from pipeinfer_cli.engine.llama_cpp import capture_log
from pipeinfer_cli.errors import UserError
from pipeinfer_cli.models import derive
from pipeinfer_cli.models.derive import DeriveConfig
from pipeinfer_cli.models.gguf.info import read_model_info
from pipeinfer_cli.models.layer_split import split_layers, stage_bytes
from pipeinfer_cli.models.make_shards import ShardConfig, shard
from pipeinfer_cli.models.show import ShowConfig, show

pytestmark = pytest.mark.native

WITH_PREDICTION = [tiny for tiny in TINY_MODELS if tiny.nextn is not None]
GLM = next(tiny for tiny in WITH_PREDICTION if tiny.name == "glm4moe")


@pytest.fixture(autouse=True)
def _quiet():
    capture_log()


@pytest.fixture
def model(tmp_path):
    return GLM.write(tmp_path / "tiny.gguf")


def tensors(path):
    return {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}


@pytest.mark.parametrize("tiny", WITH_PREDICTION, ids=lambda tiny: tiny.name)
def test_layers_and_bytes(tiny, tmp_path):
    path = tiny.write(tmp_path / "tiny.gguf")
    info = read_model_info(path)
    assert (info.n_layer, info.n_layer_nextn, info.can_split) == (tiny.n_layer, 1, True)
    assert len(info.layer_bytes) == tiny.n_layer
    last = f"blk.{tiny.n_layer}."
    n_bytes = {name: tensor.n_bytes for name, tensor in tensors(path).items()}
    assert info.bytes_nextn == sum(n for name, n in n_bytes.items() if name.startswith(last)) > 0
    assert info.bytes_total == sum(n_bytes.values()) - info.bytes_nextn
    layers = split_layers(info, 2, None)
    assert layers[-1].last == tiny.n_layer
    assert sum(stage_bytes(info, each) for each in layers) <= info.bytes_total


def test_it_is_shown(model, capsys):
    show(ShowConfig(model=model, n_stages=2, n_ctx=256))
    out = capsys.readouterr().out
    assert f"\nlayers\t{GLM.n_layer}\n" in out
    assert "\nprediction layers\t1, of " in out
    assert f"[2, {GLM.n_layer})" in out or f"2-{GLM.n_layer - 1}" in out


def test_shards_do_not_have_it(model, tmp_path, capsys):
    config = ShardConfig(model=model, n_stages=3, layer_split=None, folder=tmp_path / "out")
    paths = shard(config)
    for path in paths:
        assert not [name for name in tensors(path) if name.startswith(f"blk.{GLM.n_layer}.")]
        info, whole = read_model_info(path), read_model_info(model)
        assert info == replace(whole, bytes_nextn=0)
    show(ShowConfig(model=tmp_path / "out", n_stages=None, n_ctx=256))
    assert "prediction layers\t1, not in this file" in capsys.readouterr().out


def test_fewer_layers_are_derived_without_it(model, tmp_path):
    target = tmp_path / "fewer.gguf"
    derive.derive(DeriveConfig(model=model, target=target, left_out=(2,)))
    info = read_model_info(target)
    assert (info.n_layer, info.n_layer_nextn, info.bytes_nextn) == (GLM.n_layer - 1, 0, 0)
    old, new = tensors(model), tensors(target)
    kept = [0, 1, 3]
    for name, tensor in new.items():
        head, _, rest = name.partition(".")
        layer, _, kind = rest.partition(".")
        twin = f"blk.{kept[int(layer)]}.{kind}" if head == "blk" else name
        assert tensor.data.tobytes() == old[twin].data.tobytes(), name
    assert {name.split(".")[1] for name in new if name.startswith("blk.")} == {"0", "1", "2"}


def test_another_type_keeps_it(model, tmp_path):
    target = tmp_path / "other.gguf"
    derive.derive(DeriveConfig(model=model, target=target, file_type="F16"))
    info = read_model_info(target)
    assert (info.n_layer, info.n_layer_nextn) == (GLM.n_layer, 1)
    assert tensors(target).keys() == tensors(model).keys()


def test_it_cannot_be_left_out_by_number(model, tmp_path):
    config = DeriveConfig(model=model, target=tmp_path / "no.gguf", left_out=(GLM.n_layer,))
    with pytest.raises(UserError, match=f"the model has the layers 0 to {GLM.n_layer - 1}"):
        derive.derive(config)


@pytest.mark.parametrize("n_predicting", [GLM.n_layer + 1, 2**31 - 1, 2**32 - 1])
def test_no_layer_for_the_text(tmp_path, n_predicting):
    keys = {**GLM.keys, "nextn_predict_layers": n_predicting}
    path = replace(GLM, keys=keys).write(tmp_path / "tiny.gguf")
    with pytest.raises(UserError, match="cannot use the model") as error:
        read_model_info(path)
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="layers"):
        derive.derive(DeriveConfig(model=path, target=tmp_path / "no.gguf", left_out=(1,)))
