"""Options for pictures: what is refused, and the way to another process."""

import importlib.util
from pathlib import Path

import pytest

from pipeinfer_cli.errors import UserError
from pipeinfer_cli.trace.config import NO_PICTURES, Pictures


def test_nothing_is_drawn_unless_asked_for():
    assert Pictures.from_options(None, None, None, live=False) == NO_PICTURES


def test_options_become_values():
    pictures = Pictures.from_options(Path("a.json"), Path("b.svg"), "500:2000.5", live=True)
    assert pictures == Pictures(
        trace="a.json", plot="b.svg", plot_window_ms=(500.0, 2000.5), live=True
    )


@pytest.mark.parametrize(
    ("plot", "window", "message"),
    [
        ("plot.pdf", None, "plot.pdf.*ends with .svg or .png"),
        ("plot", None, "ends with .svg or .png"),
        ("plot.svg", "500", "'500'.*500:2000"),
        ("plot.svg", "a:b", "'a:b'.*500:2000"),
        ("plot.svg", "2000:500", "2000:500.*the later one last"),
        ("plot.svg", "0:nan", "give two times"),
        ("plot.svg", "-1:5", "give two times"),
        (None, "0:5", "--plot-window requires --plot"),
    ],
)
def test_what_makes_no_sense_is_refused(plot, window, message):
    with pytest.raises(UserError, match=message):
        Pictures.from_options(None, plot and Path(plot), window, live=False)


def test_a_missing_folder_is_refused_before_anything_is_loaded(tmp_path):
    Pictures(trace=str(tmp_path / "t.json")).check()
    with pytest.raises(UserError, match=r"--trace .*no such folder"):
        Pictures(trace=str(tmp_path / "none" / "t.json")).check()
    (tmp_path / "p.svg").mkdir()
    with pytest.raises(UserError, match=r"--plot .*it is a folder"):
        Pictures(plot=str(tmp_path / "p.svg")).check()
    with pytest.raises(UserError, match=r"--trace .*no such folder"):
        Pictures(trace=f"{tmp_path}/{'x' * 300}/t.json").check()


def test_without_matplotlib_a_plot_is_refused_with_the_command_that_helps(monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "matplotlib" else find_spec(name)
    )
    Pictures(trace="t.json").check()
    with pytest.raises(UserError, match=r"pip install 'matplotlib>=3.8'"):
        Pictures(plot="p.svg").check()
