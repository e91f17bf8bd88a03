"""`pipeinfer models derive`: another model of the same vocabulary, for experiments.

A draft from a target (fewer bits, fewer layers), or a costlier target (F32). llama.cpp's quantizer
does the work; the new file has a note of its descent in its metadata (pipeinfer.derived.*).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeinfer_cli import console
from pipeinfer_cli.checks import check_count
from pipeinfer_cli.engine.config import MAX_THREADS
from pipeinfer_cli.engine.formats import quantize
from pipeinfer_cli.engine.llama_cpp import capture_log
from pipeinfer_cli.errors import RunError, UserError
from pipeinfer_cli.files import sync_folder
from pipeinfer_cli.models.gguf import reader
from pipeinfer_cli.models.gguf.info import SHARD_PREFIX, layer_counts
from pipeinfer_cli.models.gguf.reader import ARRAY, GgufFile, UnusableGgufError

COPY = -1
FILE_TYPES = {  # enum llama_ftype; quantizing to fewer bits needs measurements that we do not have
    "F32": 0,
    "F16": 1,
    "BF16": 32,
    "Q8_0": 7,
    "Q6_K": 18,
    "Q5_K_M": 17,
    "Q5_K_S": 16,
    "Q5_0": 8,
    "Q5_1": 9,
    "Q4_K_M": 15,
    "Q4_K_S": 14,
    "Q4_0": 2,
    "Q4_1": 3,
    "Q3_K_L": 13,
    "Q3_K_M": 12,
    "Q3_K_S": 11,
    "Q2_K": 10,
}
NOTE_BYTES = 127
NOT_OF_LAYERS = ("general.", "tokenizer.")  # arrays of any length
# llama.cpp ends the process where a damaged file surprises it: the process is one of its own. It
# imports the package from where we have it, and nothing from the current folder.
PROGRAM = (
    "import sys; sys.path[:] = [p for p in sys.path if p]; sys.path.append(sys.argv[1]); "
    "from pipeinfer_cli.models.derive import run_request; sys.exit(run_request(sys.stdin.read()))"
)
CHUNK_BYTES = 4 << 20
LITTLE_BYTES = 1 << 20  # a disk with less than this is full


@dataclass(frozen=True, slots=True, kw_only=True)
class DeriveConfig:
    """What `pipeinfer models derive` was asked to do."""

    model: Path
    target: Path
    file_type: str | None = None  # a key of FILE_TYPES; None: as it is
    left_out: tuple[int, ...] = ()  # layers, rising: llama.cpp wants them so
    n_threads: int = 1

    def __post_init__(self) -> None:
        if self.file_type is not None and self.file_type not in FILE_TYPES:
            raise UserError(f"--type {self.file_type!r}: give one of {', '.join(FILE_TYPES)}")
        if self.file_type is None and not self.left_out:
            raise UserError("nothing to change: give --type, --without, or both")
        check_count("-t/--threads", self.n_threads, MAX_THREADS)
        assert self.left_out == tuple(sorted(set(self.left_out)))

    @property
    def how(self) -> str:
        """What was done, for the note."""
        layers = f"without layers {show_layers(self.left_out)}" if self.left_out else ""
        parts = [f"type {self.file_type}" if self.file_type else "", layers]
        return "; ".join(part for part in parts if part)


def derive(config: DeriveConfig) -> Path:
    """Writes the new model and returns its path. It is written completely or not at all.

    Raises UserError if it cannot be done, RunError if it fails.
    """
    capture_log()
    parts = reader.read_parts(config.model)
    n_layer, _ = _layer_counts(parts[0])
    check_source(parts, config.left_out, n_layer)
    if os.path.lexists(config.target):
        raise UserError(f"{str(config.target)!r} exists: remove it, or give another file with -o")
    folder = config.target.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".derive-", dir=folder) as work:
            made = Path(work) / config.target.name
            _quantize(config, parts, made)
            _check(made, n_layer - len(config.left_out))
            made.rename(config.target)
        sync_folder(folder)
    except OSError as error:
        raise RunError(f"cannot write {str(config.target)!r}: {error.strerror}") from None
    return config.target


def _layer_counts(header: GgufFile) -> tuple[int, int]:
    """As `layer_counts`. UserError with the file's name."""
    try:
        return layer_counts(header, _arch(header))
    except UnusableGgufError as error:
        raise reader.damaged(header.path, error.why) from None


def _arch(header: GgufFile) -> str:
    return header.text("general.architecture") or ""


