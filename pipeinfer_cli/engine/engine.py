"""libpipeinfer for Python: the engine, and what it knows of models, tokens and samples."""

from __future__ import annotations

import ctypes
import os
import time
from collections import deque
from collections.abc import Sequence
from ctypes import c_int, c_int32, c_uint32, c_uint64
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING, Any

from pipeinfer_cli.engine import abi
from pipeinfer_cli.engine.abi import (
    ERR_INVALID,
    ERR_MODEL,
    ERROR_BYTES,
    OK,
    STOPPED,
    TIMEOUT,
    decoded,
)
from pipeinfer_cli.engine.config import Adapter, EngineConfig, MpiCalls, RankEmulation
from pipeinfer_cli.engine.cpu.devices import DeviceBytes
from pipeinfer_cli.engine.native_run import native_run
from pipeinfer_cli.engine.sampling import native_sample
from pipeinfer_cli.errors import RunError, UserError, exit_code_of
from pipeinfer_cli.scheduler.runs import Result, Run, RunStatus, StageTime

if TYPE_CHECKING:
    from types import TracebackType

    import numpy as np
    import numpy.typing as npt


WAITING_S = 0.5  # a head that waits for results asks for them more often than this


def _native_emulation(emulation: RankEmulation | None) -> Any:
    """A pointer; null for None."""
    if emulation is None:
        return None
    return ctypes.pointer(
        abi.Emulation(
            (c_uint32 * len(emulation.stage_us))(*emulation.stage_us),
            len(emulation.stage_us),
            emulation.latency_us,
            emulation.bytes_per_us,
            emulation.hidden_bytes,
        )
    )


def _native_mpi(mpi: MpiCalls | None) -> Any:
    """A pointer; null for None."""
    if mpi is None:
        return None
    library, *values = astuple(mpi)
    return ctypes.pointer(abi.Mpi(os.fsencode(library), *values))


def _native_adapters(adapters: Sequence[Adapter]) -> Any:
    natives = [abi.Adapter(os.fsencode(each.path), each.scale) for each in adapters]
    return (abi.Adapter * len(natives))(*natives)


@dataclass(frozen=True, slots=True, kw_only=True)
class Activity:
    """What this rank is at."""

    is_due: bool = False  # the head: it waits for a result, and has nothing else to do
    run_id: int = 0  # the run that is being computed; 0: none
    computing_us: int = 0  # for how long
    done_id: int = 0  # the last run that was handed on
    awaited_id: int = 0  # the head: the oldest run without a result
    moved: int = 0  # another number than before: there was progress


