"""A thread that drafts while the head does its other work."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable

from pipeinfer_cli.drafters import Drafter
from pipeinfer_cli.speculation import Draft, DraftRequest


class DraftThread:
    """Carries out draft requests, the latest one only; `take` brings what it has so far.

    `notify` is called on the thread whenever there is something new. Close it before whatever
    `notify` uses.
    """

    def __init__(self, drafter: Drafter, notify: Callable[[], None]) -> None:
        self._drafter = drafter
        self._notify = notify
        self._requests: queue.SimpleQueue[DraftRequest | None] = queue.SimpleQueue()
        self._drafts: deque[Draft] = deque()
        self._error: BaseException | None = None
        self._epoch = 0  # drafts of earlier epochs are not wanted any more
        self._thread = threading.Thread(target=self._serve, name="drafter", daemon=True)
        self._thread.start()

    def request(self, request: DraftRequest) -> None:
        """Starts a draft; the one before it ends."""
        self.set_epoch(request.epoch)
        self._requests.put(request)

    def set_epoch(self, epoch: int) -> None:
        """Ends drafts of earlier epochs."""
        self._epoch = epoch

    def take(self) -> list[Draft]:
        """What has been drafted since the last call; raises what the drafter raised."""
        if self._error is not None:
            raise self._error
        return [self._drafts.popleft() for _ in range(len(self._drafts))]

    def close(self) -> None:
        """Ends the thread."""
        self.set_epoch(-1)
        self._requests.put(None)
        self._thread.join()

    def _serve(self) -> None:
        while (request := self._requests.get()) is not None:
            try:
                self._draft(request)
            except BaseException as error:  # noqa: BLE001 (the head's thread raises it)
                self._error = error
                self._notify()
                return

    def _draft(self, request: DraftRequest) -> None:
        position = len(request.context)
        proposals = self._drafter.propose(request.context, request.n_candidates)
        begin_ns = time.monotonic_ns()
        for index, ((token, probability), *alternatives) in enumerate(proposals):
            if self._epoch != request.epoch:
                return
            end_ns = time.monotonic_ns()
            draft = Draft(
                request.epoch,
                position + index,
                token,
                probability,
                tuple(alternatives),
                took_us=(end_ns - begin_ns) // 1000,
            )
            begin_ns = end_ns
            self._post(draft)
            if index + 1 == request.n_max:
                break
        self._post(Draft(request.epoch, position, None))

    def _post(self, draft: Draft) -> None:
        self._drafts.append(draft)
        self._notify()
