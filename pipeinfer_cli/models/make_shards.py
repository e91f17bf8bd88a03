"""`pipeinfer shard`: one GGUF per stage, with that stage's tensors only.

The source is read once, from its beginning to its end; a buffer of CHUNK_BYTES is all that is held
of it. Where it has holes, the shards have them, too. The shards are written side by side into a
hidden folder in the target folder, and get their names when all are whole and on the disk.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from pipeinfer_cli import console
from pipeinfer_cli.errors import PipeinferError, RunError, UserError
from pipeinfer_cli.files import sync_folder
from pipeinfer_cli.models.gguf import reader, writer
from pipeinfer_cli.models.gguf.info import SHARD_PREFIX, ModelInfo, read_model_info
from pipeinfer_cli.models.gguf.reader import BOOL, STRING, UINT32, UINT64, GgufFile, Tensor
from pipeinfer_cli.models.layer_split import LayerRange, split_layers
from pipeinfer_cli.models.shards import SHA256_CHARS

CHUNK_BYTES = 4 << 20
ZEROS = memoryview(bytes(CHUNK_BYTES))
WORK_PREFIX = ".shard-"
FIRST_ONLY = ("token_embd", "position_embd", "token_types")


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardConfig:
    """What `pipeinfer shard` was asked to do."""

    model: Path
    n_stages: int
    layer_split: tuple[float, ...] | None  # a weight per stage; None: even by bytes
    folder: Path

    def __post_init__(self) -> None:
        if self.n_stages < 1:
            raise UserError(f"--stages {self.n_stages}: give a number of 1 or more")
        if self.layer_split is not None and 0 in self.layer_split:
            raise UserError("--layer-split: a stage without layers needs no shard")


def shard(config: ShardConfig) -> list[Path]:
    """Writes the shards and returns their paths, in the order of the stages.

    UserError if it cannot be done, RunError if the disk fails or fills. The target folder has all
    shards then, whole, or none.
    """
    info = read_model_info(config.model)
    parts = reader.read_parts(config.model)
    if any(f"{SHARD_PREFIX}stage" in part.fields for part in parts):
        raise UserError(f"{str(config.model)!r} is a shard already: give the whole model")
    layers = split_layers(info, config.n_stages, config.layer_split)
    stem = reader.PART.sub("", config.model.name).removesuffix(".gguf")
    names = [f"{stem}-stage-{i}-of-{len(layers)}.gguf" for i in range(len(layers))]
    plans = [
        _StagePlan.make(parts, info, layers, stage, source=config.model.name)
        for stage in range(len(layers))
    ]
    with _disk_errors(config.folder), _locked(config.folder):
        _check_room(config.folder, names, sum(_disk_bytes(parts, plan) for plan in plans))
        with tempfile.TemporaryDirectory(prefix=WORK_PREFIX, dir=config.folder) as work:
            made = [Path(work) / name for name in names]
            _write(parts, plans, made, title=f"{stem}: {len(layers)} shards")
            targets = [config.folder / name for name in names]
            for path, target in zip(made, targets, strict=True):
                path.rename(target)
        sync_folder(config.folder)
    return targets


@dataclass(frozen=True, slots=True, kw_only=True)
class _StagePlan:
    """One shard before it is written."""

    header: bytes  # with zeros where the source's SHA-256 belongs, padded
    sha256_at: int  # its place in the header
    tensors: tuple[frozenset[str], ...]  # names per part of the source
    alignment: int
    n_bytes: int  # of the shard

    @classmethod
    def make(
        cls,
        parts: Sequence[GgufFile],
        info: ModelInfo,
        layers: Sequence[LayerRange],
        stage: int,
        *,
        source: str,
    ) -> _StagePlan:
        kept = [
            [t for t in part.tensors if stage in stages_of(t.name, layers, info)] for part in parts
        ]
        alignment = parts[0].alignment
        placed, end = [], 0
        for tensor in (tensor for part in kept for tensor in part):
            placed.append(replace(tensor, offset=end))
            end += reader.padded(tensor.n_bytes, alignment)
        fields = _copied_fields(parts[0])
        own, sha256_in_own = _own_fields(info, layers, stage, source)
        n_fields = len(fields) + len(own)
        counts = len(placed).to_bytes(8, "little") + n_fields.to_bytes(8, "little")
        head = reader.MAGIC + (3).to_bytes(4, "little") + counts + b"".join(fields)
        sha256_at = len(head) + sha256_in_own
        head += b"".join(own) + b"".join(map(writer.tensor, placed))
        header = head.ljust(reader.padded(len(head), alignment), b"\0")
        return cls(
            header=header,
            sha256_at=sha256_at,
            tensors=tuple(frozenset(t.name for t in part) for part in kept),
            alignment=alignment,
            n_bytes=len(header) + end,
        )


def stages_of(name: str, layers: Sequence[LayerRange], info: ModelInfo) -> frozenset[int]:
    """The stages that need a tensor."""
    last = len(layers) - 1
    if (layer := reader.layer_of(name)) is not None:
        return frozenset(i for i, each in enumerate(layers) if each.first <= layer < each.last)
    if name.startswith("output"):
        return frozenset({last})
    if name.startswith(FIRST_ONLY):
        is_output = info.tied_output and name == "token_embd.weight"
        return frozenset({0, last} if is_output else {0})
    return frozenset(range(len(layers)))  # factors of the rotation, and what we do not know


def _copied_fields(part: GgufFile) -> list[bytes]:
    """The source's metadata as they are, without those about its files."""
    with part.path.open("rb") as file:
        copied = []
        for field in part.fields.values():
            if not field.name.startswith("split."):
                file.seek(field.start)
                copied.append(file.read(field.end - field.start))
    return copied


