"""What HTTP's thread and the head's hand to each other in a server."""

from __future__ import annotations

import asyncio
import threading

import pytest

from pipeinfer_cli.commands.serve.generation import (
    DrainingError,
    Generation,
    GenerationError,
    GenerationRequest,
    Outcome,
    QueueFullError,
    RequestQueue,
    TimeLimitError,
)
from pipeinfer_cli.runtime.answer import Ends
from pipeinfer_cli.scheduler.metrics import Counters, RequestInfo, measure
from pipeinfer_cli.scheduler.runs import DEFAULT_SAMPLE

REQUEST = GenerationRequest(prompt=(1,), n_max=9, sample=DEFAULT_SAMPLE, ends=Ends())
WAIT_S = 20.0


def outcome() -> Outcome:
    info = RequestInfo(strategy="iterative", n_ranks=1, n_stages=1, n_prompt=1)
    return Outcome(finish_reason="stop", stats=measure(info, 0.0, [], Counters()))


def ask(head, *, limit_s: float = WAIT_S) -> str:
    """The text that comes of a request, with `head` on a thread of its own."""

    async def client() -> str:
        generation = Generation(REQUEST, limit_s)
        threading.Thread(target=head, args=(generation,)).start()
        return "".join([each async for each in generation.texts()])

    return asyncio.run(asyncio.wait_for(client(), WAIT_S))


def test_a_text_comes_whole_and_in_order():
    def head(generation):
        for number in range(1000):
            generation.put(f"{number},")
        generation.put("")
        generation.end(outcome())

    assert ask(head) == "".join(f"{number}," for number in range(1000))


def test_an_end_before_the_text_is_complete():
    def head(generation):
        generation.put("abc")
        generation.end(GenerationError("the server ends"))

    with pytest.raises(GenerationError, match="the server ends"):
        ask(head)


def test_a_request_has_its_time():
    with pytest.raises(TimeLimitError):
        ask(lambda generation: generation.put("abc"), limit_s=0.05)


def test_the_queue_is_bounded_and_ends():
    async def client() -> None:
        woken = []
        queue = RequestQueue(2)
        queue.listen(lambda: woken.append(1))
        first, second, third = (Generation(REQUEST, WAIT_S) for _ in range(3))
        queue.put(first)
        queue.put(second)
        with pytest.raises(QueueFullError):
            queue.put(third)
        queue.cancel(first)  # it has waited: the head never hears of it
        queue.put(third)
        assert (queue.take(), queue.take(), queue.take()) == (second, third, None)
        assert queue.take_cancelled() == []
        queue.cancel(second)
        assert (queue.take_cancelled(), queue.take_cancelled()) == ([second], [])
        assert len(woken) == 4
        queue.close()
        with pytest.raises(DrainingError):
            queue.put(first)
        queue.deafen()
        queue.cancel(third)
        assert len(woken) == 4
        for each in (first, second, third):
            each.close()

    asyncio.run(client())
