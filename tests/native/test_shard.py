"""Shards: what is in them, sets that do not belong together, and writes that go wrong."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import gguf
import numpy as np
import pytest

from architectures import TINY_MODELS
from pipeinfer_cli.engine.llama_cpp import capture_log
from pipeinfer_cli.errors import PipeinferError, RunError, UserError
from pipeinfer_cli.models import resolve, shards
from pipeinfer_cli.models.gguf.info import read_model_info
from pipeinfer_cli.models.make_shards import ShardConfig, shard
from random_gguf import write
from small_models import in_parts

pytestmark = pytest.mark.native

TINY = {tiny.name: tiny for tiny in TINY_MODELS}


@pytest.fixture(autouse=True)
def _quiet():
    capture_log()


@pytest.fixture
def model(tmp_path):
    return TINY["llama"].write(tmp_path / "tiny.gguf")


def cut(model, folder, n_stages=3, layer_split=None):
    config = ShardConfig(model=model, n_stages=n_stages, layer_split=layer_split, folder=folder)
    return shard(config)


def tensors(path):
    return {t.name: (t.tensor_type, t.data.tobytes()) for t in gguf.GGUFReader(path).tensors}


def metadata(path):
    fields = gguf.GGUFReader(path).fields.values()
    return {f.name: f.contents() for f in fields if not f.name.startswith("GGUF.")}


@pytest.mark.parametrize("name", ["llama", "phi3", "gemma2", "deepseek2", "gpt-oss"])
def test_shards_have_the_tensors_of_their_stages_and_nothing_else(name, tmp_path):
    model = TINY[name].write(tmp_path / "tiny.gguf")
    paths = cut(model, tmp_path / "out")
    whole, parts = tensors(model), [tensors(path) for path in paths]
    assert set(whole) == set().union(*parts)
    for part in parts:
        assert all(whole[tensor] == data for tensor, data in part.items())
    everywhere = {tensor for tensor in whole if tensor.startswith("rope_")}
    both_ends = {"token_embd.weight"} if TINY[name].is_tied else set()
    for first, second in ((0, 1), (1, 2), (0, 2)):
        shared = both_ends if (first, second) == (0, 2) else set()
        assert parts[first].keys() & parts[second].keys() == everywhere | shared
    assert "token_embd.weight" in parts[0]
    assert "output_norm.weight" in parts[2]


def test_metadata_are_kept_and_say_which_part_it_is(model, tmp_path):
    paths = cut(model, tmp_path / "out", layer_split=(2, 1, 2))
    sha256 = hashlib.sha256(model.read_bytes()).hexdigest()
    for stage, path in enumerate(paths):
        own = metadata(path)
        assert own.items() >= metadata(model).items()
        assert own["pipeinfer.shard.source_sha256"] == sha256
        assert own["pipeinfer.shard.source"] == "tiny.gguf"
        assert own["pipeinfer.shard.stage"] == stage
        assert list(own["pipeinfer.shard.boundaries"]) == [0, 2, 3, 5]
        assert read_model_info(path) == read_model_info(model)


def test_a_model_in_several_files_gives_the_same_tensors(model, tmp_path):
    parts = in_parts(model, tmp_path / "parts", 3)
    made = cut(parts[0], tmp_path / "out")
    assert [path.name for path in made] == [f"parts-stage-{i}-of-3.gguf" for i in range(3)]
    expected = cut(model, tmp_path / "out2")
    assert [tensors(path) for path in made] == [tensors(path) for path in expected]
    digest = hashlib.sha256(b"".join(part.read_bytes() for part in parts)).hexdigest()
    assert shards.read_shard(made[0]).split.sha256 == digest
    assert "split.count" not in metadata(made[0])


def test_holes_stay_holes(tmp_path):
    """A model of large zero tensors, as a file with holes and as one without."""
    n_embd, n_layer = 4096, 4
    dense = tmp_path / "zeros.gguf"
    writer = gguf.GGUFWriter(dense, "llama")
    writer.add_block_count(n_layer)
    writer.add_embedding_length(n_embd)
    writer.add_context_length(128)
    writer.add_token_list([f"t{i}" for i in range(10)])
    writer.add_tensor("token_embd.weight", np.ones((10, n_embd), np.float32))
    for layer in range(n_layer):
        zeros = np.zeros((256, n_embd), np.float32)
        zeros[7] = layer  # some data between two holes
        writer.add_tensor(f"blk.{layer}.attn_q.weight", zeros)
        writer.add_tensor(f"blk.{layer}.attn_k.weight", np.zeros((16, n_embd), np.float32))
    write(writer)
    data = dense.read_bytes()
    sparse = tmp_path / "sparse" / "zeros.gguf"
    sparse.parent.mkdir()
    with sparse.open("wb") as file:
        for at in range(0, len(data), 4096):
            block = data[at : at + 4096]
            if any(block):
                file.seek(at)
                file.write(block)
        file.truncate(len(data))
    assert disk_bytes(sparse) < len(data) / 10, "this file system has no holes"
    expected = cut(dense, tmp_path / "a", n_stages=2)
    made = cut(sparse, tmp_path / "b", n_stages=2)
    for path, other in zip(made, expected, strict=True):
        assert path.read_bytes() == other.read_bytes()
        assert disk_bytes(path) < disk_bytes(other) / 10


def disk_bytes(path):
    return path.stat().st_blocks * 512


def test_sharding_twice_gives_the_same_bytes(model, tmp_path):
    first = [path.read_bytes() for path in cut(model, tmp_path / "out")]
    assert [path.read_bytes() for path in cut(model, tmp_path / "out")] == first


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"n_stages": 0}, "--stages 0"),
        ({"n_stages": 6}, "6 stages for a model of 5 layers"),
        ({"layer_split": (1, 1)}, "--layer-split has 2 weights for 3 ranks"),
        ({"layer_split": (0, 1, 1)}, "a stage without layers"),
    ],
)
def test_what_cannot_be_cut(model, tmp_path, changes, said):
    with pytest.raises(UserError, match=said):
        cut(model, tmp_path / "out", **changes)
    assert not (tmp_path / "out").exists()


def test_a_shard_is_not_cut_again(model, tmp_path):
    first = cut(model, tmp_path / "out")[0]
    with pytest.raises(UserError, match="is a shard already"):
        cut(first, tmp_path / "out2")


def locate(folder, rank=2, stage=2):
    """What a job of three ranks would find on the host of one of them."""
    return shards.locate(folder).path_for(rank, stage)


def test_a_folder(model, tmp_path):
    paths = cut(model, tmp_path / "out")
    files = shards.locate(tmp_path / "out")
    assert [files.path_for(stage, stage) for stage in range(3)] == paths
    assert files.path_for(0, None) == paths[0]  # the head without layers needs the vocabulary
    assert shards.n_stages(str(tmp_path / "out")) == 3
    for n_ranks, first in ((3, 0), (4, 1)):
        layers = files.layers(n_ranks, None)
        assert sum(map(len, layers)) == 5
        assert len(layers[0]) == 0 or first == 0
    for n_ranks in (1, 2, 5):
        with pytest.raises(UserError, match=rf"a job of 3 ranks, or 4 .* has {n_ranks}"):
            files.layers(n_ranks, None)
    with pytest.raises(UserError, match=r"--layer-split: .* leave it out"):
        files.layers(3, (1.0, 1.0, 1.0))


@pytest.mark.parametrize("place", ["{rank}", "{stage}"])
def test_a_path_to_fill_in(model, tmp_path, place):
    paths = cut(model, tmp_path / "out")
    template = Path(str(paths[0]).replace("stage-0", f"stage-{place}"))
    assert locate(template) == paths[2]


def test_a_list_with_a_path_for_each_rank(model, tmp_path):
    """Of shards; of whole models, which must be the same one; and paths with commas in them."""
    names = ",".join(map(str, cut(model, tmp_path / "out")))
    assert locate(Path(names)) == tmp_path / "out" / "tiny-stage-2-of-3.gguf"
    with_comma, copy = tmp_path / "a,b.gguf", tmp_path / "copy.gguf"
    for path in (with_comma, copy):
        shutil.copy(model, path)
    assert shards.listed(with_comma) == ()
    assert locate(with_comma) == resolve.resolve(str(with_comma)) == with_comma
    both = resolve.resolve(f"{model}, {copy}")
    files = shards.locate(both)
    assert (shards.n_stages(str(both)), files.layers(2, None)) == (2, None)
    assert [files.path_for(rank, rank) for rank in range(2)] == [model, copy]
    with pytest.raises(UserError, match="-m lists 2 paths for 3 ranks"):
        files.layers(3, None)
    copy.write_bytes(b"GGUF")
    with pytest.raises(UserError, match=r"copy.gguf' is not the model that the head has"):
        files.path_for(1, 1)
    copy.unlink()
    with pytest.raises(UserError, match=r"cannot read the model '.*copy.gguf'"):
        files.path_for(1, 1)
    with pytest.raises(UserError, match=r"cannot read the model '.*none.gguf'"):
        resolve.resolve(f"{tmp_path}/none.gguf,{model}")


def test_folders_on_the_nodes_own_disks(model, tmp_path):
    """The head sees its own shard only."""
    paths = cut(model, tmp_path / "out")
    for rank, path in enumerate(paths):
        (tmp_path / f"node{rank}").mkdir()
        path.rename(tmp_path / f"node{rank}" / "model.gguf")
    found = locate(tmp_path / "node{rank}" / "model.gguf")
    assert found == tmp_path / "node2" / "model.gguf"


def test_a_missing_shard(model, tmp_path):
    cut(model, tmp_path / "out")[2].unlink()
    with pytest.raises(UserError, match=r"shard of stage 2 is missing .* which has: 0, 1"):
        locate(tmp_path / "out")


def test_a_shard_of_another_stage(model, tmp_path):
    paths = cut(model, tmp_path / "out")
    shutil.copy(paths[1], paths[2])
    with pytest.raises(UserError, match="two shards of stage 1"):
        locate(tmp_path / "out")
    template = Path(str(paths[0]).replace("stage-0", "stage-{stage}"))
    with pytest.raises(UserError, match="is the shard of stage 1; rank 2 needs that of stage 2"):
        locate(template)


@pytest.mark.parametrize("other", ["model", "split"])
def test_a_foreign_shard(model, tmp_path, other):
    paths = cut(model, tmp_path / "out")
    source = model if other == "split" else TINY["gemma"].write(tmp_path / "other.gguf")
    weights = (1, 1, 3) if other == "split" else None
    foreign = cut(source, tmp_path / "other", layer_split=weights)[2]
    paths[2].unlink()
    shutil.copy(foreign, paths[2])
    with pytest.raises(UserError, match="shards of different splits"):
        locate(tmp_path / "out")
    template = Path(str(paths[0]).replace("stage-0", "stage-{stage}"))
    with pytest.raises(UserError, match=r"is a shard of .*; the head's is of"):
        locate(template)


def test_one_shard_is_no_model(model, tmp_path):
    path = cut(model, tmp_path / "out")[1]
    with pytest.raises(UserError, match="is the shard of stage 1 of 3: give -m the folder"):
        shards.locate(path)


def test_a_folder_without_shards(model, tmp_path):
    with pytest.raises(UserError, match="is a folder without shards"):
        shards.locate(tmp_path)


def test_a_truncated_shard(model, tmp_path):
    path = cut(model, tmp_path / "out")[2]
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(UserError, match=r"damaged or incomplete: the tensor .* ends at byte"):
        locate(tmp_path / "out")


def test_a_shard_that_lacks_a_tensor(model, tmp_path):
    """Its own layers must have the bytes that the whole model's have."""
    path = cut(model, tmp_path / "out")[1]
    reader, lacking = gguf.GGUFReader(path), tmp_path / "lacking.gguf"
    writer = gguf.GGUFWriter(lacking, "llama")
    for field in reader.fields.values():
        if not field.name.startswith("GGUF.") and field.name != "general.architecture":
            element = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(field.name, field.contents(), field.types[0], sub_type=element)
    for tensor in reader.tensors[:-1]:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    write(writer)
    with pytest.raises(UserError, match="the shard lacks tensors of layer"):
        read_model_info(lacking)


