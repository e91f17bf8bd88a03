"""How ranks end together: the last signs of life of a job. No clock, no messages of its own."""

from __future__ import annotations

from dataclasses import replace

from pipeinfer_cli.launch.watchdog.failure_detector import FailureDetector
from pipeinfer_cli.launch.watchdog.heartbeat import Heartbeat, Phase


class ShutdownBarrier:
    """No rank leaves while another one would report it as silent, or sends it anything.

    1. A rank whose part is done says ENDING with each sign of life.
    2. The head, when it has heard that of all others, says GONE: its last message.
    3. Another rank, when it has heard the head's GONE, says GONE: its last message, too.
    4. Who has said GONE, and heard it of all that it listens to, is through.
    """

    def __init__(self, detector: FailureDetector, *, is_head: bool) -> None:
        self._detector = detector  # knows what was heard
        self._awaited = (Phase.ENDING, Phase.GONE) if is_head else (Phase.GONE,)
        self._has_gone = False

    def message(self, heartbeat: Heartbeat) -> Heartbeat | None:
        """What to tell the others, if this is the sign of life; None: the last was said before.

        It is the last one, which must not be lost, if its phase is GONE.
        """
        if self._has_gone:
            return None
        if heartbeat.phase == Phase.ENDING and self._detector.everybody_in(*self._awaited):
            self._has_gone = True
            return replace(heartbeat, phase=Phase.GONE)
        return heartbeat

    @property
    def is_over(self) -> bool:
        """Whether this rank is through."""
        return self._has_gone and self._detector.everybody_in(Phase.GONE)
