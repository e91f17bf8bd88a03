"""Which file a rank loads: a whole GGUF, or its own shard of one (see `make_shards.py`).

`-m` names a file, a folder of shards, a path with {rank} or {stage}, which every rank fills in
for itself, or a list with a path for each rank: folders and files of that name may lie on the
nodes' own disks. Any shard tells how the whole model was split, so that the head needs to see its
own file only.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeinfer_cli.errors import UserError
from pipeinfer_cli.files import expanded, is_folder, is_there, open_file
from pipeinfer_cli.models.gguf import reader
from pipeinfer_cli.models.gguf.info import SHARD_PREFIX
from pipeinfer_cli.models.layer_split import LayerRange

HEADER_BYTES = 1 << 20  # of a model file: what kind of model it is stands at its beginning
DIGEST_CHARS = 16
N_SAMPLES, SAMPLE_BYTES = 128, 1 << 14  # of a model file, for its digest

SHA256_CHARS = 64
PLACES = ("{rank}", "{stage}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """A model cut into stages. Two shards belong together if their splits are equal."""

    source: str  # the file's name, for people
    sha256: str  # of the source: of all its files, one after the other
    boundaries: tuple[int, ...]  # of layers: stage i has [boundaries[i], boundaries[i + 1])

    @property
    def n_stages(self) -> int:
        """How many shards there are."""
        return len(self.boundaries) - 1

    def layers(self, stage: int) -> LayerRange:
        """The layers of a stage."""
        return LayerRange(self.boundaries[stage], self.boundaries[stage + 1])

    def __str__(self) -> str:
        shown = ", ".join(str(self.layers(stage)) for stage in range(self.n_stages))
        return f"{self.source!r} (SHA-256 {self.sha256[:12]}...) in layers {shown}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """One file of a split."""

    path: Path
    split: Split
    stage: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFiles:
    """Where the ranks of a job find what they load. Made by `locate` on the head."""

    name: Path  # as the user gave it
    head_path: Path  # the head's file, which has the vocabulary
    split: Split | None  # None: a whole model
    by_rank: tuple[Path, ...] = ()  # a path for each rank, if they were listed
    digest: str = ""  # of the head's file, if whole models were listed

    def layers(
        self, n_ranks: int, weights: Sequence[float] | None
    ) -> tuple[LayerRange, ...] | None:
        """A range per rank, as the shards say; None for a whole model.

        UserError if the number of ranks does not fit, or if a split was asked for.
        """
        if self.by_rank and len(self.by_rank) != n_ranks:
            raise UserError(
                f"-m lists {len(self.by_rank)} paths for {n_ranks} ranks: give one per rank, or one"
            )
        if self.split is None:
            return None
        n_stages = self.split.n_stages
        if n_ranks not in (n_stages, n_stages + 1):
            raise UserError(
                f"{str(self.name)!r} is split into {n_stages} shards, which is a job of "
                f"{n_stages} ranks, or {n_stages + 1} if the head holds none; this has {n_ranks}"
            )
        stages = tuple(self.split.layers(stage) for stage in range(n_stages))
        ranges = stages if n_ranks == n_stages else (LayerRange(0, 0), *stages)
        if weights is not None and tuple(weights) != tuple(float(len(each)) for each in ranges):
            raise UserError(
                f"--layer-split: the shards of {str(self.name)!r} are split already: leave it out"
            )
        return ranges

    def path_for(self, rank: int, stage: int | None) -> Path:
        """This rank's file, looked up on this rank's host; `stage` is None without layers.

        UserError if it is missing, or not the one that the head's shard belongs with.
        """
        if self.split is None:
            return self._whole(rank) if self.by_rank else self.name
        if stage is None:
            return self.head_path
        shard = _find(self.by_rank[rank] if self.by_rank else self.name, rank, stage)
        if shard.split != self.split:
            raise UserError(
                f"{str(shard.path)!r} is a shard of {shard.split}; the head's is of {self.split}"
            )
        if shard.stage != stage:
            raise UserError(
                f"{str(shard.path)!r} is the shard of stage {shard.stage}; "
                f"rank {rank} needs that of stage {stage}"
            )
        return shard.path

    def _whole(self, rank: int) -> Path:
        path = self.by_rank[rank]
        if _digest(path) != self.digest:
            raise UserError(f"{str(path)!r} is not the model that the head has, {self.head_path}")
        return path


def listed(name: str | Path) -> tuple[Path, ...]:
    """`a.gguf,/b/b.gguf` as a path for each rank; none for a single path, which may have commas."""
    parts = str(name).split(",")
    are_paths = all("/" in part or part.endswith(".gguf") for part in parts)
    if len(parts) < 2 or not are_paths or is_there(_filled(Path(name), 0, 0)):
        return ()
    return tuple(expanded(part.strip()).absolute() for part in parts)


def is_set(name: str | Path) -> bool:
    """Whether the name is not a file's: a folder, a path to fill in, or a list."""
    is_template = any(place in str(name) for place in PLACES)
    return is_template or is_folder(name) or bool(listed(name))


def locate(name: Path) -> ModelFiles:
    """What the head finds under the name of the model. UserError if it cannot be used."""
    if by_rank := listed(name):
        return _locate_listed(name, by_rank)
    if not is_set(name):
        shard = read_shard(name)
        if shard is not None and shard.split.n_stages > 1:
            raise UserError(
                f"{str(name)!r} is the shard of stage {shard.stage} of {shard.split.n_stages}: "
                "give -m the folder of all shards, or a path with {stage}"
            )
        return ModelFiles(name=name, head_path=name, split=None)
    first = _first(name)
    return ModelFiles(name=name, head_path=first.path, split=first.split)


