"""The header of a GGUF: metadata and the places of tensors. Every number is checked.

Metadata is kept as bytes ranges of the file, so that it can be copied as it is; the tensors' data
are never read here. The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import math
import re
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from reprlib import Repr
from typing import BinaryIO, TypeAlias, TypeVar

from pipeinfer_cli import files
from pipeinfer_cli.engine.formats import tensor_type
from pipeinfer_cli.errors import UserError

Scalar: TypeAlias = "int | float | bool | str"

MAGIC = b"GGUF"
VERSIONS = (2, 3)
DEFAULT_ALIGNMENT = 32
MAX_ALIGNMENT = 1 << 20
MAX_DIMS = 4
MAX_NAME_BYTES = 1 << 16
MAX_TENSOR_NAME_BYTES = 63
MIN_FIELD_BYTES = 8 + 4 + 1
MIN_TENSOR_BYTES = 8 + 4 + 4 + 8

UINT32, FLOAT32, BOOL, STRING, ARRAY, UINT64 = 4, 6, 7, 8, 9, 10
FORMATS = {  # value type to struct format
    0: "<B",
    1: "<b",
    2: "<H",
    3: "<h",
    UINT32: "<I",
    5: "<i",
    FLOAT32: "<f",
    BOOL: "<?",
    UINT64: "<Q",
    11: "<q",
    12: "<d",
}
LENGTH = struct.Struct("<Q")  # of a text
BLOCK_BYTES = 1 << 20
MAX_QUOTED = 120  # characters of a name in a message
MAX_HEADERS = 128  # kept in a process
SETTLED_NS = 2_000_000_000  # a file changed within this time may change again within its clock tick
LAYER = re.compile(r"blk\.(\d+)\.", re.ASCII)
PART = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One entry of the metadata, at the bytes `[start, end)` of its file."""

    name: str
    kind: int  # value type
    value: Scalar | None  # None for an array
    element: int  # an array's value type
    count: int  # an array's elements
    values_at: int  # where an array's elements begin
    start: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """One tensor's place."""

    name: str
    shape: tuple[int, ...]  # as in the file: the contiguous dimension first
    type_id: int
    offset: int  # from the beginning of the data
    n_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufFile:
    """One file's header."""

    path: Path
    n_bytes: int  # of the file
    version: int
    alignment: int
    fields: dict[str, Field]
    tensors: tuple[Tensor, ...]  # in the order of their offsets, without gaps but for alignment
    data_start: int

    def scalar(self, name: str) -> Scalar | None:
        """The value of an entry; None if there is none, or if it is an array."""
        field = self.fields.get(name)
        return None if field is None else field.value

    def text(self, name: str) -> str | None:
        """The value of a text entry; None if there is none."""
        value = self.scalar(name)
        return value if isinstance(value, str) else None

    def count(self, name: str) -> int | None:
        """The value of a whole-number entry; None if there is none."""
        value = self.scalar(name)
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    def numbers(self, name: str) -> tuple[int | float, ...] | None:
        """The elements of an array of numbers; None if there is no such array."""
        field = self.fields.get(name)
        if field is None or field.kind != ARRAY or field.element not in FORMATS:
            return None
        form = f"<{field.count}{FORMATS[field.element][1:]}"
        with _opened(self.path) as file:
            file.seek(field.values_at)
            data = file.read(struct.calcsize(form))
        if len(data) != struct.calcsize(form):
            raise damaged(self.path, "it was truncated while it was read")
        return struct.unpack(form, data)


class UnusableGgufError(UserError):
    """A file that cannot be used as a GGUF."""

    def __init__(self, why: str, message: str = "") -> None:
        super().__init__(message or why)
        self.why = why  # the reason alone, for a message that names the file itself


Entry = TypeVar("Entry", Field, Tensor)


def read(path: Path) -> GgufFile:
    """The header, read once in a process as long as the file stays the same.

    UserError if the file cannot be read, is damaged or ends too early.
    """
    try:
        status = path.stat()
    except (OSError, ValueError):
        return _read(path)  # says why
    if abs(time.time_ns() - status.st_mtime_ns) < SETTLED_NS:
        return _read(path)
    return _read_once(path, (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns))


@lru_cache(maxsize=MAX_HEADERS)
def _read_once(path: Path, _identity: tuple[int, ...]) -> GgufFile:
    """By what tells the file from what stood there before."""
    return _read(path)


def _read(path: Path) -> GgufFile:
    with _opened(path) as file:
        n_bytes = file.seek(0, 2)
        file.seek(0)
        return _Parser(path, file, n_bytes).parse()


def read_parts(path: Path) -> tuple[GgufFile, ...]:
    """All files of a model, of which `path` is the first or only one. UserError as `read`."""
    first = read(path)
    n_parts = first.count("split.count") or 1
    if n_parts <= 1:
        return (first,)
    stem = _stem_of_first(first, n_parts)
    others = [
        _read_part(path.with_name(f"{stem}-{index + 1:05}-of-{n_parts:05}.gguf"), index, n_parts)
        for index in range(1, n_parts)
    ]
    return (first, *others)