class Engine:
    """This process's part of the pipeline. Loads the layers; raises RunError if that fails.

    UserError if it is the file that cannot be used.

    Use it as a context manager, or call `close` (twice is fine).
    """

    watched = False  # by a watchdog, which ends waits that are in vain

    def __init__(self, config: EngineConfig) -> None:
        changed: dict[str, Any] = {
            "model_path": os.fsencode(config.model_path),
            "sample": native_sample(config.sample),
            "states": abi.States(*astuple(config.states)),
            "emulation": _native_emulation(config.emulation),
            "mpi": _native_mpi(config.mpi),
            "cpus": (c_int32 * len(config.cpus))(*config.cpus),
            "n_cpus": len(config.cpus),
            "nodes": (c_int32 * len(config.nodes))(*config.nodes),
            "n_nodes": len(config.nodes),
            **dict(zip(("type_k", "type_v"), config.cache_types.ids, strict=True)),
            "adapters": _native_adapters(config.adapters),
            "n_adapters": len(config.adapters),
            "rope": config.rope.native(),
            "devices": abi.devices(config.devices.names, config.devices.n_layers),
        }
        names = [name for name, *_ in abi.EngineParams._fields_ if name not in changed]
        params = abi.EngineParams(**changed, **{name: getattr(config, name) for name in names})
        status, err = c_int(), ctypes.create_string_buffer(ERROR_BYTES)
        self._lib = abi.load()
        self._awaited: deque[int] = deque()  # run ids
        self._n_results = 0
        self._waited_s = 0.0  # when the head last waited for a result
        self._handle = self._lib.pi_engine_open(params, status, err, ERROR_BYTES)
        if not self._handle:
            kind = UserError if status.value == ERR_MODEL else RunError
            raise kind(f"cannot load {str(config.model_path)!r}: {decoded(err.value)}")
        self.config = config

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close(exit_code_of(error))

    def submit(self, run: Run) -> None:
        """Sends a run on its way. ValueError if it breaks a rule; RunError if a stage failed."""
        self._check(self._lib.pi_submit(self._handle, native_run(run)))
        self._awaited.append(run.run_id)

    def wait(self, timeout_s: float) -> Result | None:
        """The next result, in the order of submission; None when the time is over, or nudged."""
        native = abi.Result()
        self._waited_s = time.monotonic()
        if self._check(self._lib.pi_wait(self._handle, int(timeout_s * 1000), native)) == TIMEOUT:
            return None
        self._awaited.popleft()
        self._n_results += 1
        times = native.times[: native.n_times]
        return Result(
            run_id=native.run_id,
            status=RunStatus(native.status),
            rows=tuple(native.rows[: native.n_rows]),
            times=tuple(
                StageTime(
                    t.stage,
                    RunStatus(t.status),
                    t.start_us,
                    t.wait_us,
                    t.compute_us,
                    t.in_bytes,
                    t.late_us,
                )
                for t in times
            ),
            in_bytes=native.in_bytes,
        )

    def nudge(self) -> bool:
        """Has `wait` return, now or the next time it is called. For any thread.

        False if the engine has failed: its other calls raise RunError.
        """
        return bool(self._lib.pi_nudge(self._handle) == OK)

    def give_up(self, message: str) -> None:
        """Has this rank's calls raise RunError with the message from now on. For any thread."""
        self._lib.pi_give_up(self._handle, message.encode())

    def activity(self) -> Activity:
        """What this rank is at. For any thread."""
        numbers = (c_uint64 * 4)()
        self._lib.pi_activity(self._handle, numbers)
        run_id, computing_us, done_id, n_nodes = numbers
        awaited = next(iter(self._awaited.copy()), 0)
        return Activity(
            is_due=awaited > 0 and time.monotonic() - self._waited_s < WAITING_S,
            run_id=run_id,
            computing_us=computing_us,
            done_id=done_id,
            awaited_id=awaited,
            moved=n_nodes + done_id + self._n_results,
        )

    def cancel(self, run_first: int, run_last: int) -> None:
        """Gives up the runs `[run_first, run_last]`, wherever they are."""
        self._check(self._lib.pi_cancel(self._handle, run_first, run_last))

    def serve(self, timeout_s: float) -> int | None:
        """On a rank that is not the head: the job's exit code once it has ended, else None."""
        code = c_int32()
        status = self._check(
            self._lib.pi_serve(self._handle, int(timeout_s * 1000), ctypes.byref(code))
        )
        return code.value if status == STOPPED else None

    def report_failure(self, message: str) -> None:
        """Tells the head that this rank cannot continue."""
        self._check(self._lib.pi_report_failure(self._handle, message.encode()))

    def kv_positions(self) -> int:
        """Positions held in this rank's KV cache, summed over sequences; -1 without layers."""
        return int(self._lib.pi_kv_positions(self._handle))

    def device_bytes(self) -> DeviceBytes:
        """What this rank has in memory of devices. Only while no run is in flight."""
        native = abi.DeviceBytes()
        self._lib.pi_engine_device_bytes(self._handle, native)
        return DeviceBytes(weights=native.weights, cache=native.cache, compute=native.compute)

    def last_logits(self, n_vocab: int) -> npt.NDArray[np.float32] | None:
        """A copy of the last row's logits, float32 `[n_vocab]`; None unless the last stage is here.

        Only while no run is in flight.
        """
        import numpy as np  # takes longer to import than all of ours

        logits = self._lib.pi_last_logits(self._handle)
        return np.ctypeslib.as_array(logits, (n_vocab,)).copy() if logits else None

    def close(self, exit_code: int = 0) -> None:
        """Ends the job with this code (the head tells all ranks) and frees everything."""
        handle, self._handle = self._handle, None
        self._lib.pi_engine_close(handle, exit_code)

    def _check(self, status: int) -> int:
        if status >= OK:
            return status
        message = decoded(self._lib.pi_last_error(self._handle))
        if status == ERR_INVALID:
            raise ValueError(message)
        raise RunError(message)
