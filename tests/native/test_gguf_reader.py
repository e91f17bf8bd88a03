"""A header is read once in a process, and again when the file is another one."""

import os
import time

import pytest

from pipeinfer_cli.errors import UserError
from pipeinfer_cli.models import shards
from pipeinfer_cli.models.gguf import reader
from pipeinfer_cli.models.make_shards import ShardConfig, shard
from pipeinfer_cli.models.show import ShowConfig, show
from support import tiny_model

pytestmark = pytest.mark.native


@pytest.fixture
def parsed(monkeypatch):
    """The names of the files whose headers were parsed, in this order."""
    names, read = [], reader._read

    def noting(path):
        names.append(path.name)
        return read(path)

    monkeypatch.setattr(reader, "_read", noting)
    return names


def settle(path, age_s=10.0):
    """As if nobody had changed the file for a while."""
    then_s = time.time() - age_s
    os.utime(path, (then_s, then_s))
    return path


def test_a_header_is_parsed_once(parsed, tmp_path):
    path = settle(tiny_model(tmp_path / "m.gguf"))
    assert reader.read(path) is reader.read(path)
    assert parsed == ["m.gguf"]


def test_showing_a_model_parses_it_once(parsed, tmp_path):
    path = settle(tiny_model(tmp_path / "m.gguf"))
    show(ShowConfig(model=path, n_stages=2, n_ctx=256))
    assert parsed == ["m.gguf"]


def test_a_rank_parses_each_shard_once(parsed, tmp_path):
    config = ShardConfig(
        model=tiny_model(tmp_path / "m.gguf"),
        n_stages=2,
        layer_split=None,
        folder=tmp_path / "out",
    )
    names = [settle(path).name for path in shard(config)]
    parsed.clear()
    assert shards.n_stages(str(tmp_path / "out")) == 2  # as the parent asks,
    files = shards.locate(tmp_path / "out")  # and the head
    files.path_for(0, 0)
    assert parsed == names


@pytest.mark.parametrize("way", ["in place", "another file"])
def test_a_changed_file_is_read_again(parsed, tmp_path, way):
    path = settle(tiny_model(tmp_path / "m.gguf", n_layer=2))
    assert reader.read(path).count("llama.block_count") == 2
    other = settle(tiny_model(tmp_path / "other.gguf", n_layer=3), age_s=5.0)
    if way == "in place":
        path.write_bytes(other.read_bytes())
        settle(path, age_s=5.0)
    else:
        other.replace(path)
    assert reader.read(path).count("llama.block_count") == 3
    assert parsed == ["m.gguf", "m.gguf"]


def test_a_file_that_was_just_written_is_not_trusted_to_stay(parsed, tmp_path):
    path = tiny_model(tmp_path / "m.gguf")
    for _ in range(2):
        reader.read(path)
    assert parsed == ["m.gguf", "m.gguf"]


def test_damage_is_said_each_time(tmp_path):
    path = tmp_path / "m.gguf"
    path.write_bytes(b"GGUF")
    settle(path)
    for _ in range(2):
        with pytest.raises(UserError, match="is damaged or incomplete"):
            reader.read(path)
