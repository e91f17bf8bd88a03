"""`models show`: its numbers, against the file and llama.cpp's own."""

import os
import re

import pytest

from architectures import TINY_MODELS
from architectures.hybrids import HYBRIDS
from pipeinfer_cli.engine.config import F16_CACHE, CacheTypes
from pipeinfer_cli.engine.llama_cpp import bindings, capture_log
from pipeinfer_cli.errors import UserError
from pipeinfer_cli.models.gguf.info import read_model_info
from pipeinfer_cli.models.gguf.kv import KvShape, check_cache_types
from pipeinfer_cli.models.layer_split import LayerRange, kv_bytes, split_layers, stage_bytes
from pipeinfer_cli.models.make_shards import ShardConfig, shard
from pipeinfer_cli.models.show import ShowConfig, show

pytestmark = pytest.mark.native

TINY = {tiny.name: tiny for tiny in TINY_MODELS}
N_CTX = 16384  # llama.cpp says MiB with two decimals
N_SEQ = 64


@pytest.fixture(autouse=True)
def _quiet():
    capture_log()


def kv_buffer_mib(path, types):
    return buffer_mib(path, "KV", types)


def buffer_mib(path, kind, types=F16_CACHE):
    """What llama.cpp logs of its KV caches for a context of N_CTX, or of N_SEQ recurrent states."""
    llama = bindings()
    lines = []
    keep = llama.llama_log_callback(lambda _level, text, _data: lines.append(text.decode()))
    llama.llama_log_set(keep, None)
    try:
        model = llama.llama_model_load_from_file(
            os.fsencode(path), llama.llama_model_default_params()
        )
        params = llama.llama_context_default_params()
        params.n_ctx = N_CTX
        params.n_seq_max = N_SEQ
        params.kv_unified = True
        params.swa_full = True
        params.type_k, params.type_v = types.ids
        params.flash_attn_type = llama.LLAMA_FLASH_ATTN_TYPE_ENABLED
        context = llama.llama_init_from_model(model, params)
        assert context, lines[-3:]
        llama.llama_free(context)
        llama.llama_model_free(model)
    finally:
        capture_log()
    sizes = re.findall(rf"{kind} buffer size = +([\d.]+) MiB", "".join(lines))
    assert sizes
    return sum(map(float, sizes))


@pytest.mark.parametrize(
    "name", ["llama", "gemma3", "falcon", "deepseek2", "deepseek2-lite", "glm4moe"]
)
@pytest.mark.parametrize(
    "types",
    [F16_CACHE, CacheTypes("q8_0", "q8_0"), CacheTypes("f32", "f32"), CacheTypes("q5_1", "q4_0")],
    ids=lambda types: f"{types.k}-{types.v}",
)
def test_the_kv_cache_is_as_large_as_llama_cpp_makes_it(name, types, tmp_path):
    path = TINY[name].write(tmp_path / "tiny.gguf")
    info = read_model_info(path)
    if name == "deepseek2" and types.k != types.v:
        with pytest.raises(UserError, match="q4_0: this model caches keys and values together"):
            check_cache_types(info.kv, types)
        return
    check_cache_types(info.kv, types)
    n_bytes = kv_bytes(info, LayerRange(0, TINY[name].n_layer), N_CTX, types)
    assert n_bytes / 2**20 == pytest.approx(kv_buffer_mib(path, types), abs=0.02)


@pytest.mark.parametrize("types", [CacheTypes("q8_0"), CacheTypes("f16", "iq4_nl")])
def test_heads_that_are_no_multiple_of_a_block(types):
    shapes = (KvShape(k=160, v=160, k_head=80, v_head=80),)
    option = "-ctk/--cache-type-k q8_0" if types.k == "q8_0" else "-ctv/--cache-type-v iq4_nl"
    with pytest.raises(UserError, match=f"{option}: its blocks have 32 elements, .*heads 80"):
        check_cache_types(shapes, types)
    check_cache_types(shapes, CacheTypes("bf16", "f32"))


@pytest.mark.parametrize("name", [each.name for each in HYBRIDS])
def test_hybrids_have_states_as_large_as_llama_cpp_makes_them(name, tmp_path):
    path = TINY[name].write(tmp_path / "tiny.gguf")
    info = read_model_info(path)
    n_bytes = N_SEQ * sum(info.state_bytes)
    assert n_bytes / 2**20 == pytest.approx(buffer_mib(path, "RS"), abs=0.02)
    cells = kv_bytes(info, LayerRange(0, info.n_layer), N_CTX, F16_CACHE)
    assert cells / 2**20 == pytest.approx(kv_buffer_mib(path, F16_CACHE), abs=0.02)


def table(text, first):
    """The rows of the table whose header begins so."""
    lines = iter(text.splitlines())
    next(line for line in lines if line.startswith(first))
    rows = []
    for line in lines:
        if not line:
            break
        rows.append(line.split("\t"))
    return rows


def test_what_it_prints(tmp_path, capsys):
    path = TINY["deepseek2"].write(tmp_path / "tiny.gguf")
    show(ShowConfig(model=path, n_stages=3, n_ctx=256))
    out = capsys.readouterr().out
    assert "architecture\tdeepseek2\nlayers\t6\n" in out
    # three dense layers, then experts
    assert [row[0] for row in table(out, "layers\tweights")] == ["0-2", "3-5"]
    info = read_model_info(path)
    stages = split_layers(info, 3, None)
    shown = table(out, "stage\t")
    assert [row[1] for row in shown] == [str(layers) for layers in stages]
    assert [row[2] for row in shown] == [
        f"{stage_bytes(info, layers) / 1000:.1f} kB" for layers in stages
    ]


def test_a_folder_of_shards(tmp_path, capsys):
    path = TINY["llama"].write(tmp_path / "tiny.gguf")
    folder = tmp_path / "out"
    shard(ShardConfig(model=path, n_stages=2, layer_split=(4, 1), folder=folder))
    show(ShowConfig(model=folder, n_stages=None, n_ctx=256))
    out = capsys.readouterr().out
    assert "shards of\t'tiny.gguf' (SHA-256 " in out
    assert [row[1] for row in table(out, "stage\t")] == ["[0, 4)", "[4, 5)"]


@pytest.mark.parametrize("changes", [{"n_stages": 0}, {"n_ctx": 0}])
def test_numbers_that_make_no_sense(tmp_path, changes):
    with pytest.raises(UserError, match="give a number of 1 or more"):
        ShowConfig(**{"model": tmp_path, "n_stages": 1, "n_ctx": 1, **changes})
