"""What a GGUF says of itself reaches no terminal raw."""

from dataclasses import replace

import gguf
import numpy as np
import pytest

import raw_gguf
from architectures import TINY_MODELS
from pipeinfer_cli.cli import main
from pipeinfer_cli.models import show
from random_gguf import copy_field, is_writers_own, write

pytestmark = pytest.mark.native


def test_what_a_gguf_says_of_itself_reaches_no_terminal_raw(tmp_path, capsys):
    path = TINY_MODELS[0].write(tmp_path / "plain.gguf")
    evil = tmp_path / "evil.gguf"
    with_field(path, evil, "general.name", "\x1b]0;owned\x07$(touch owned)\u202e\n\x9b2J")
    config = show.ShowConfig(model=evil, n_stages=2, n_ctx=64)
    assert show.show(config) == 0
    out = capsys.readouterr().out
    assert "\\x1b]0;owned\\x07$(touch owned)\\u202e" in out
    assert not [each for each in out if not each.isprintable() and each not in "\n\t"]


def test_errors_about_a_gguf_reach_no_terminal_raw(tmp_path, capsys):
    for index, arch in enumerate(("\x1b[31mnonesuch", "\x9b2Jx", "a\x07b")):
        path = tmp_path / f"evil-{index}.gguf"
        writer = gguf.GGUFWriter(path, arch)
        writer.add_block_count(2)
        write(writer)
        assert main.main(["models", "show", str(path)]) == 2
        err = capsys.readouterr().err
        assert not [each for each in err if not each.isprintable() and each != "\n"]


def test_names_that_are_not_utf8_are_no_damage(tmp_path, capsys):
    odd = replace(
        raw_gguf.bpe(general__name=raw_gguf.text(b"Mod\xe8le")),
        more_fields=[(b"general.mod\xe8le", raw_gguf.text(b"\xff"))],
        more_tensors=[(b"mod\xe8le", raw_gguf.tensor(np.ones(32, np.float32)))],
    )
    path = odd.write(tmp_path / "odd.gguf")
    assert main.main(["models", "show", str(path)]) == 0
    assert r"Mod\udce8le" in capsys.readouterr().out
    assert main.main(["shard", str(path), "--stages", "2", "-o", str(tmp_path / "shards")]) == 0
    shards = sorted((tmp_path / "shards").glob("*.gguf"))
    assert len(shards) == 2
    assert all(b"general.mod\xe8le" in each.read_bytes() for each in shards)
    assert any(b"mod\xe8le\1\0\0\0" in each.read_bytes() for each in shards)


def with_field(source, target, key, value):
    """Copies a GGUF with one more text in its metadata."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, "llama")
    writer.add_string(key, value)
    for field in reader.fields.values():
        if not is_writers_own(field) and field.name != key:
            copy_field(field, writer, field.contents())
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    write(writer)
