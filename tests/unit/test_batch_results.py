"""The order of results, and the file that has whole lines only."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeinfer_cli.commands.batch import results
from pipeinfer_cli.commands.batch.items import BadItem
from pipeinfer_cli.commands.batch.lines import OwnForm
from pipeinfer_cli.commands.batch.origin import Origins
from pipeinfer_cli.commands.batch.progress import Progress
from pipeinfer_cli.commands.batch.results import FileSink, check_new, to_line
from pipeinfer_cli.commands.batch.turns import in_order
from pipeinfer_cli.commands.generate_config import GenerateConfig, Prompt
from pipeinfer_cli.errors import RunError, UserError

IDS = [1, "b", 2.5, "ü\n", "5"]
ITEMS = [BadItem(index=index, id=each, error="x") for index, each in enumerate(IDS)]
CONFIG = GenerateConfig(model="m", prompt=Prompt())
FORM = OwnForm(CONFIG, Origins(CONFIG, "model 1"))
# as an older version wrote them: without a record of the request
LINES = [to_line({"id": each, "text": f"text of {each}", "tokens": [1]}) for each in IDS]


@dataclass(frozen=True)
class Numbered:
    index: int


@given(st.permutations(range(12)), st.integers(0, 12), st.integers(0, 5))
def test_results_come_in_order_as_soon_as_they_can(
    order: list[int], n_come: int, first: int
) -> None:
    come = order[:n_come]
    given_out: list[int] = []
    taken: list[int] = []

    def arriving() -> Iterator[Numbered]:
        for index in come:
            taken.append(index)
            yield Numbered(first + index)

    for result in in_order(arriving(), first):
        given_out.append(result.index - first)
        assert set(range(len(given_out))) <= set(taken)
        assert max(taken.index(i) for i in range(len(given_out))) <= len(taken) - 1
    whole = next((i for i in range(13) if i not in come), 13)
    assert given_out == list(range(whole))


def written(path: Path, lines: list[bytes]) -> None:
    sink = FileSink.create(path)
    for line in lines:
        sink.write(line)
    sink.close()


def test_lines_are_on_the_disk_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[bytes] = []
    path = tmp_path / "out.jsonl"
    sync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (sync(fd), synced.append(path.read_bytes())))
    writes: list[int] = []
    write = os.write
    monkeypatch.setattr(
        os, "write", lambda fd, data: (writes.append(len(data)), write(fd, data))[1]
    )
    written(path, LINES)
    assert synced[1:] == [b"".join(LINES[:n]) for n in range(1, len(LINES) + 1)]  # 0: the folder
    assert writes == [len(line) for line in LINES]


def test_a_file_cut_anywhere_goes_on_to_the_same_end(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    whole = b"".join(LINES)
    for size in range(len(whole) + 1):
        path.write_bytes(whole[:size])
        sink, resume_point = FileSink.resume(path, ITEMS, FORM)
        n_whole = whole[:size].count(b"\n")
        assert (resume_point.n_items, resume_point.n_failed) == (n_whole, 0)
        assert path.read_bytes() == b"".join(LINES[:n_whole])
        for line in LINES[n_whole:]:
            sink.write(line)
        sink.close()
        assert path.read_bytes() == whole


def test_zeros_after_a_crash_are_cut(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_bytes(LINES[0] + LINES[1][:9] + bytes(4096))
    sink, resume_point = FileSink.resume(path, ITEMS, FORM)
    sink.close()
    assert resume_point.n_items == 1
    assert path.read_bytes() == LINES[0]


def test_errors_are_results(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    written(path, [to_line({"id": 1, "error": "bad"}), LINES[1]])
    sink, resume_point = FileSink.resume(path, ITEMS, FORM)
    sink.close()
    assert (resume_point.n_items, resume_point.n_failed, resume_point.n_unknown) == (2, 1, 2)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (LINES[1], "line 1 belongs to the item 'b', not 1"),
        (LINES[0] + LINES[2], "line 2 belongs to the item 2.5, not 'b'"),
        (to_line({"id": "1", "text": ""}), "item '1', not 1"),
        (to_line({"id": 1.0, "text": ""}), "item 1.0, not 1"),
        (to_line({"id": True, "text": ""}), "item True, not 1"),
        (b"".join(LINES) + LINES[0], "more lines than the 5 items"),
        (b"".join(LINES) + b"x", "more lines than the 5 items"),
        (b"Dear diary\n", "line 1 is not a result"),
        (b"\n", "line 1 is not a result"),
        (b"[1]\n", "line 1 is not a result"),
        (b'{"id": 1, "prompt": "an item"}\n', "line 1 is not a result"),
        (b"Dear diary", "line 1 is truncated, and does not belong to the item 1"),
        (LINES[0] + LINES[2][:-1], "line 2 is truncated"),
    ],
)
def test_a_foreign_file_is_refused_and_stays_as_it_was(
    tmp_path: Path, content: bytes, said: str
) -> None:
    path = tmp_path / "out.jsonl"
    path.write_bytes(content)
    with pytest.raises(UserError) as refused:
        FileSink.resume(path, ITEMS, FORM)
    assert said in str(refused.value)
    assert path.read_bytes() == content


def test_what_exists_is_not_written_over(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.touch()
    for use in (FileSink.create, check_new):
        with pytest.raises(UserError, match="it exists: give --resume"):
            use(path)


def test_links_are_not_followed_in_a_shared_folder(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "shared" / "link"
    link.parent.mkdir()
    link.symlink_to(target)
    with pytest.raises(UserError, match="exists"):
        FileSink.create(link)
    assert not target.exists()
    target.touch()
    FileSink.resume(link, ITEMS, FORM)[0].close()
    link.parent.chmod(0o1777)
    with pytest.raises(UserError, match="it is a link: name the file itself"):
        FileSink.resume(link, ITEMS, FORM)


@pytest.mark.parametrize(
    ("name", "said"), [("no/out.jsonl", "no such folder"), ("file/out.jsonl", "no such folder")]
)
def test_a_file_that_cannot_be_made(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=said):
        check_new(tmp_path / name)
    with pytest.raises(UserError, match="--output"):
        FileSink.create(tmp_path / name)


def test_not_a_regular_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(UserError, match="not a regular file"):
        FileSink.resume(tmp_path / "fifo", ITEMS, FORM)
    with pytest.raises(UserError, match="directory"):
        FileSink.resume(tmp_path, ITEMS, FORM)


def test_the_umask_counts(tmp_path: Path) -> None:
    mask = os.umask(0o027)
    try:
        FileSink.create(tmp_path / "out.jsonl").close()
    finally:
        os.umask(mask)
    assert (tmp_path / "out.jsonl").stat().st_mode & 0o777 == 0o640


def test_a_file_has_one_writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out.jsonl"
    written(path, LINES[:1])
    monkeypatch.setattr(results, "LOCK_WAIT_S", 0.0)
    with path.open() as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another job is writing to it"):
            FileSink.resume(path, ITEMS, FORM)
    sink, _ = FileSink.resume(path, ITEMS, FORM)
    with pytest.raises(UserError, match="another job is writing to it"):
        FileSink.resume(path, ITEMS, FORM)
    sink.close()


@contextmanager
def file_size_limit(n_bytes: int) -> Iterator[None]:
    """A disk that is full after that number of bytes of a file; write() takes what fits."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("room", [0, 1, len(LINES[1]) - 1])