def _own_fields(
    info: ModelInfo, layers: Sequence[LayerRange], stage: int, source: str
) -> tuple[list[bytes], int]:
    """What says which part of what it is, and where in it the SHA-256 belongs."""
    sha256 = writer.field(f"{SHARD_PREFIX}source_sha256", STRING, "0" * SHA256_CHARS)
    boundaries = [0, *(each.last for each in layers)]
    return [
        sha256,
        writer.field(f"{SHARD_PREFIX}source", STRING, source),
        writer.field(f"{SHARD_PREFIX}stage", UINT32, stage),
        writer.array(f"{SHARD_PREFIX}boundaries", UINT32, boundaries),
        writer.array(f"{SHARD_PREFIX}layer_bytes", UINT64, info.layer_bytes),
        writer.field(f"{SHARD_PREFIX}bytes_input", UINT64, info.bytes_input),
        writer.field(f"{SHARD_PREFIX}bytes_output", UINT64, info.bytes_output),
        writer.field(f"{SHARD_PREFIX}tied_output", BOOL, info.tied_output),
        writer.array(f"{SHARD_PREFIX}weight_types", UINT32, info.weight_types),
    ], len(sha256) - SHA256_CHARS


def _write(
    parts: Sequence[GgufFile], plans: Sequence[_StagePlan], paths: Sequence[Path], *, title: str
) -> None:
    digest = hashlib.sha256()
    total = sum(part.n_bytes for part in parts)
    with ExitStack() as stack:
        files = [stack.enter_context(path.open("xb")) for path in paths]
        report = stack.enter_context(console.progress(title, total))
        for file, plan in zip(files, plans, strict=True):
            file.write(plan.header)
        done_bytes = 0
        for index, part in enumerate(parts):
            with part.path.open("rb") as source:
                for tensor, chunk, is_hole in _chunks(source, part):
                    digest.update(chunk)
                    for file, plan in zip(files, plans, strict=True):
                        if tensor is not None and tensor.name in plan.tensors[index]:
                            _put(file, chunk, is_hole=is_hole)
                            _pad(file, plan.alignment, tensor, source.tell() - part.data_start)
                    done_bytes += len(chunk)
                    report(done_bytes)
        for file, plan in zip(files, plans, strict=True):
            file.truncate(plan.n_bytes)  # it may end in a hole
            file.seek(plan.sha256_at)
            file.write(digest.hexdigest().encode())
            file.flush()
            os.fsync(file.fileno())


def _put(file: BinaryIO, chunk: bytes | memoryview, *, is_hole: bool) -> None:
    if is_hole:
        file.seek(len(chunk), os.SEEK_CUR)
    else:
        file.write(chunk)


def _pad(file: BinaryIO, alignment: int, tensor: Tensor, at: int) -> None:
    """After a tensor's last chunk, zeros up to the next tensor's place."""
    if at == tensor.offset + tensor.n_bytes:
        file.write(b"\0" * (reader.padded(tensor.n_bytes, alignment) - tensor.n_bytes))


