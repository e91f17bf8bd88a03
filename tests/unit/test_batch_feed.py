"""Items as they come: whole lines, each at once, in order."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeinfer_cli.commands import json_lines
from pipeinfer_cli.commands.batch.answers import SequentialAnswers, Tasks
from pipeinfer_cli.commands.batch.feed import Feed, ListFeed, StreamFeed
from pipeinfer_cli.commands.batch.items import BadItem
from pipeinfer_cli.commands.batch.progress import Progress

SOON_S = 10.0


def read(index: int, number: int, line: bytes) -> BadItem:
    return BadItem(index=index, id=number, error=line.decode())


def errors(feed: Feed) -> Iterator[tuple[Any, str]]:
    """All that comes, until the end."""
    while not feed.is_through:
        item = feed.take(SOON_S)
        assert isinstance(item, BadItem) or (item is None and feed.is_through)
        if isinstance(item, BadItem):
            yield item.id, item.error


@dataclass
class Pipe:
    reader: int
    writer: int

    def write(self, data: bytes) -> None:
        os.write(self.writer, data)

    def end(self) -> None:
        os.close(self.writer)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    yield (made := Pipe(*os.pipe()))
    os.close(made.reader)


def test_a_line_is_an_item_before_the_next_one_comes(pipe: Pipe) -> None:
    feed = StreamFeed(pipe.reader, read)
    assert feed.take(0.0) is None
    assert (feed.n_items, feed.is_through) == (None, False)
    pipe.write(b"one\nhalf of")
    assert feed.take(SOON_S) == BadItem(index=0, id=1, error="one")
    assert feed.take(0.0) is None
    pipe.write(b" two\n\n \nfour")
    assert feed.take(SOON_S) == BadItem(index=1, id=2, error="half of two")
    pipe.end()
    assert feed.take(SOON_S) == BadItem(index=2, id=5, error="four")
    assert feed.take(SOON_S) is None
    assert (feed.n_items, feed.is_through) == (3, True)
    assert feed.take(0.0) is None


def test_a_stream_that_cannot_be_read_raises(pipe: Pipe) -> None:
    feed = StreamFeed(pipe.writer, read)  # not open for reading
    with pytest.raises(OSError, match="Bad file descriptor"):
        feed.take(SOON_S)
    pipe.end()


def test_whoever_writes_too_much_waits(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeinfer_cli.commands.batch.feed.MAX_WAITING", 2)
    feed = StreamFeed(pipe.reader, read)
    pipe.write(b"x\n" * 1000)
    pipe.end()
    assert [number for number, _ in errors(feed)] == list(range(1, 1001))


@given(st.lists(st.binary(max_size=6)), st.integers(1, 5))
def test_pieces_do_not_matter(lines: list[bytes], size: int) -> None:
    data = b"\n".join(lines)
    pieces = iter([*(data[i : i + size] for i in range(0, len(data), size)), b""])
    numbered = enumerate(data.removeprefix(json_lines.BOM).split(b"\n"), 1)
    expected = [(number, line) for number, line in numbered if line.strip()]
    assert list(json_lines.received(lambda: next(pieces))) == expected == json_lines.split(data)


def test_a_byte_order_mark_in_pieces_is_none_of_the_text() -> None:
    pieces = iter([b"\xef", b"\xbb\xbfa", b"\n\xef\xbb\xbfb", b""])
    assert list(json_lines.received(lambda: next(pieces))) == [(1, b"a"), (2, b"\xef\xbb\xbfb")]


def test_a_list_begins_where_an_earlier_job_ended() -> None:
    items = [read(index, index + 1, b"x") for index in range(3)]
    feed = ListFeed(items, 2)
    assert (feed.n_items, feed.is_through) == (3, False)
    assert (feed.take(0.0), feed.is_through) == (items[2], True)


def test_a_signal_ends_the_wait_for_a_line(pipe: Pipe) -> None:
    asked: list[bool] = []

    def stop_requested() -> bool:
        asked.append(True)
        return len(asked) > 2

    answers = SequentialAnswers(
        cast("Tasks", None), cast("Any", None), cast("Any", None), stop_requested
    )
    feed: Feed = StreamFeed(pipe.reader, read)
    assert list(answers(feed, 1)) == []
    assert not feed.is_through
    pipe.end()


def test_progress_does_not_know_the_end_of_a_stream() -> None:
    progress = Progress(n_items=None, n_before=0, n_failed=0, start_s=0.0)
    progress.add(8, is_failed=False)
    assert progress.line(2.0) == "1 items, 4.0 tokens/s, 0.50 items/s"
    progress.n_items = 3
    assert progress.line(2.0) == "1 of 3 items, 4.0 tokens/s, 0.50 items/s, 0:00:04 left"
