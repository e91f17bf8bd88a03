"""What `pipeinfer generate --prompts` was asked to do."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from pipeinfer_cli.commands.generate_config import FORMATS, GenerateConfig, OutputFormat, Prompt
from pipeinfer_cli.console import Terminal, find_terminal
from pipeinfer_cli.errors import UserError
from pipeinfer_cli.runtime.config import JobConfig
from pipeinfer_cli.scheduler.kv_sequences import MAX_PARALLEL

STDIN = "-"
AnyBatch = TypeVar("AnyBatch", bound="BatchConfig")


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchFiles:
    """Where the prompts come from and the results go. UserError if a value is invalid."""

    prompts: str  # the file of items; - for stdin
    items: str | None = None  # what was read from stdin already; bytes as surrogates
    output: str | None = None  # the file of results; None: stdout
    resume: bool = False  # continue after the last complete line of output
    parallel: int = 1  # at most this number of requests in flight
    terminal: Terminal | None = None  # where to draw a progress bar, if it can be drawn

    def __post_init__(self) -> None:
        if not self.prompts:
            raise UserError("--prompts is empty: name a file of items, one JSON object per line")
        if self.output == "":
            raise UserError("--output is empty: name a file, or leave it out for stdout")
        if self.resume and self.output is None:
            raise UserError("--resume requires --output FILE")
        if not 1 <= self.parallel <= MAX_PARALLEL:
            raise UserError(f"--parallel {self.parallel}: give a number from 1 to {MAX_PARALLEL}")

    @property
    def is_resumable(self) -> bool:
        """Whether an end before the last item loses nothing."""
        return self.output is not None

    @property
    def is_stream(self) -> bool:
        """Whether items are answered as stdin brings them. To resume, all must be known."""
        return self.prompts == STDIN and self.items is None and not self.resume

    def check_stdin(self) -> None:
        """UserError if there is none, or if it is a terminal."""
        if sys.stdin is None or sys.stdin.isatty():
            raise UserError("--prompts -: there is nothing on stdin: pipe the items")

    def resolved(self) -> BatchFiles:
        """The same for other processes of this host: without our folder.

        What is on stdin goes with it, unless items are answered as they come.
        """
        output = None if self.output is None else str(Path(self.output).absolute())
        if self.is_stream:
            self.check_stdin()
            return replace(self, output=output)
        if self.prompts == STDIN:
            items = self.read().decode(errors="surrogateescape")
            return replace(self, items=items, output=output)
        return replace(self, prompts=str(Path(self.prompts).absolute()), output=output)

    def read(self) -> bytes:
        """All items. UserError if there is no such file, or nothing is piped to stdin."""
        if self.items is not None:
            return self.items.encode(errors="surrogateescape")
        if self.prompts != STDIN:
            try:
                return Path(self.prompts).read_bytes()
            except OSError as error:
                raise UserError(
                    f"cannot read the items {self.prompts!r}: {error.strerror}: check --prompts"
                ) from None
        self.check_stdin()
        return sys.stdin.buffer.read()


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchConfig(GenerateConfig):
    """A request for each prompt of a file; `prompt` is empty."""

    files: BatchFiles

    def __post_init__(self) -> None:
        GenerateConfig.__post_init__(self)  # super() does not know a class with slots
        if self.prompt != Prompt(escape=self.prompt.escape):
            raise UserError("a prompt cannot be combined with --prompts: give one of them")
        if self.verify:
            raise UserError("--verify cannot be combined with --prompts: leave one of them out")
        if self.files.parallel > 1 and (self.emulate or self.synth_acceptance):
            raise UserError(
                f"--parallel {self.files.parallel}: an emulated cluster and a synthetic text are "
                "for one request at a time: leave --parallel out"
            )
        pictures = self.pictures
        if pictures.trace or pictures.plot or pictures.live:
            raise UserError(
                "--trace, --plot and --live cannot be combined with --prompts: leave --prompts out"
            )

    @property
    def takes_messages(self) -> bool:
        """Whether there is use for a chat template: items may have messages."""
        return True

    @property
    def formats(self) -> Sequence[OutputFormat]:
        """Forms of the output that there are: text and json are the same here."""
        return (*FORMATS, "openai")

    def on_terminal(self: AnyBatch) -> AnyBatch:
        """The same with the terminal for its progress bar, if there is one."""
        return replace(self, files=replace(self.files, terminal=find_terminal()))

    @property
    def terminal(self) -> Terminal | None:
        """Where it draws; see on_terminal."""
        return self.files.terminal

    def resolved(self: AnyBatch) -> AnyBatch:
        """The same with the models' files, and for another folder and stdin. Raises UserError."""
        from pipeinfer_cli.models.resolve import file_of

        files, draft_model = self.files.resolved(), file_of(self.draft_model)
        template, grammar = self.template.read(), self.grammar.read()
        return JobConfig.resolved(
            replace(self, files=files, draft_model=draft_model, template=template, grammar=grammar)
        )

    @property
    def reads_stdin(self) -> bool:
        """Whether rank 0 does, while it works."""
        return self.files.is_stream

    @property
    def n_texts(self) -> int:
        """Those of the batch, and the one that ended last: another may begin like it."""
        return 1 if self.files.parallel == 1 else self.files.parallel + 1
