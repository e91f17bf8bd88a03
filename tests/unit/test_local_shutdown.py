"""How a job with local ranks ends before its work is done: phases, by a clock of the test's own."""

import os
import signal

import pytest

from pipeinfer_cli.launch import local_rank, local_shutdown, report, supervisor
from pipeinfer_cli.launch.local_output import OutputForwarder
from pipeinfer_cli.launch.local_shutdown import GRACE_S, HEAD_GRACE_S, JobShutdown, Phase

INT, TERM, HUP = signal.SIGINT, signal.SIGTERM, signal.SIGHUP


class Launcher:
    def __init__(self):
        self.asked = []

    def send_signal(self, signum):
        self.asked.append(signum)


class Scene:
    def __init__(self, place, monkeypatch):
        self.place, self.launcher, self.out = place, Launcher(), OutputForwarder(-1, 1)
        self.told, self.received = [], []
        self.shutdown = JobShutdown(self.launcher, place, self.received, self.out)
        monkeypatch.setattr(local_rank, "kill", lambda _pid, signum: self.told.append(signum))
        monkeypatch.setattr(local_shutdown, "marked_processes", lambda _place: [])

    def listen(self):
        (self.place / "rank-0.pid").write_text("1")
        local_rank.announce_listening(self.place)

    def fail(self, code):
        report.record_failure(self.place, report.Failure(rank=1, pid=os.getpid(), code=code))

    def phase_at(self, now_s):
        self.shutdown.step(now_s)
        return self.shutdown.phase


@pytest.fixture
def scene(tmp_path, monkeypatch):
    return Scene(tmp_path, monkeypatch)


def test_nothing_ends_a_job_that_runs(scene):
    assert {scene.phase_at(now_s) for now_s in range(0, 10**6, 10**4)} == {Phase.RUNNING}
    assert scene.launcher.asked == []


def test_a_head_that_listens_gets_its_time_then_all_get_theirs(scene):
    scene.listen()
    scene.received.append(HUP)
    assert scene.phase_at(1) is Phase.HEAD_ENDS
    assert scene.told == [HUP]
    assert scene.phase_at(1 + HEAD_GRACE_S - 0.1) is Phase.HEAD_ENDS
    late_s = 1 + HEAD_GRACE_S
    assert scene.phase_at(late_s) is Phase.ALL_END
    assert scene.launcher.asked == [TERM], "hydra would leave the ranks alone"
    assert scene.phase_at(late_s + GRACE_S) is Phase.ALL_END
    assert scene.phase_at(late_s + GRACE_S + 0.1) is Phase.GIVEN_UP


def test_a_head_that_does_not_listen_gets_none(scene):
    scene.received.append(INT)
    assert scene.phase_at(1) is Phase.ALL_END
    assert (scene.told, scene.launcher.asked) == ([], [INT])


@pytest.mark.parametrize("listens", [True, False])
def test_a_second_signal_gives_up_at_once(listens, scene):
    if listens:
        scene.listen()
    scene.received.append(INT)
    scene.phase_at(1)
    scene.received.append(INT)
    assert scene.phase_at(1.1) is Phase.GIVEN_UP


@pytest.mark.parametrize(
    ("code", "asked"), [(-9, [TERM]), (2, [])], ids=["was killed", "has said why, and ends all"]
)
def test_a_rank_that_failed_ends_all(code, asked, scene):
    scene.fail(code)
    assert scene.phase_at(1) is Phase.ALL_END
    assert scene.launcher.asked == asked


def test_a_reader_that_went_away_ends_all_also_while_the_head_ends(scene):
    scene.listen()
    scene.received.append(TERM)
    assert scene.phase_at(1) is Phase.HEAD_ENDS
    scene.out.close()
    assert scene.phase_at(1.1) is Phase.ALL_END
    assert scene.launcher.asked == [TERM]


def test_a_rank_whose_parent_is_gone_ends_although_cleaning_up_fails(tmp_path, monkeypatch):
    killed = []
    monkeypatch.setattr(os, "kill", lambda pid, signum: killed.append((pid, signum)))
    monkeypatch.setattr(local_rank, "parent_is_gone", lambda *, wait: wait)
    monkeypatch.setattr(local_rank, "shared_memory_of", lambda _pid: [tmp_path])  # a folder
    with pytest.raises(OSError, match=tmp_path.name):
        local_rank._watch_parent()
    alive, keeper = os.pipe()
    os.close(keeper)
    with pytest.raises(OSError, match=tmp_path.name):
        supervisor.Supervised(notes=-1, alive=alive)._follow([tmp_path])
    os.close(alive)
    assert killed == [(os.getpid(), signal.SIGKILL)] * 2
