"""--log-file, and what reaches a terminal."""

import logging
import os
import re
import stat

import pytest

from pipeinfer_cli import files, log
from pipeinfer_cli.cli import main
from pipeinfer_cli.console import printable
from pipeinfer_cli.errors import Interrupted, RunError, UserError
from pipeinfer_cli.log import LOG

LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} rank 3 \S+ (INFO|WARNING|ERROR) .*")


@pytest.fixture(autouse=True)
def _close_logs():
    yield
    for handler in LOG.handlers[:]:
        if not isinstance(handler, logging.NullHandler):
            LOG.removeHandler(handler)
            handler.close()


def test_lines_have_time_rank_and_host(tmp_path):
    log.begin(str(tmp_path / "run-{rank}.log"), 3)
    log.note("layers are\neven\x1b[31m", verbose=False)
    LOG.warning("100 %")
    lines = (tmp_path / "run-3.log").read_text().splitlines()
    assert len(lines) == 2
    for line in lines:
        assert LINE.fullmatch(line), line
    assert lines[0].endswith("INFO layers are\\neven\\x1b[31m")


def test_a_log_is_appended_to(tmp_path):
    path = tmp_path / "run.log"
    for text in ("one", "two"):
        log.begin(str(path), 0)
        log.note(text, verbose=False)
    assert [line.split()[-1] for line in path.read_text().splitlines()] == ["one", "two"]


def test_without_a_log_nothing_is_said(capsys):
    assert log.begin(None, 0) is None
    log.note("quiet", verbose=False)
    assert capsys.readouterr() == ("", "")
    log.note("loud\x07", verbose=True)
    assert capsys.readouterr().err == "pipeinfer: loud\\x07\n"


def test_failures_are_logged_with_their_traceback(tmp_path, capsys):
    log.begin(str(tmp_path / "log"), 3)

    def fail(error):
        raise error

    assert main.guard(lambda: fail(ValueError("odd")), verbose=False) == 1
    assert main.guard(lambda: fail(RunError("rank 2 is gone")), verbose=False) == 1
    assert main.guard(lambda: fail(Interrupted(15)), verbose=False) == 143
    text = (tmp_path / "log").read_text()
    assert "ERROR unexpected ValueError: odd" in text
    assert "raise error\nValueError: odd" in text
    assert "ERROR rank 2 is gone" in text
    assert text.rstrip().endswith("WARNING interrupted by SIGTERM")
    assert "Traceback" not in capsys.readouterr().err


def test_a_log_that_cannot_be_opened_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"--log-file '.*no/log'.*No such file"):
        log.begin(str(tmp_path / "no" / "log"), 0)


def test_a_full_disk_ends_the_log_alone(capsys):
    log.begin("/dev/full", 0)
    log.note("one", verbose=False)
    log.note("two", verbose=False)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("pipeinfer: note: the log ends: ")
    assert "No space left" in line


def test_files_have_the_users_umask(tmp_path):
    before = os.umask(0o027)
    try:
        files.write_text(tmp_path / "new", "text")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o640


def test_links_in_shared_folders_are_not_followed(tmp_path):
    shared, victim = tmp_path / "tmp", tmp_path / "victim"
    shared.mkdir()
    victim.write_text("mine")
    (shared / "trace.json").symlink_to(victim)
    shared.chmod(0o1777)
    with pytest.raises(OSError, match="symbolic link"):
        files.write_text(shared / "trace.json", "overwritten")
    with pytest.raises(UserError, match="symbolic link"):
        log.begin(str(shared / "trace.json"), 0)
    assert victim.read_text() == "mine"
    shared.chmod(0o755)  # the user's own: links are what they are for
    files.write_text(shared / "trace.json", "mine, too")
    assert victim.read_text() == "mine, too"


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("plain: ä, 漢字, 🌸", "plain: ä, 漢字, 🌸"),
        ("\x1b]0;owned\x07\x1b[2J", "\\x1b]0;owned\\x07\\x1b[2J"),
        ("\x9b31m", "\\x9b31m"),
        ("\u202egpj.exe", "\\u202egpj.exe"),
        ("a\nb\r", "a\\nb\\r"),
        ("\x00\x7f", "\\x00\\x7f"),
    ],
)
def test_nothing_that_a_terminal_acts_on_is_printed(raw, shown):
    assert printable(raw) == shown


def test_errors_are_printable(capsys):
    def fail():
        raise RunError("the name is \x1b[31mred\u202e")

    assert main.guard(fail, verbose=False) == 1
    assert capsys.readouterr().err == "pipeinfer: error: the name is \\x1b[31mred\\u202e\n"
