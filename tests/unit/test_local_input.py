"""The parent's stdin on its way to rank 0: what is not there yet, and what cannot be read."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeinfer_cli.launch import local_input, local_rank

WAIT_S = 20
Stdin = Callable[[int], None]


@pytest.fixture
def set_stdin() -> Iterator[Stdin]:
    before = os.dup(0)
    yield lambda fd: os.dup2(fd, 0) and None
    os.dup2(before, 0)
    os.close(before)


def copied(place: Path) -> list[bytes]:
    """What rank 0 reads, once it has come up after the end of stdin."""
    guard = local_rank.make_fifo(place / local_rank.STDIN_FIFO)
    copying = threading.Thread(target=local_input._copy, args=(place, guard), daemon=True)
    copying.start()
    pieces: list[bytes] = []

    def read() -> None:
        with (place / local_rank.STDIN_FIFO).open("rb") as fifo:
            (place / "rank-0.pid").write_text("1")
            pieces.append(fifo.read())

    reading = threading.Thread(target=read, daemon=True)
    reading.start()
    for thread in (reading, copying):
        thread.join(WAIT_S)
        assert not thread.is_alive()
    return pieces


def test_a_stdin_that_does_not_block_is_waited_for(
    tmp_path: Path, set_stdin: Stdin, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    set_stdin(reader)
    os.close(reader)
    read_now, n_waits = os.read, 0

    def read(fd: int, size: int) -> bytes:
        nonlocal n_waits
        try:
            return read_now(fd, size)
        except BlockingIOError:  # only now there is something
            n_waits += 1
            if n_waits == 3:
                os.close(writer)
            else:
                os.write(writer, b"%d" % n_waits)
            raise

    monkeypatch.setattr(local_input.os, "read", read)
    assert copied(tmp_path) == [b"12"]


def test_a_stdin_that_cannot_be_read_is_at_its_end(
    tmp_path: Path, set_stdin: Stdin, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = os.open(tmp_path, os.O_RDONLY)
    set_stdin(folder)
    os.close(folder)
    assert copied(tmp_path) == [b""]
    assert capfd.readouterr().err == (
        "pipeinfer: warning: stdin cannot be read: Is a directory: it ends here\n"
    )
