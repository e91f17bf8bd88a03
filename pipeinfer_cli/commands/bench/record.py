"""What a group has measured, as a file of JSON lines: it outlives the ranks, however they end."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from pipeinfer_cli.scheduler.metrics import Counters

PLAIN = -1  # in place of a variant: plain decoding, which only says what the text is
WARMUP = -1  # in place of a repetition: not measured


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineInfo:
    """The loaded pipeline."""

    n_ranks: int
    n_stages: int
    n_batch: int  # most tokens in a run
    n_threads: int  # of the head's stage, or of the first one
    exact: bool  # texts are those of plain decoding; see engine.cpu.exactness
    model_filename: str
    model_type: str
    model_size: int  # bytes of tensors
    model_n_params: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One request."""

    repetition: int  # from 0, or WARMUP
    variant: int  # index into the group's variants, or PLAIN
    prompt: int  # index into the group's prompts
    n_prompt: int  # tokens
    tokens: tuple[int, ...]  # generated
    start_s: float
    times_s: tuple[float, ...]  # when each token was decided, by the clock of start_s
    counters: Counters
    n_late: int = 0  # emulated: computations and drafted tokens that the profile has faster


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What there is so far."""

    pipeline: PipelineInfo | None = None  # None: the pipeline has not been loaded
    samples: tuple[Sample, ...] = ()


class RecordWriter:
    """Adds to the file; every line is there at once."""

    def __init__(self, path: str) -> None:
        self._file = Path(path).open("w", encoding="utf-8")  # noqa: SIM115 (closed by __exit__)

    def __enter__(self) -> RecordWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()

    def write(self, item: PipelineInfo | Sample) -> None:
        """One more line."""
        self._file.write(json.dumps(dataclasses.asdict(item)) + "\n")
        self._file.flush()


def read(path: str) -> Record:
    """What has been written; a line that was not finished does not count."""
    if not Path(path).exists():
        return Record()
    pipeline, samples = None, []
    for fields in _objects(Path(path).read_text(encoding="utf-8").splitlines(keepends=True)):
        if "counters" in fields:
            samples.append(_sample(fields))
        else:
            pipeline = PipelineInfo(**fields)
    return Record(pipeline=pipeline, samples=tuple(samples))


def count_samples(path: str) -> int:
    """How many requests have ended; cheap."""
    try:
        return max(0, Path(path).read_bytes().count(b"\n") - 1)
    except OSError:
        return 0


def _objects(lines: Iterable[str]) -> Iterable[dict[str, Any]]:
    return (json.loads(line) for line in lines if line.endswith("\n"))


def _sample(fields: dict[str, Any]) -> Sample:
    counters: dict[str, Any] = {
        name: {int(key): count for key, count in value.items()}
        if isinstance(value, dict)
        else value
        for name, value in fields.pop("counters").items()
    }
    return Sample(
        tokens=tuple(fields.pop("tokens")),
        times_s=tuple(fields.pop("times_s")),
        counters=Counters(**counters),
        **fields,
    )
