"""A sign of life: what one rank tells another about itself, every second or so."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

LAYOUT = struct.Struct("<B?QQQQQ64s")
HEARTBEAT_BYTES = LAYOUT.size


class Phase(IntEnum):
    """Where in its job a rank is."""

    STARTING = 0  # placing the layers; the head reads the model's header and loads the draft model
    LOADING = 1
    RUNNING = 2  # the layers are loaded
    ENDING = 3  # its part is done
    GONE = 4  # this is the last that is heard of it


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat:
    """One sign of life."""

    phase: Phase = Phase.STARTING
    is_due: bool = False  # the head: it waits for a result, and has nothing else to do
    run_id: int = 0  # the run that is being computed; 0: none
    computing_us: int = 0  # for how long
    done_id: int = 0  # the last run that was handed on
    awaited_id: int = 0  # the head: the oldest run without a result
    moved: int = 0  # a different number than before: it has made progress
    host: str = ""

    def encode(self) -> bytes:
        """As HEARTBEAT_BYTES bytes."""
        return LAYOUT.pack(
            self.phase,
            self.is_due,
            self.run_id,
            self.computing_us,
            self.done_id,
            self.awaited_id,
            self.moved,
            self.host.encode()[:64],
        )

    @classmethod
    def decode(cls, data: bytes) -> Heartbeat:
        """Inverse of `encode`."""
        phase, is_due, run_id, computing_us, done_id, awaited_id, moved, host = LAYOUT.unpack(data)
        return cls(
            phase=Phase(phase),
            is_due=is_due,
            run_id=run_id,
            computing_us=computing_us,
            done_id=done_id,
            awaited_id=awaited_id,
            moved=moved,
            host=host.rstrip(b"\0").decode(errors="replace"),
        )