def check_source(parts: Sequence[GgufFile], left_out: Sequence[int], n_layer: int) -> None:
    """UserError unless a model without these layers makes sense."""
    first = parts[0]
    if f"{SHARD_PREFIX}stage" in first.fields:
        raise UserError(f"{str(first.path)!r} is a shard: give the whole model")
    if not left_out:
        return
    arch = _arch(first)
    wrong = [layer for layer in left_out if not 0 <= layer < n_layer]
    if wrong:
        raise UserError(f"--without {wrong[0]}: the model has the layers 0 to {n_layer - 1}")
    if len(left_out) >= n_layer:
        raise UserError(f"--without leaves nothing of the model's {n_layer} layers")
    n_blocks = sum(_layer_counts(first))
    n_dense = first.count(f"{arch}.leading_dense_block_count") or 0
    if min(left_out) < n_dense:
        raise UserError(
            f"--without {min(left_out)}: the first {n_dense} layers of this model are of another "
            "kind: leave out later ones"
        )
    for name, field in first.fields.items():
        per_layer = field.kind == ARRAY and field.count == n_blocks
        if name == f"{arch}.attention.sliding_window" or (
            per_layer and not name.startswith(NOT_OF_LAYERS)
        ):
            raise UserError(
                f"--without: the layers of this model are not all of one kind ({name}): "
                "all are needed"
            )


def parse_layers(text: str) -> tuple[int, ...]:
    """`9,14,20-22` as layers, sorted. Raises UserError."""
    layers: set[int] = set()
    for part in filter(None, text.split(",")):
        first, dash, last = part.partition("-")
        try:
            start, end = int(first), int(last if dash else first)
        except ValueError:
            raise UserError(f"--without {text!r}: give layers like 9,14,20-22") from None
        if start > end or end - start > 10_000:
            raise UserError(f"--without {text!r}: {part!r} is not a range of layers")
        layers.update(range(start, end + 1))
    return tuple(sorted(layers))


def show_layers(layers: Sequence[int]) -> str:
    """The inverse of `parse_layers`."""
    ranges: list[list[int]] = []
    for layer in sorted(layers):
        if ranges and ranges[-1][-1] == layer - 1:
            ranges[-1][1:] = [layer]
        else:
            ranges.append([layer])
    return ",".join("-".join(map(str, each)) for each in ranges)


def _quantize(config: DeriveConfig, parts: Sequence[GgufFile], made: Path) -> None:
    sha256 = _sha256(parts)
    n_layer, n_layer_nextn = _layer_counts(parts[0])
    # what predicts further tokens from the last layer is of no use after other layers
    unused = tuple(range(n_layer, n_layer + n_layer_nextn)) if config.left_out else ()
    print(f"{config.target.name}: writing ({config.how})", file=sys.stderr)
    request = {
        "source": str(config.model),
        "target": str(made),
        "file_type": COPY if config.file_type is None else FILE_TYPES[config.file_type],
        "n_threads": config.n_threads,
        "left_out": config.left_out + unused,
        "zero_key": f"{_arch(parts[0])}.nextn_predict_layers" if unused else None,
        "notes": (_short(config.model.name), sha256, _short(config.how)),
    }
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(Path(__file__).parents[2])],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or [f"it ended with code {done.returncode}"])[-1]
        raise RunError(f"cannot derive a model from {str(config.model)!r}: {last}")


def run_request(text: str) -> int:
    """What the process of its own does; the exit code."""
    request = json.loads(text)
    capture_log()
    try:
        quantize(Path(request.pop("source")), Path(request.pop("target")), **request)
    except RunError as error:
        print(error, file=sys.stderr)
        return RunError.exit_code
    return 0


def _sha256(parts: Sequence[GgufFile]) -> str:
    digest, done_bytes = hashlib.sha256(), 0
    total = sum(part.n_bytes for part in parts)
    with console.progress(f"{parts[0].path.name}: reading", total) as report:
        for part in parts:
            with part.path.open("rb") as file:
                while chunk := file.read(CHUNK_BYTES):
                    digest.update(chunk)
                    done_bytes += len(chunk)
                    report(done_bytes)
    return digest.hexdigest()


def _short(text: str) -> str:
    data = text.encode(errors="replace")  # a file's name may hold any bytes
    if len(data) <= NOTE_BYTES:
        return data.decode()
    return data[: NOTE_BYTES - 3].decode(errors="ignore") + "..."


def _check(made: Path, n_layer: int) -> None:
    """RunError unless the file is whole and on the disk: llama.cpp may not notice a full one."""
    with made.open("rb") as file:
        os.fsync(file.fileno())
    try:
        found, _ = _layer_counts(reader.read(made))
    except UserError as error:
        full = shutil.disk_usage(made.parent).free < LITTLE_BYTES
        why = "the disk is full" if full else str(error)
        raise RunError(f"the new model came out damaged: {why}: nothing was kept") from None
    if found != n_layer:
        raise RunError(f"the new model has {found} layers instead of {n_layer}: nothing was kept")
