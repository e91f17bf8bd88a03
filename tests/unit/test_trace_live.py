"""The panel of --live: what it says, and that text above it stays as it is."""

import fcntl
import io
import os
import struct
import sys
import termios

import pytest

from pipeinfer_cli import console
from pipeinfer_cli.console import Panel, Row, Terminal
from pipeinfer_cli.scheduler.runs import Run, RunToken
from pipeinfer_cli.trace.live import LiveView, stage_costs, stage_runs
from pipeinfer_cli.trace.recorder import Recorder
from terminal import N_COLUMNS, N_LINES, Screen, wrapped
from virtual_cluster import VirtualCluster, generate

STAGE_US, TOKEN_US, HOP_US = 8000, 500, 100


def after(n_tokens, n_stages=3, strategy="pipeinfer", wrong=()):
    cluster = VirtualCluster(n_stages, stage_us=STAGE_US, token_us=TOKEN_US, hop_us=HOP_US)
    _, _, recorder = generate(cluster, n_tokens=n_tokens, strategy=strategy, wrong=wrong)
    return cluster, recorder


def test_costs_are_those_that_were_seen():
    _, recorder = after(20, n_stages=2)
    for costs in stage_costs(recorder.recording()):
        assert costs[1] == pytest.approx((STAGE_US + TOKEN_US) / 1e6)


def test_a_run_is_followed_over_the_stages():
    cluster, recorder = after(10, strategy="iterative")
    recorder.on_submit(Run(run_id=99, tokens=(RunToken(id=1, position=13, want=True),)))
    start_s, stage_s = cluster.clock(), (STAGE_US + TOKEN_US) / 1e6
    for at, place in [(0.5, 0), (1.5, 1), (2.5, 2), (50, 2)]:  # late: it is at the last one still
        doing = stage_runs(recorder.recording(), start_s + at * stage_s)
        assert [each and each.run.run_id for each in doing] == [
            99 if stage == place else None for stage in range(3)
        ]


def test_the_panel_counts_all_runs_though_it_looks_at_the_last_ones():
    cluster, recorder = after(400, wrong=range(10, 500, 7))
    view = LiveView(recorder, "title")
    panel = view.panel(cluster.clock())
    recording = recorder.recording()
    assert panel == view.panel(cluster.clock()), "nothing is counted twice"
    n_in_flight = sum(each.result is None for each in recording.runs)
    assert f" {n_in_flight} in flight" in panel.summary
    assert [row.name for row in panel.rows] == ["drafter", "stage 0", "stage 1", "stage 2"]


def test_the_panel_counts_while_it_goes():
    cluster = VirtualCluster(2)
    view = None

    class Watching(VirtualCluster):
        def wait(self, timeout_s):
            nonlocal view
            view = view or LiveView(recorders[0], "title")
            view.panel(self.clock())
            return super().wait(timeout_s)

    recorders = []
    cluster = Watching(2)
    _, counters, recorder = generate(
        cluster, n_tokens=350, wrong=range(9, 500, 9), on_recorder=recorders.append
    )
    panel = view.panel(cluster.clock())
    assert panel.summary.startswith(f"{counters.n_decided} tokens")
    percent = 100 * counters.n_accepted / counters.n_drafted
    assert f"{percent:.0f} % of {counters.n_drafted} drafted tokens accepted" in panel.summary
    assert len(recorder.recording().runs) > 200


@pytest.mark.parametrize(
    ("positions", "is_cancelled", "activity", "text"),
    [
        ([0, 1, 2], False, "plain", "3 tokens of the prompt"),
        ([2, 3, 4], False, "speculative", "3 tokens, 2 drafted"),
        ([3], False, "speculative", "1 token, 1 drafted"),
        ([3], True, "cancelled", "1 token, 1 drafted"),
        ([], False, "idle", ""),
    ],
)
def test_what_a_stage_does_is_said(positions, is_cancelled, activity, text):
    recorder = Recorder(n_prompt=3, n_stages=1, clock=lambda: 5.0)
    if positions:
        tokens = tuple(RunToken(id=1, position=position) for position in positions)
        recorder.on_submit(Run(run_id=7, tokens=tokens))
    if is_cancelled:
        recorder.on_cancel(7, 9)
    (row,) = LiveView(recorder, "").panel(6.0).rows
    assert row == Row("stage 0", (activity,), text)


def test_many_stages_share_a_row():
    cluster, recorder = after(10, n_stages=12)
    panel = LiveView(recorder, "").panel(cluster.clock())
    assert [row.name for row in panel.rows] == ["drafter", "stages"]
    assert len(panel.rows[1].activities) == 12
    assert panel.rows[1].text.endswith("of 12 busy")


PANEL = Panel("a title", (Row("stage 0", ("plain",), "3 tokens"),), "42 tokens")


class Terminals(io.StringIO):
    """stderr, shown on a screen."""

    def __init__(self):
        super().__init__()
        self.screen = Screen()

    def write(self, text):
        self.screen.feed(text.replace("\n", "\r\n").encode())
        return len(text)


@pytest.mark.parametrize(
    "pieces",
    [
        ["Once upon", " a time", "."],
        ["two\nlines", "\n\n", "and a gap"],
        ["long words without an end " * 12],
        list("letters, one by one, for more than a whole line of the terminal that is here\n"),
        [" [b]no markup[/b] ", "日本語のテキスト" * 9],
        [],
    ],
)
def test_text_stays_above_the_panel_and_the_panel_goes(pieces, monkeypatch):
    stderr = Terminals()
    monkeypatch.setattr(sys, "stderr", stderr)
    terminal = Terminal(n_columns=N_COLUMNS, n_lines=N_LINES, has_stdout=True)
    with console.live_panel(lambda: PANEL, terminal) as put:
        for piece in pieces:
            put(piece)
    text = "".join(pieces)
    frames = stderr.screen.frames
    assert any("a title" in line for line in frames)
    assert any("3 tokens" in line for line in frames)
    assert any("42 tokens" in line for line in frames)
    if text.isascii():
        assert stderr.screen.lines == [line for line in wrapped(text.rstrip("\n")) if text]
    else:
        assert "".join(stderr.screen.lines).replace(" ", "") == text.replace(" ", "")
    assert not stderr.screen.is_cursor_hidden


def test_the_panel_goes_after_an_error_too(monkeypatch):
    stderr = Terminals()
    monkeypatch.setattr(sys, "stderr", stderr)
    terminal = Terminal(n_columns=N_COLUMNS, n_lines=N_LINES, has_stdout=False)
    with pytest.raises(KeyboardInterrupt), console.live_panel(lambda: PANEL, terminal):
        raise KeyboardInterrupt
    assert stderr.screen.lines == []
    assert not stderr.screen.is_cursor_hidden


@pytest.mark.parametrize(
    ("lines", "columns", "expected"),
    [(0, 0, (80, 24)), (50, 0, (80, 50)), (0, 132, (132, 24)), (25, 70, (70, 25))],
)
def test_a_terminal_that_does_not_know_its_size_has_the_usual_one(
    lines, columns, expected, monkeypatch
):
    main, side = os.openpty()
    with open(main), open(side, "w") as stderr:  # noqa: PTH123 (descriptors)
        fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        monkeypatch.setattr(sys, "stderr", stderr)
        terminal = console.find_terminal()
        assert terminal is not None
        assert (terminal.n_columns, terminal.n_lines) == expected