@contextmanager
def named_part(path: Path, index: int, n_parts: int) -> Iterator[None]:
    """Has the reason why a file cannot be used begin with which part it is; not the first one's."""
    try:
        yield
    except UnusableGgufError as error:
        if index == 0:
            raise
        why = f"part {index + 1} of {n_parts} ({path}): {error.why}"
        raise UnusableGgufError(why, str(error)) from None


def _stem_of_first(first: GgufFile, n_parts: int) -> str:
    """What the names of all parts begin with. UnusableGgufError if this is not the first."""
    part = (first.count("split.no") or 0) + 1
    name = PART.search(first.path.name)
    if part == 1 and name and name[1] == "00001" and int(name[2]) == n_parts:
        return first.path.name[: name.start()]
    raise UnusableGgufError(
        f"the model comes in {n_parts} files, and the name of the first must end in "
        f"-00001-of-{n_parts:05}.gguf"
        if part == 1
        else f"it is part {part} of a model in {n_parts} files: give the first one",
        f"{str(first.path)!r} is part {part} of {n_parts}: "
        f"give the first, whose name ends in -00001-of-{n_parts:05}.gguf",
    )


def _read_part(path: Path, index: int, n_parts: int) -> GgufFile:
    with named_part(path, index, n_parts):
        part = read(path)
        if part.count("split.no") != index or part.count("split.count") != n_parts:
            said = damaged(path, f"it is not part {index + 1} of {n_parts}")
            raise UnusableGgufError("it says that it is another part", str(said))
        return part


def damaged(path: Path, why: str) -> UnusableGgufError:
    """What is said of a file that cannot be used."""
    return UnusableGgufError(
        f"the GGUF is damaged or incomplete: {why}",
        f"the GGUF {str(path)!r} is damaged or incomplete: {why}: get it again",
    )


def layer_of(name: str) -> int | None:
    """The layer that a tensor of this name is of; None: of none."""
    match = LAYER.match(name)
    return int(match[1]) if match else None


def quoted(name: str) -> str:
    """A name as messages have it: a damaged one may have thousands of bytes."""
    shortened = Repr()
    shortened.maxstring = MAX_QUOTED
    return shortened.repr(name)