def test_a_folder_with_other_models(model, tmp_path):
    with pytest.raises(UserError, match=r"has other GGUF files, 'tiny.gguf' for one"):
        cut(model, tmp_path)


def test_too_little_room(model, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(UserError, match=r"the shards need .* has 1.0 kB free"):
        cut(model, tmp_path / "out")


PROGRAM = """
import resource, sys, time
from pathlib import Path
from pipeinfer_cli.cli import main; from pipeinfer_cli.models import make_shards
model, folder, how = sys.argv[1:]
if how == "full":  # as a full disk: a write ends with an error
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
if how == "slow":
    chunks = make_shards._chunks
    def slow(source, part):
        for index, chunk in enumerate(chunks(source, part)):
            if index == 20:
                Path(folder, "halfway").touch()
                time.sleep(60)
            yield chunk
    make_shards._chunks = slow
sys.exit(main.main(["shard", model, "--stages", "2", "-o", folder]))
"""


def start(model, folder, how):
    path = os.environ.get("PYTHONPATH") or os.pathsep.join(sys.path)
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(model), str(folder), how],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=model.parent,  # not in the source folder: the installed package is tested
    )


def test_a_full_disk(model, tmp_path):
    with start(model, tmp_path / "out", "full") as process:
        _, err = process.communicate(timeout=60)
    assert process.returncode == RunError.exit_code, err
    assert "cannot write the shards into" in err.splitlines()[-1]
    assert "nothing was kept; free some space" in err.splitlines()[-1]
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("signum", "code"), [(signal.SIGKILL, -9), (signal.SIGINT, 130), (signal.SIGTERM, 143)]
)
def test_an_interrupted_write(model, tmp_path, signum, code):
    folder = tmp_path / "out"
    with start(model, folder, "slow") as process:
        deadline_s = time.monotonic() + 30
        while not (folder / "halfway").exists():
            assert time.monotonic() < deadline_s and process.poll() is None
            time.sleep(0.02)
        with pytest.raises(UserError, match="another pipeinfer shard writes into"):
            cut(model, folder)
        process.send_signal(signum)
        assert process.wait(20) == code
        process.communicate()
    (folder / "halfway").unlink()
    assert list(folder.glob("*.gguf")) == []
    with pytest.raises(PipeinferError, match="is a folder without shards"):
        shards.locate(folder)
    paths = cut(model, folder)
    assert sorted(folder.iterdir()) == sorted(paths)
    assert sum(path.stat().st_size for path in paths) > model.stat().st_size


def test_memory_does_not_grow_with_the_model(tmp_path):
    """A tensor of 64 MB passes through a buffer of 4."""
    model = tmp_path / "large.gguf"
    writer = gguf.GGUFWriter(model, "llama")
    writer.add_block_count(2)
    writer.add_embedding_length(64)
    writer.add_context_length(128)
    writer.add_token_list(["a"])
    for layer in range(2):
        writer.add_tensor(f"blk.{layer}.ffn_up.weight", np.zeros((1 << 12, 1 << 12), np.float32))
    write(writer)
    program = (
        "import resource, sys; from pathlib import Path\n"
        "from pipeinfer_cli.models import make_shards\n"
        "grown = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024\n"
        "make_shards.read_model_info(Path(sys.argv[1])); before = grown()\n"
        "made = make_shards.ShardConfig(model=Path(sys.argv[1]), n_stages=2, layer_split=None,"
        " folder=Path(sys.argv[2])); make_shards.shard(made)\n"
        "print(grown() - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(model), str(tmp_path / "out")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=60,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 32 << 20