def _locate_listed(name: Path, by_rank: tuple[Path, ...]) -> ModelFiles:
    head_path = by_rank[0]
    shard = _first(head_path) if is_folder(head_path) else read_shard(head_path)
    if shard is not None and shard.split.n_stages > 1:
        return ModelFiles(name=name, head_path=shard.path, split=shard.split, by_rank=by_rank)
    digest = _digest(head_path)
    return ModelFiles(name=name, head_path=head_path, split=None, by_rank=by_rank, digest=digest)


def n_stages(name: str) -> int | None:
    """How many stages the name is made for, by its shards or its list; None for a whole model."""
    if by_rank := listed(name):
        return len(by_rank)
    if not is_set(name):
        return None
    return _first(Path(name)).split.n_stages


def read_shard(path: Path) -> Shard | None:
    """What a GGUF says that it is a shard of; None for a whole model. UserError if damaged."""
    header = reader.read(path)
    if f"{SHARD_PREFIX}stage" not in header.fields:
        return None
    stage = header.count(f"{SHARD_PREFIX}stage")
    sha256 = header.text(f"{SHARD_PREFIX}source_sha256") or ""
    cuts = header.numbers(f"{SHARD_PREFIX}boundaries") or ()
    boundaries = tuple(int(cut) for cut in cuts)
    rises = all(first < last for first, last in zip(boundaries, boundaries[1:], strict=False))
    if (
        stage is None
        or not rises
        or not 0 <= stage < len(boundaries) - 1
        or boundaries[0] != 0
        or len(sha256) != SHA256_CHARS
    ):
        raise reader.damaged(path, "its record of the split is invalid")
    source = header.text(f"{SHARD_PREFIX}source") or "?"
    split = Split(source=source, sha256=sha256, boundaries=boundaries)
    return Shard(path=path, split=split, stage=stage)


def read_folder(folder: Path) -> dict[int, Shard]:
    """The shards in a folder by stage. UserError if they are not all of one split, or doubled."""
    found: dict[int, Shard] = {}
    for path in sorted(folder.glob("*.gguf")):
        shard = read_shard(path)
        if shard is None:
            continue
        other = next(iter(found.values()), shard)
        if shard.split != other.split:
            raise UserError(
                f"{str(folder)!r} has shards of different splits: {other.path.name!r} is of "
                f"{other.split}, {path.name!r} of {shard.split}: keep one split in a folder"
            )
        if shard.stage in found:
            raise UserError(
                f"{str(folder)!r} has two shards of stage {shard.stage}: "
                f"{found[shard.stage].path.name!r} and {path.name!r}: remove one"
            )
        found[shard.stage] = shard
    return found


def _first(name: Path) -> Shard:
    """The shard that the head reads: of the first stage, or in a folder any existing one."""
    path = _filled(name, 0, 0)
    if not is_folder(path):
        return _required(path)
    found = _required_folder(path)
    return found[min(found)]


def _find(name: Path, rank: int, stage: int) -> Shard:
    path = _filled(name, rank, stage)
    if not is_folder(path):
        return _required(path)
    found = _required_folder(path)
    if stage not in found:
        there = ", ".join(map(str, sorted(found)))
        raise UserError(
            f"the shard of stage {stage} is missing in {str(path)!r}, which has: {there}"
        )
    return found[stage]


def _filled(name: Path, rank: int, stage: int) -> Path:
    return Path(str(name).replace("{rank}", str(rank)).replace("{stage}", str(stage)))


def _digest(path: Path) -> str:
    try:
        return file_digest(path)
    except OSError as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: OSError) -> UserError:
    return UserError(f"cannot read the model {str(path)!r}: {error.strerror}: check -m/--model")


def _required(path: Path) -> Shard:
    shard = read_shard(path)
    if shard is None:
        raise UserError(f"{str(path)!r} is not a shard: make shards with pipeinfer shard")
    return shard


def _required_folder(folder: Path) -> dict[int, Shard]:
    found = read_folder(folder)
    if not found:
        raise UserError(
            f"the model {str(folder)!r} is a folder without shards: give a GGUF file in it, or "
            "make shards with pipeinfer shard"
        )
    return found


def file_digest(path: Path) -> str:
    """Tells model files apart whose texts may differ, whatever their names and times are.

    By size, beginning and samples of each file of the model, without reading all of the tensors.
    OSError if one cannot be read; UserError as `reader.read_parts`.
    """
    paths = [path]
    if reader.PART.search(path.name):
        paths = [part.path for part in reader.read_parts(path)]
    sizes, pieces = [], []
    for each in paths:
        with open_file(each) as file:
            sizes.append(file.seek(0, os.SEEK_END))
            file.seek(0)
            pieces.append(file.read(HEADER_BYTES))
            for index in range(N_SAMPLES):
                file.seek(sizes[-1] * index // N_SAMPLES)
                pieces.append(file.read(SAMPLE_BYTES))
    return digest_of(",".join(map(str, sizes)), b"".join(pieces))


def model_digest(files: ModelFiles) -> str:
    """The same of any model: shards have the SHA-256 of what they were made from.

    UserError if a file cannot be read.
    """
    if files.split is not None:
        return digest_of(files.split.sha256)
    return files.digest or _digest(files.head_path)


def digest_of(text: str, data: bytes = b"") -> str:
    """The first characters of the SHA-256 of both."""
    return hashlib.sha256(text.encode() + b"\0" + data).hexdigest()[:DIGEST_CHARS]
