"""What a group does after its turns, and does not measure: a trace, a recording of acceptance."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pipeinfer_cli.cluster.acceptance.recording import MAX_CANDIDATES, RecordedToken
from pipeinfer_cli.engine.vocab import Vocab
from pipeinfer_cli.runtime.answer import Ends
from pipeinfer_cli.runtime.head import Head, Request
from pipeinfer_cli.scheduler.interfaces import Drafter, candidates_after
from pipeinfer_cli.trace.config import Pictures
from pipeinfer_cli.trace.observe import tracing


def trace(file: str, head: Head, request: Request, vocab: Vocab, ends: Ends, *, label: str) -> None:
    """One more request, for its trace. `label` says what is not real."""
    pictures = Pictures(trace=file)
    with tracing(pictures, head.info(request), label) as tracer:
        stats = head.answer(request, vocab, ends, tracer).measure()
    tracer.write_files(pictures, stats)


def recorded_tokens(
    drafter: Drafter, prompt: Sequence[int], text: Sequence[int]
) -> Iterator[RecordedToken]:
    """For each token of the text which of the drafter's candidates for its place it is.

    The drafter is asked with all the text before it, as if nothing it had drafted were wrong.
    """
    context = list(prompt)
    for token in text:
        candidates = candidates_after(drafter, context, MAX_CANDIDATES)
        ids = [each for each, _ in candidates]
        yield RecordedToken(
            ids.index(token) if token in ids else None,
            tuple(float(f"{probability:.5g}") for _, probability in candidates),
        )
        context.append(token)