def test_a_full_disk_leaves_whole_lines(tmp_path: Path, room: int) -> None:
    path = tmp_path / "out.jsonl"
    sink = FileSink.create(path)
    sink.write(LINES[0])
    with (
        file_size_limit(len(LINES[0]) + room),
        pytest.raises(RunError, match="only complete lines; --resume continues"),
    ):
        sink.write(LINES[1])
    sink.close()
    assert path.read_bytes() == LINES[0]
    sink, _ = FileSink.resume(path, ITEMS, FORM)
    sink.write(LINES[1])
    sink.close()
    assert path.read_bytes() == b"".join(LINES[:2])


def test_a_disk_that_fails_to_sync_leaves_whole_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "out.jsonl"
    sink = FileSink.create(path)
    sink.write(LINES[0])

    def fail(_fd: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(RunError, match="No space left on device"):
        sink.write(LINES[1])
    sink.close()
    assert path.read_bytes() == LINES[0]


def test_progress_counts_the_time_of_this_job_only() -> None:
    progress = Progress(n_items=100, n_before=50, n_failed=1, start_s=10.0)
    assert progress.line(10.0) == "50 of 100 items, 1 failed, 0.0 tokens/s, 0.00 items/s"
    for _ in range(10):
        progress.add(8, is_failed=False)
    assert progress.line(15.0) == (
        "60 of 100 items, 1 failed, 16.0 tokens/s, 2.00 items/s, 0:00:20 left"
    )
    progress.add(0, is_failed=True)
    assert progress.n_failed == 2
    assert progress.summary(15.5) == "11 items: 80 tokens in 5.5 s, 14.5 tokens/s, 2.00 items/s"
