"""Jobs that tests harm: their ranks, their orphans, and what they leave behind."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeinfer_cli.launch import local_rank

START_S = 60.0
END_S = 10.0  # from the fault to the end of everything


class Job:
    """A command that starts local ranks, found by its TMPDIR, which all its processes inherit."""

    def __init__(
        self,
        command: Sequence[str],
        tmp: Path,
        *,
        env: Mapping[str, str] | None = None,
        stdout: int | None = None,
    ) -> None:
        self.tmp = tmp
        self.first_text = b""
        self.segments: set[str] = set()
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if stdout is None else stdout,
            stderr=subprocess.PIPE,
            env={**os.environ, "TMPDIR": str(tmp), **(env or {})},
        )

    def __enter__(self) -> Job:
        return self

    def __exit__(self, *_: object) -> None:
        """Whatever a failed test has left of it."""
        for pid in (self.process.pid, *orphans(self.tmp)):
            if self.process.poll() is None or pid != self.process.pid:
                _kill(pid)
        for pipe in (self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()
        self.process.wait(END_S)

    def rank_pid(self, rank: int) -> int:
        """Of a rank that `spawn` started."""
        return int(self.await_file(f"*/rank-{rank}.pid"))

    def await_file(self, pattern: str) -> str:
        """The text of a file below the job's TMPDIR, when it is there and has one."""
        give_up_s = time.monotonic() + START_S
        while time.monotonic() < give_up_s and self.process.poll() is None:
            for file in self.tmp.glob(pattern):
                if text := file.read_text():
                    return text
            time.sleep(0.01)
        raise AssertionError(f"no {pattern}: {self.process.poll()} {self._stderr()}")

    def await_text(self) -> None:
        """Until the first byte of the text."""
        assert self.process.stdout is not None
        self.first_text = self.process.stdout.read(1)
        assert self.first_text, self._stderr()

    def note_shared_memory(self) -> None:
        """What MPI has mapped by now: it is to be gone at the end."""
        for pid in orphans(self.tmp):
            try:
                lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
            except OSError:
                continue
            found = (
                line.split(maxsplit=5)[-1] for line in lines if local_rank.MPI_SEGMENT.search(line)
            )
            self.segments |= {path for path in found if not path.endswith(" (deleted)")}

    def end(self, within_s: float = END_S) -> tuple[int, bytes, list[str]]:
        """Exit code, stdout and stderr lines; no process and no shared memory is left in time."""
        give_up_s = time.monotonic() + within_s
        try:
            out, err = self.process.communicate(timeout=within_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {within_s} s") from None
        while orphans(self.tmp) and time.monotonic() < give_up_s:
            time.sleep(0.05)
        assert not orphans(self.tmp)
        assert not [path for path in self.segments if Path(path).exists()]
        return self.process.returncode, self.first_text + (out or b""), err.decode().splitlines()

    def _stderr(self) -> str:
        assert self.process.stderr is not None
        return "" if self.process.poll() is None else self.process.stderr.read().decode()


def orphans(tmp: Path) -> list[int]:
    """Processes of the job that are still alive: they have its folder in their environment."""
    marker = f"TMPDIR={tmp}".encode()
    found = []
    for proc in Path("/proc").glob("[0-9]*"):
        try:
            if marker in (proc / "environ").read_bytes().split(b"\0"):
                found.append(int(proc.name))
        except OSError:
            continue
    return found


def _kill(pid: int) -> None:
    try:
        os.kill(pid, 9)
    except OSError:
        pass
