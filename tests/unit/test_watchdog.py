"""Who is lost, and what hangs: verdicts from scripted signs of life, and the threads that act."""

import queue
import re
import threading

import pytest

from pipeinfer_cli.engine.engine import Activity
from pipeinfer_cli.errors import RunError
from pipeinfer_cli.launch.watchdog import watchdog as watchdog_
from pipeinfer_cli.launch.watchdog.failure_detector import SILENCE_S, FailureDetector, silence_s
from pipeinfer_cli.launch.watchdog.heartbeat import HEARTBEAT_BYTES, Heartbeat, Phase
from pipeinfer_cli.launch.watchdog.shutdown import ShutdownBarrier
from pipeinfer_cli.launch.watchdog.watchdog import Watchdog

TIMEOUT_S = 100.0
WAIT_S = 20.0
PLACES = ["stage 0, layers [0, 2)", "stage 1, layers [2, 4)", "stage 2, layers [4, 6)"]


def test_a_heartbeat_survives_the_wire():
    heartbeat = Heartbeat(
        phase=Phase.RUNNING,
        is_due=True,
        run_id=2**40,
        computing_us=3,
        done_id=4,
        awaited_id=5,
        moved=6,
        host="n" * 70,
    )
    data = heartbeat.encode()
    assert len(data) == HEARTBEAT_BYTES
    assert Heartbeat.decode(data) == Heartbeat(
        **{name: getattr(heartbeat, name) for name in Heartbeat.__slots__ if name != "host"},
        host="n" * 64,
    )


@pytest.mark.parametrize(
    ("timeout_s", "expected_s"), [(3, 3), (8, 8), (60, SILENCE_S), (300, SILENCE_S), (4000, 100)]
)
def test_patience_grows_with_the_timeout(timeout_s, expected_s):
    assert silence_s(timeout_s) == expected_s


class Scene:
    """A head of three ranks and what it hears, second by second."""

    def __init__(self):
        self.detector = FailureDetector(0, [1, 2], timeout_s=TIMEOUT_S, now_s=0)
        self.detector.place(PLACES, 0)
        self.now_s = 0

    def pass_s(self, seconds, channel):
        """Everybody repeats its heartbeat each second; a callable makes one of the time."""
        for _ in range(seconds):
            self.now_s += 1
            for rank, heartbeat in channel.items():
                self.detector.hear(
                    rank, heartbeat(self.now_s) if callable(heartbeat) else heartbeat, self.now_s
                )
            if verdict := self.detector.verdict(self.now_s):
                return verdict
        return None


def active(**more):
    return Heartbeat(phase=Phase.RUNNING, host="n", **more)


WAITING = active(is_due=True, awaited_id=7)
LONG = int(TIMEOUT_S) + 20


def test_all_is_well_while_all_beat():
    idle = active(done_id=6)
    assert Scene().pass_s(LONG, {0: active(), 1: idle, 2: idle}) is None


def test_a_silent_rank_is_named():
    scene = Scene()
    scene.pass_s(5, dict.fromkeys(range(3), active()))
    verdict = scene.pass_s(LONG, {0: active(), 1: active()})
    assert scene.now_s == 5 + SILENCE_S + 1
    assert verdict.startswith("rank 2 on n (stage 2, layers [4, 6)) has given no sign of life")


def test_several_silent_ranks_are_named():
    scene = Scene()
    scene.pass_s(1, dict.fromkeys(range(3), Heartbeat(phase=Phase.LOADING, host="n")))
    verdict = scene.pass_s(LONG, {0: active()})
    assert "rank 1 on n (stage 1, layers [2, 4)) and rank 2" in verdict
    assert "while loading" in verdict


def test_a_silent_head_is_named_by_one_after_the_other():
    detectors = {rank: FailureDetector(rank, [0], timeout_s=TIMEOUT_S, now_s=0) for rank in (1, 2)}
    for detector in detectors.values():
        detector.hear(0, active(), 1)
    at_s = 1 + SILENCE_S + 0.1
    assert "rank 0 on n" in detectors[1].verdict(at_s)
    assert detectors[2].verdict(at_s) is None
    assert "rank 0 on n" in detectors[2].verdict(at_s + 1)


def test_who_was_stopped_itself_blames_nobody():
    scene = Scene()
    scene.pass_s(1, dict.fromkeys(range(3), active()))
    scene.now_s += 500
    scene.detector.reset_timers(scene.now_s)
    assert scene.detector.verdict(scene.now_s) is None