def _chunks(
    source: BinaryIO, part: GgufFile
) -> Iterator[tuple[Tensor | None, bytes | memoryview, bool]]:
    """All bytes of a file in order.

    Each chunk has the tensor that it is of, if of any, and whether the file has a hole there.
    """
    for tensor in part.tensors:
        start = part.data_start + tensor.offset
        yield from ((None, *chunk) for chunk in _read_to(source, start, part.path))
        for chunk in _read_to(source, start + tensor.n_bytes, part.path):
            yield (tensor, *chunk)
    yield from ((None, *chunk) for chunk in _read_to(source, part.n_bytes, part.path))


def _read_to(source: BinaryIO, end: int, path: Path) -> Iterator[tuple[bytes | memoryview, bool]]:
    """Chunks up to `end`, and whether they are holes; a chunk is one or the other."""
    for stop, is_hole in extents(source.fileno(), source.tell(), end):
        while (left := stop - source.tell()) > 0:
            n_bytes = min(left, CHUNK_BYTES)
            if is_hole:
                source.seek(n_bytes, os.SEEK_CUR)
                yield ZEROS[:n_bytes], True
            elif chunk := source.read(n_bytes):
                yield chunk, False
            else:
                raise RunError(f"{str(path)!r} was truncated while it was read")


def extents(fd: int, start: int, end: int) -> Iterator[tuple[int, bool]]:
    """Where each part of `[start, end)` of a file ends, in order, and whether it is a hole.

    The file's own position may be another one afterwards. A file system that knows no holes has
    none.
    """
    while start < end:
        position = os.lseek(fd, 0, os.SEEK_CUR)
        stop, is_hole = _extent(fd, start, end)
        os.lseek(fd, position, os.SEEK_SET)
        yield stop, is_hole
        start = stop


def _extent(fd: int, start: int, end: int) -> tuple[int, bool]:
    try:
        data = os.lseek(fd, start, os.SEEK_DATA)
    except OSError as error:  # nothing but a hole up to the file's end, or no support for holes
        return end, error.errno == errno.ENXIO and os.fstat(fd).st_size >= end
    if data > start:
        return min(data, end), True
    return min(os.lseek(fd, start, os.SEEK_HOLE), end), False


def _disk_bytes(parts: Sequence[GgufFile], plan: _StagePlan) -> int:
    """What a shard takes on the disk, without its holes."""
    n_bytes = len(plan.header)
    for part, kept in zip(parts, plan.tensors, strict=True):
        with part.path.open("rb") as file:
            for tensor in part.tensors:
                if tensor.name in kept:
                    start = part.data_start + tensor.offset
                    n_bytes += _data_bytes(file.fileno(), start, start + tensor.n_bytes)
    return n_bytes


def _data_bytes(fd: int, start: int, end: int) -> int:
    n_bytes = 0
    for stop, is_hole in extents(fd, start, end):
        n_bytes += 0 if is_hole else stop - start
        start = stop
    return n_bytes


def _check_room(folder: Path, names: Sequence[str], n_bytes: int) -> None:
    """Removes what an interrupted run has left. UserError if the folder cannot take the shards."""
    for left in folder.glob(f"{WORK_PREFIX}*"):
        shutil.rmtree(left, ignore_errors=True)
    there = [path.name for path in folder.glob("*.gguf") if path.name not in names]
    if there:
        raise UserError(
            f"{str(folder)!r} has other GGUF files, {min(there)!r} for one: "
            "give -o a folder for these shards alone"
        )
    free = shutil.disk_usage(folder).free
    if n_bytes > free:
        raise UserError(
            f"the shards need {console.size(n_bytes)}, {str(folder)!r} has {console.size(free)} "
            "free: give -o a folder with more room"
        )


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """The folder, which exists then, is ours alone."""
    folder.mkdir(parents=True, exist_ok=True)
    fd = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise UserError(
            f"another pipeinfer shard writes into {str(folder)!r}: wait for it"
        ) from None
    finally:
        os.close(fd)


@contextmanager
def _disk_errors(folder: Path) -> Iterator[None]:
    """Errors of the file system as lines for people."""
    try:
        yield
    except PipeinferError:
        raise
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        todo = "free some space or give another" if full else "give another"
        raise RunError(
            f"cannot write the shards into {str(folder)!r}: {error.strerror}: nothing was kept; "
            f"{todo} folder with -o"
        ) from None
