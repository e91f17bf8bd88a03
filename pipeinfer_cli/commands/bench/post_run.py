"""What a group does after its turns, and does not measure: a trace, a recording of acceptance."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from pipeinfer_cli import files
from pipeinfer_cli.engine.vocab import Vocab
from pipeinfer_cli.errors import RunError
from pipeinfer_cli.runtime.answer import Ends
from pipeinfer_cli.runtime.head import Head, Request
from pipeinfer_cli.scheduler.interfaces import Drafter
from pipeinfer_cli.trace.config import Pictures
from pipeinfer_cli.trace.observe import tracing


def trace(file: str, head: Head, request: Request, vocab: Vocab, ends: Ends, *, label: str) -> None:
    """One more request, for its trace. `label` says what is not real."""
    pictures = Pictures(trace=file)
    with tracing(pictures, head.info(request), label) as tracer:
        stats = head.answer(request, vocab, ends, tracer).measure()
    tracer.write_files(pictures, stats)


def known_tokens(drafter: Drafter, prompt: Sequence[int], text: Sequence[int]) -> Iterator[bool]:
    """For each token of the text whether the drafter's first choice for its place is that token.

    The drafter is asked with all the text before it, as if nothing it had drafted were wrong.
    """
    context = list(prompt)
    for token in text:
        candidates = next(filter(None, drafter.propose(tuple(context))), None)
        yield candidates is not None and candidates[0][0] == token
        context.append(token)


def write_acceptance(file: str, verdicts: Sequence[bool]) -> None:
    """See cluster.acceptance.RecordedAcceptance. RunError if it cannot be written."""
    try:
        files.write_text(Path(file), json.dumps(list(verdicts)) + "\n")
    except OSError as error:
        raise RunError(
            f"cannot write the acceptance recording {file!r}: {error.strerror}"
        ) from None