def test_slow_is_not_dead():
    """A stage computes one run for longer than the timeout, and makes progress."""
    slow = lambda now_s: active(run_id=7, computing_us=now_s * 10**6, moved=now_s // 50)  # noqa: E731
    assert Scene().pass_s(5 * LONG, {0: WAITING, 1: slow, 2: active(done_id=6)}) is None


@pytest.mark.parametrize(
    ("first", "last", "words"),
    [
        (
            active(run_id=7, computing_us=9 * 10**6),
            active(done_id=6),
            ["rank 1 on n (stage 1, layers [2, 4)) has been computing run 7 for 9 s"],
        ),
        (
            active(done_id=7),
            active(run_id=7),
            ["rank 2 on n", "has been computing run 7"],
        ),
        (
            active(done_id=6),
            active(done_id=6),
            ["run 7 has not arrived at rank 1 on n", "rank 0 on n", "has sent it", "link"],
        ),
        (
            active(done_id=8),
            active(done_id=6),
            ["run 7 has not arrived at rank 2 on n", "rank 1 on n", "has sent it", "link"],
        ),
        (
            active(done_id=8),
            active(done_id=8),
            ["the result of run 7 has not arrived from rank 2 on n", "link"],
        ),
    ],
    ids=["first hangs", "last hangs", "lost to first", "lost between", "lost result"],
)
def test_who_holds_a_missing_result_is_named(first, last, words):
    scene = Scene()
    head = active(is_due=True, awaited_id=7, done_id=9)
    verdict = scene.pass_s(LONG, {0: head, 1: first, 2: last})
    assert scene.now_s == 1 + TIMEOUT_S + 1
    for word in words:
        assert word in verdict
    assert "--timeout" in verdict


def test_a_head_that_does_other_things_waits_for_nothing():
    """Its reader is slow, say: results may lie there for as long as they like."""
    busy = active(is_due=False, awaited_id=7)
    scene = Scene()
    assert scene.pass_s(LONG, {0: busy, 1: active(done_id=9), 2: active(done_id=9)}) is None
    assert scene.pass_s(int(TIMEOUT_S), dict.fromkeys(range(3), active(is_due=True))) is None


def test_loading_that_does_not_get_on_is_named():
    loading = Heartbeat(phase=Phase.LOADING, host="n", moved=5)
    moving = lambda now_s: Heartbeat(phase=Phase.LOADING, host="n", moved=now_s)  # noqa: E731
    scene = Scene()
    assert "rank 1 on n" in scene.pass_s(LONG, {0: moving, 1: loading, 2: active()})
    assert scene.now_s == 1 + TIMEOUT_S + 1
    assert Scene().pass_s(5 * LONG, {0: moving, 1: moving, 2: active()}) is None


def test_who_does_not_end_is_named():
    detector = FailureDetector(0, [1, 2], timeout_s=TIMEOUT_S, now_s=0)
    for now_s in (99, 101):
        detector.hear(1, Heartbeat(phase=Phase.ENDING), now_s)
        detector.hear(2, Heartbeat(phase=Phase.RUNNING), now_s)
        verdict = detector.not_ending(now_s, since_s=0)
        assert (verdict is None) == (now_s == 99)
    assert "rank 2" in verdict


def test_who_is_silent_is_not_said_to_hang():
    """With a short timeout both would be true at about the same time."""
    detector = FailureDetector(1, [0], timeout_s=4, now_s=0)
    detector.hear(0, Heartbeat(phase=Phase.LOADING, moved=1), 1)
    detector.hear(0, Heartbeat(phase=Phase.LOADING, moved=1), 3)
    assert detector.verdict(6) is None
    assert "no sign of life" in detector.verdict(7.1)


ENDING = Heartbeat(phase=Phase.ENDING)
GONE = Heartbeat(phase=Phase.GONE)


def test_the_head_goes_when_all_have_ended_and_is_through_when_all_are_gone():
    detector = FailureDetector(0, [1, 2], timeout_s=TIMEOUT_S, now_s=0)
    barrier = ShutdownBarrier(detector, is_head=True)
    detector.hear(1, ENDING, 1)
    assert barrier.message(ENDING) == ENDING
    detector.hear(2, ENDING, 2)
    assert barrier.message(active()) == active(), "its own part is not done"
    assert barrier.message(ENDING) == GONE
    assert barrier.message(ENDING) is None
    for rank in (1, 2):
        assert not barrier.is_over
        detector.hear(rank, GONE, 3)
    assert barrier.is_over


def test_others_go_when_the_head_has_gone():
    detector = FailureDetector(2, [0], timeout_s=TIMEOUT_S, now_s=0)
    barrier = ShutdownBarrier(detector, is_head=False)
    detector.hear(0, ENDING, 1)
    assert barrier.message(ENDING) == ENDING
    detector.hear(0, GONE, 2)
    assert not barrier.is_over, "it has not said so"
    assert barrier.message(ENDING) == GONE
    assert barrier.is_over


class Mail:
    """Heartbeats between Watchdogs of one process."""

    def __init__(self, rank, boxes):
        self.rank, self.boxes = rank, boxes

    def send(self, rank, data, *, must=False):
        self.boxes[rank].put((self.rank, data))

    def receive(self):
        box = self.boxes[self.rank]
        return [box.get_nowait() for _ in range(box.qsize())]

    def close(self):
        pass


class FakeEngine:
    watched = False

    def __init__(self):
        self.given_up = queue.Queue()

    def give_up(self, message):
        self.given_up.put(message)

    def activity(self):
        return Activity()


def watchdogs(n, timeout_s, said=None):
    boxes = [queue.Queue() for _ in range(n)]
    return boxes, [
        Watchdog(
            Mail(rank, boxes),
            rank=rank,
            n_ranks=n,
            timeout_s=timeout_s,
            end=(said or queue.Queue()).put,
        )
        for rank in range(n)
    ]


def in_threads(*bodies):
    errors = []

    def guarded(body):
        try:
            body()
        except BaseException as error:  # noqa: BLE001
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(body,), daemon=True) for body in bodies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
        assert not thread.is_alive()
    return errors


