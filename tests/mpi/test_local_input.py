"""A parent that reads lines for rank 0: nothing is lost, nothing hangs."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from terminal import Person

pytestmark = pytest.mark.mpi

PROGRAM = Path(__file__).parents[1] / "helpers" / "talking.py"
LIMIT_S = 20


def start(mpiexec, folder):
    return subprocess.Popen(
        [sys.executable, PROGRAM, mpiexec, folder],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(folder)},
    )


def test_lines_arrive_one_by_one(mpiexec, tmp_path):
    lines = ["one", "", "größer 🌸", "x" * 200_000, "  no end"]
    with start(mpiexec, tmp_path) as parent:
        out, err = parent.communicate("\n".join(lines), timeout=LIMIT_S)
    assert (parent.returncode, err) == (0, "")
    *shown, end = out.splitlines()
    assert [json.loads(line) for line in shown] == lines
    assert end == "end"


def test_the_first_ctrl_c_ends_an_answer_and_the_second_everything(mpiexec, tmp_path):
    with start(mpiexec, tmp_path) as parent:
        for _ in range(2):
            parent.stdin.write("answer\n")
            parent.stdin.flush()
            assert parent.stdout.readline() == '"answer"\n'
            assert parent.stdout.readline() == "answering\n"
            parent.send_signal(signal.SIGINT)
            assert parent.stdout.readline() == "interrupted\n"
        parent.send_signal(signal.SIGINT)  # it waits for a line, or is about to
        _, err = parent.communicate(timeout=LIMIT_S)
    assert (parent.returncode, err) == (130, "pipeinfer: error: interrupted by SIGINT\n")


def test_sigterm_ends_an_answer_and_everything(mpiexec, tmp_path):
    with start(mpiexec, tmp_path) as parent:
        parent.stdin.write("answer\n")
        parent.stdin.flush()
        assert [parent.stdout.readline() for _ in range(2)] == ['"answer"\n', "answering\n"]
        parent.send_signal(signal.SIGTERM)
        _, err = parent.communicate(timeout=LIMIT_S)
    assert (parent.returncode, err) == (143, "pipeinfer: error: interrupted by SIGTERM\n")


def test_a_rank_that_ends_is_noticed_while_a_line_is_awaited(mpiexec, tmp_path):
    with start(mpiexec, tmp_path) as parent:
        parent.stdin.write("one\n")
        parent.stdin.flush()
        assert parent.stdout.readline() == '"one"\n'
        (tmp_path / "die").touch()
        assert parent.wait(timeout=LIMIT_S) == 1
        assert "rank 1 (pid " in parent.stderr.read()


def test_text_that_is_no_utf8_ends_everything(mpiexec, tmp_path):
    with start(mpiexec, tmp_path) as parent:
        parent.stdin.buffer.write(b"one\n\xff\xfe\n")
        out, err = parent.communicate(timeout=LIMIT_S)
    assert (parent.returncode, out) == (2, '"one"\n')
    assert "is not UTF-8 text (byte 0)" in err


def test_a_rank_that_ends_is_noticed_while_a_person_types(mpiexec, tmp_path):
    out = tmp_path / "out"
    person = Person([sys.executable, str(PROGRAM), mpiexec, str(tmp_path)], out)
    person.wait_until(lambda: ">" in person.lines)
    person.type(b"one\rtw")
    person.wait_until(lambda: "> tw" in person.lines)
    (tmp_path / "die").touch()
    assert person.wait() == 1
    assert any(line.startswith("pipeinfer: error: rank 1 (pid ") for line in person.lines)
    assert out.read_text() == '"one"\n'