def padded(n_bytes: int, alignment: int) -> int:
    """The next multiple of the alignment."""
    return -(-n_bytes // alignment) * alignment


def _opened(path: Path) -> BinaryIO:
    try:
        return files.open_file(path)
    except OSError as error:
        why = error.strerror or str(error)
        raise UnusableGgufError(why, f"cannot read the model {str(path)!r}: {why}") from None


class _Parser:
    """Goes through a header once, from its beginning to its end."""

    def __init__(self, path: Path, file: BinaryIO, n_bytes: int) -> None:
        self._path, self._file, self._n_bytes = path, file, n_bytes
        self._at = 0

    def parse(self) -> GgufFile:
        if self._n_bytes < len(MAGIC) or self._take(len(MAGIC)) != MAGIC:
            raise UnusableGgufError(
                'not a GGUF file (it does not begin with "GGUF")',
                f"{str(self._path)!r} is not a GGUF file: check the path",
            )
        version = self._number("<I")
        if version not in VERSIONS:
            known = f"{' and '.join(map(str, VERSIONS))} in little-endian order can be used"
            raise UnusableGgufError(
                f"the GGUF is of version {version}; versions {known}",
                f"the GGUF {str(self._path)!r} is of version {version}; versions {known}: "
                "convert it",
            )
        n_tensors, n_fields = self._number("<Q"), self._number("<Q")
        self._check_count("tensors", n_tensors, MIN_TENSOR_BYTES)
        self._check_count("metadata entries", n_fields, MIN_FIELD_BYTES)
        fields = self._named(self._field, n_fields)
        alignment = self._alignment(fields)
        tensors = self._named(self._tensor, n_tensors)
        data_start = padded(self._at, alignment)
        placed = tuple(tensors.values())
        self._check_places(placed, data_start, alignment)
        return GgufFile(
            path=self._path,
            n_bytes=self._n_bytes,
            version=version,
            alignment=alignment,
            fields=fields,
            tensors=placed,
            data_start=data_start,
        )

    def _named(self, parse: Callable[[], Entry], count: int) -> dict[str, Entry]:
        found: dict[str, Entry] = {}
        for _ in range(count):
            each = parse()
            if each.name in found:
                raise self._damaged(f"it has {quoted(each.name)} twice")
            found[each.name] = each
        return found

    def _field(self) -> Field:
        start = self._at
        name = self._text(MAX_NAME_BYTES)
        if not name:
            raise self._damaged("a metadata entry has no name")
        kind = self._number("<I")
        value: Scalar | None = None
        element = count = values_at = 0
        if kind == ARRAY:
            element, count = self._number("<I"), self._number("<Q")
            values_at = self._at
            self._skip_array(name, element, count)
        else:
            value = self._scalar(name, kind)
        return Field(
            name=name,
            kind=kind,
            value=value,
            element=element,
            count=count,
            values_at=values_at,
            start=start,
            end=self._at,
        )

    def _scalar(self, name: str, kind: int) -> Scalar:
        if kind == STRING:
            return self._text()
        if kind == BOOL:
            return self._take(1) != b"\0"
        if kind not in FORMATS:
            raise self._damaged(f"{quoted(name)} has the unknown type {kind}")
        value: int | float = struct.unpack(
            FORMATS[kind], self._take(struct.calcsize(FORMATS[kind]))
        )[0]
        return value

    def _skip_array(self, name: str, element: int, count: int) -> None:
        if element == STRING:
            self._check_count(f"elements of {quoted(name)}", count, 8)
            self._skip_texts(count)
        elif element in FORMATS:
            self._skip(count * struct.calcsize(FORMATS[element]))
        else:
            raise self._damaged(f"{quoted(name)} has elements of the unknown type {element}")

    def _skip_texts(self, count: int) -> None:
        """In blocks, since a vocabulary has some hundred thousand."""
        length_at = LENGTH.unpack_from
        while count > 0:
            block = self._file.read(BLOCK_BYTES)
            self._file.seek(self._at)
            passed, last = 0, len(block) - LENGTH.size
            while count > 0 and passed <= last:
                passed += LENGTH.size + length_at(block, passed)[0]
                count -= 1
            self._skip(passed or LENGTH.size)  # fewer bytes than a length: beyond the end

    def _alignment(self, fields: dict[str, Field]) -> int:
        field = fields.get("general.alignment")
        if field is None:
            return DEFAULT_ALIGNMENT
        value = field.value
        if field.kind != UINT32 or not isinstance(value, int) or not 0 < value <= MAX_ALIGNMENT:
            raise self._damaged("its general.alignment is invalid")
        if value & (value - 1):
            raise self._damaged(f"its general.alignment {value} is not a power of two")
        return value

    def _tensor(self) -> Tensor:
        name = self._text(MAX_TENSOR_NAME_BYTES)
        n_dims = self._number("<I")
        if n_dims > MAX_DIMS:
            raise self._damaged(f"the tensor {quoted(name)} has {n_dims} dimensions")
        shape = tuple(self._number("<Q") for _ in range(n_dims))
        type_id, offset = self._number("<I"), self._number("<Q")
        block = tensor_type(type_id)
        if block is None:
            raise self._damaged(f"the tensor {quoted(name)} has the unknown type {type_id}")
        n_elements, n_bytes = block
        if shape and shape[0] % n_elements != 0:
            raise self._damaged(
                f"rows of the tensor {quoted(name)} are not whole blocks of their type"
            )
        return Tensor(
            name=name,
            shape=shape,
            type_id=type_id,
            offset=offset,
            n_bytes=math.prod(shape) // n_elements * n_bytes,
        )

    def _check_places(self, tensors: tuple[Tensor, ...], data_start: int, alignment: int) -> None:
        end = 0
        for tensor in tensors:
            if tensor.offset != padded(end, alignment):
                raise self._damaged(f"the tensor {quoted(tensor.name)} is at a wrong place")
            end = tensor.offset + tensor.n_bytes
            if data_start + end > self._n_bytes:
                ends = f"ends at byte {data_start + end}, the file at {self._n_bytes}"
                raise UnusableGgufError(
                    f"the file is truncated: tensor {tensor.name} {ends}",
                    str(self._damaged(f"the tensor {quoted(tensor.name)} {ends}")),
                )

    def _check_count(self, what: str, count: int, min_bytes: int) -> None:
        if count * min_bytes > self._n_bytes - self._at:
            raise self._damaged(f"{count} {what} are more than it has room for")

    def _text(self, max_bytes: int | None = None) -> str:
        n_bytes = self._number("<Q")
        if max_bytes is not None and n_bytes > max_bytes:
            raise self._damaged(f"a name of {n_bytes} bytes")
        return self._take(n_bytes).decode(
            errors="surrogateescape"
        )  # nobody checks that it is UTF-8

    def _number(self, form: str) -> int:
        value: int = struct.unpack(form, self._take(struct.calcsize(form)))[0]
        return value

    def _take(self, n_bytes: int) -> bytes:
        self._advance(n_bytes)
        data = self._file.read(n_bytes)
        if len(data) != n_bytes:
            raise self._damaged("it was truncated while it was read")
        return data

    def _skip(self, n_bytes: int) -> None:
        self._advance(n_bytes)
        self._file.seek(self._at)

    def _advance(self, n_bytes: int) -> None:
        if n_bytes > self._n_bytes - self._at:
            raise self._damaged(f"its header extends beyond its end at byte {self._n_bytes}")
        self._at += n_bytes

    def _damaged(self, why: str) -> UnusableGgufError:
        return damaged(self._path, why)