def test_all_pass_the_barrier_and_leave_no_message():
    boxes, dogs = watchdogs(4, timeout_s=50)

    def job(dog):
        with dog:
            with dog.over(FakeEngine()):
                pass
            dog.barrier()

    assert in_threads(*(lambda dog=dog: job(dog) for dog in dogs)) == []
    assert [box.qsize() for box in boxes] == [0] * 4


def test_a_head_alone_needs_no_barrier():
    with Watchdog(None, timeout_s=50, end=print) as dog:
        dog.barrier()


def test_a_verdict_ends_the_wait_for_the_engine():
    _, (head, _) = watchdogs(2, timeout_s=0.4)
    engine = FakeEngine()
    with head, head.over(engine):
        assert engine.watched
        assert "rank 1 has given no sign of life" in engine.given_up.get(timeout=WAIT_S)


def test_a_verdict_ends_the_barrier():
    _, (head, _) = watchdogs(2, timeout_s=0.4)
    with head, pytest.raises(RunError, match="rank 1 has given no sign of life"):
        head.barrier()


def test_where_the_main_thread_is_stuck_the_watchdog_ends_all(monkeypatch):
    monkeypatch.setattr(watchdog_, "GRACE_S", 0.1)
    said = queue.Queue()
    _, (_, stage) = watchdogs(2, timeout_s=0.4, said=said)
    with stage:  # in a collective call of MPI, say
        assert "rank 0 has given no sign of life" in said.get(timeout=WAIT_S)


class BrokenMail(Mail):
    """Heartbeats whose calls raise, as MPI's do when a link is lost."""

    def __init__(self, rank, boxes, broken):
        super().__init__(rank, boxes)
        for name in broken:
            setattr(self, name, self.fail)

    def fail(self, *_, **__):
        raise OSError("the link\nis lost")


def watchdog_of(broken, said=None):
    boxes = [queue.Queue(), queue.Queue()]
    mail = BrokenMail(0, boxes, broken)
    return Watchdog(mail, n_ranks=2, timeout_s=50, end=(said or queue.Queue()).put)


@pytest.mark.parametrize("broken", [("receive",), ("send",), ("send", "close")], ids="-".join)
class TestALostLink:
    """The watchdog's own messages fail before it can notice that nobody is heard."""

    words = "rank 0 on .* can no longer exchange signs of life: the link is lost"

    def test_ends_the_wait_for_the_engine(self, broken):
        engine = FakeEngine()
        with watchdog_of(broken) as head, head.over(engine):
            assert re.match(self.words, engine.given_up.get(timeout=WAIT_S))

    def test_ends_the_barrier(self, broken):
        with watchdog_of(broken) as head:
            (error,) = in_threads(head.barrier)
        assert isinstance(error, RunError)
        assert re.match(self.words, str(error))

    def test_ends_all_where_the_main_thread_is_stuck(self, broken, monkeypatch):
        monkeypatch.setattr(watchdog_, "GRACE_S", 0.1)
        monkeypatch.setattr(watchdog_, "MAX_TICK_S", 0.05)
        said = queue.Queue()
        with watchdog_of(broken, said):
            assert re.match(self.words, said.get(timeout=WAIT_S))


def test_what_cannot_be_closed_after_the_barrier_is_no_failure():
    boxes, (_, stage) = watchdogs(2, timeout_s=50)
    head = Watchdog(BrokenMail(0, boxes, ["close"]), n_ranks=2, timeout_s=50, end=print)

    def job(dog):
        with dog:
            dog.barrier()

    assert in_threads(lambda: job(head), lambda: job(stage)) == []
