"""Truncated and mutated GGUFs through everything of ours that reads or writes one.

    python tests/helpers/fuzz.py FIRST_CASE LAST_CASE

Each case is a pure function of its number. Only errors for people may come out of it; this program
prints the number of each case before it, so that whoever runs it knows which one ended the process.
"""

from __future__ import annotations

import contextlib
import io
import random
import resource
import shutil
import signal
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from architectures import TINY_MODELS
from pipeinfer_cli.engine.llama_cpp import capture_log
from pipeinfer_cli.errors import PipeinferError
from pipeinfer_cli.models import shards
from pipeinfer_cli.models.derive import DeriveConfig, derive
from pipeinfer_cli.models.gguf import reader
from pipeinfer_cli.models.gguf.info import read_model_info
from pipeinfer_cli.models.layer_split import split_layers
from pipeinfer_cli.models.make_shards import ShardConfig, shard
from pipeinfer_cli.models.show import ShowConfig, show
from small_models import in_parts

CASE_S = 30
MEMORY_BYTES = 8 << 30
NUMBERS = (0, 1, 2, 7, 31, 32, 255, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63, 2**64 - 1)
DERIVE_EVERY = 10  # a process of its own each time


def make_bases(folder: Path) -> list[list[Path]]:
    """Sound models, each as its files: whole, in parts, a set of shards."""
    tiny = {model.name: replace(model, n_layer=3) for model in TINY_MODELS}
    whole = [tiny[name].write(folder / f"{name}.gguf") for name in ("llama", "deepseek2", "gemma3")]
    cut = ShardConfig(model=whole[0], n_stages=2, layer_split=None, folder=folder / "shards")
    return [*([path] for path in whole), in_parts(whole[0], folder / "parts", 2), shard(cut)]


def mutate(data: bytes, header_end: int, dice: random.Random) -> bytes:
    """One to three changes, most of them in the header."""
    changed = bytearray(data)
    for _ in range(dice.choice((1, 1, 1, 2, 3))):
        end = len(changed) if dice.random() < 0.1 else min(header_end, len(changed))
        at = dice.randrange(max(end, 1))
        kind = dice.choice(
            ("cut", "byte", "byte", "number", "number", "number", "out", "in", "twice")
        )
        if kind == "cut":
            del changed[dice.choice((at, dice.randrange(max(len(changed), 1)))) :]
        elif kind == "byte":
            changed[at : at + 1] = bytes([dice.randrange(256)])
        elif kind == "number":
            size = dice.choice((4, 8))
            changed[at : at + size] = (dice.choice(NUMBERS) % 2 ** (8 * size)).to_bytes(
                size, "little"
            )
        elif kind == "out":
            del changed[at : at + dice.randrange(1, 200)]
        elif kind == "in":
            changed[at:at] = dice.randbytes(dice.randrange(1, 200))
        else:
            changed[at:at] = changed[at : at + dice.randrange(1, 200)]
    return bytes(changed)


def run_case(number: int, bases: list[list[Path]], folder: Path) -> str:
    """What came of one case: "sound" if nothing was found wrong, else what was said."""
    dice = random.Random(number)
    base = dice.choice(bases)
    victim = dice.randrange(len(base))
    paths = []
    for index, source in enumerate(base):
        data = source.read_bytes()
        if index == victim:
            data = mutate(data, reader.read(source).data_start, dice)
        paths.append(folder / source.name)
        paths[-1].write_bytes(data)
    said = [attempt(step) for step in readers(paths)]
    for step in users(paths, folder, number):
        attempt(step)
    return next(filter(None, said), "sound")


def readers(paths):
    """What says whether a model is sound."""
    yield lambda: reader.read_parts(paths[0])
    yield lambda: split_layers(read_model_info(paths[0]), 2, None)
    yield lambda: [shards.read_shard(path) for path in paths]


def users(paths, folder, number):
    """What else takes a model; it may have reasons of its own to refuse one."""
    yield lambda: shards.locate(folder).path_for(1, 1)
    yield lambda: show(ShowConfig(model=paths[0], n_stages=2, n_ctx=100))
    yield lambda: shard(
        ShardConfig(model=paths[0], n_stages=2, layer_split=None, folder=folder / "out")
    )
    if number % DERIVE_EVERY == 0:
        target = folder / "derived.gguf"
        yield lambda: derive(DeriveConfig(model=paths[0], target=target, left_out=(1,)))


def attempt(step) -> str:
    signal.alarm(CASE_S)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            step()
        return ""
    except PipeinferError as error:
        said = str(error)
        assert said and "\n" not in said and len(said) < 2000, said
        return said
    finally:
        signal.alarm(0)


def main(first: int, last: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    capture_log()
    with tempfile.TemporaryDirectory() as work:
        (Path(work) / "bases").mkdir()
        bases = make_bases(Path(work) / "bases")
        for number in range(first, last):
            print(f"case {number}", flush=True)
            folder = Path(work) / "case"
            folder.mkdir()
            print(run_case(number, bases, folder), flush=True)
            shutil.rmtree(folder)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
