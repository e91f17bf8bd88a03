"""What `pipeinfer generate` was asked to do, and reading its prompt."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeVar, cast

from pipeinfer_cli.checks import check_count
from pipeinfer_cli.commands.chat.template_options import NO_OPTIONS, TemplateOptions
from pipeinfer_cli.commands.escapes import unescape
from pipeinfer_cli.console import Terminal, find_terminal
from pipeinfer_cli.errors import UserError
from pipeinfer_cli.runtime.config import JobConfig
from pipeinfer_cli.runtime.grammar.source import NO_GRAMMAR, GrammarOptions
from pipeinfer_cli.scheduler.policy import (
    DEFAULT_DRAFT,
    DRAFTERS,
    MODEL_DRAFTERS,
    STRATEGIES,
    DraftConfig,
    DrafterKind,
    Strategy,
    check_auto_drafter,
)
from pipeinfer_cli.trace.config import NO_PICTURES, Pictures

OutputFormat = Literal["text", "json", "openai"]
FORMATS: tuple[OutputFormat, ...] = ("text", "json")  # of single answers
DEFAULT_N_PREDICT = 128
AnyGenerate = TypeVar("AnyGenerate", bound="GenerateConfig")


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """Where the prompt comes from: a text, a file, or (neither given) stdin."""

    text: str | None = None
    file: Path | None = None
    escape: bool = False  # read \\n and the like in it

    def __post_init__(self) -> None:
        if self.text is not None and self.file is not None:
            raise UserError("a prompt cannot be combined with -f/--file: give one of them")

    @classmethod
    def from_options(
        cls, text: str | None, file: Path | None, option: str | None = None, *, escape: bool = False
    ) -> Prompt:
        """The source that the command line names; `-` stands for stdin. `option` is -p."""
        if text is not None and option is not None:
            raise UserError("-p/--prompt cannot be combined with a prompt argument: give one")
        text = option if text is None else text
        return cls(
            text=None if text == "-" else text,
            file=None if file is not None and str(file) == "-" else file,
            escape=escape,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateConfig(JobConfig):
    """One request: `pipeinfer generate`."""

    prompt: Prompt
    n_predict: int = DEFAULT_N_PREDICT  # at most this number of tokens
    stats: bool = False
    verify: bool = False  # decode the text once more without speculation, and compare
    format: OutputFormat = "text"
    strategy: Strategy = "auto"
    drafter: DrafterKind = "ngram"
    draft_model: str | None = None  # as `model`
    draft: DraftConfig = DEFAULT_DRAFT
    draft_given: tuple[str, ...] = ()  # its fields that were asked for; with `-md auto` they stay
    pictures: Pictures = NO_PICTURES
    stop: tuple[str, ...] = ()  # strings before which the text ends
    stop_tokens: tuple[str, ...] = ()  # ids or spellings of further ends of generation
    chat: bool = False  # the prompt is a user's message
    system: str | None = None  # with chat
    template: TemplateOptions = NO_OPTIONS  # with chat
    grammar: GrammarOptions = NO_GRAMMAR

    def __post_init__(self) -> None:
        JobConfig.__post_init__(self)  # super() does not know a class with slots
        if self.n_predict == 0:
            raise UserError(
                "-n/--n-predict 0: a prompt that is only computed has no output: give 1 or more, "
                "or -1 for what the context leaves"
            )
        check_count("-n/--n-predict", self.n_predict)
        check_texts(self.stop, self.system, chat=self.chat)
        for token in self.stop_tokens:
            if not _decode(token.encode(errors="surrogateescape"), "--stop-token"):
                raise UserError("--stop-token '': must not be empty")
        if self.template.given and not self.takes_messages:
            raise UserError(f"{self.template.given} requires --chat: add it, or use pipeinfer chat")
        self._check_grammar()
        if self.strategy not in STRATEGIES:
            raise UserError(f"--strategy {self.strategy!r}: give one of {', '.join(STRATEGIES)}")
        self._check_drafter()
        self._check_synthetic()
        if self.format not in self.formats:
            hint = " (openai requires --prompts)" if self.format == "openai" else ""
            raise UserError(
                f"--format {self.format!r}: give one of {', '.join(self.formats)}{hint}"
            )

    def _check_drafter(self) -> None:
        if self.drafter not in DRAFTERS:
            raise UserError(f"--drafter {self.drafter!r}: give one of {', '.join(DRAFTERS)}")
        needs_model = self.drafter in MODEL_DRAFTERS
        if needs_model and not self.draft_model:
            raise UserError(f"--drafter {self.drafter} needs a draft model: give one with -md")
        if self.draft_model and not needs_model:
            raise UserError(f"-md {self.draft_model}: --drafter {self.drafter} does not use it")
        check_auto_drafter(self.drafter, self.strategy, self.strategy)
        if self.drafter == "none" and self.strategy not in ("iterative", "auto"):
            raise UserError(f"--strategy {self.strategy} needs a drafter: give one with --drafter")

    def _check_grammar(self) -> None:
        option = self.grammar.given
        if option and self.ignore_eos:
            raise UserError(f"--ignore-eos cannot be combined with {option}, which ends the text")
        if option and self.synth_acceptance is not None:
            raise UserError(f"--synth-acceptance cannot be combined with {option}: leave one out")

    def _check_synthetic(self) -> None:
        if self.synth_acceptance is None:
            return
        if self.draft_model:
            raise UserError(f"-md {self.draft_model}: --synth-acceptance needs none: leave it out")
        if self.verify:
            raise UserError(
                "--verify cannot be combined with --synth-acceptance: leave --verify out"
            )

    @property
    def is_json(self) -> bool:
        """Whether a plan is for programs."""
        return self.format == "json"

    @property
    def takes_messages(self) -> bool:
        """Whether there is use for a chat template."""
        return self.chat

    @property
    def formats(self) -> Sequence[OutputFormat]:
        """Forms of the output that there are."""
        return FORMATS

    def on_terminal(self: AnyGenerate) -> AnyGenerate:
        """The same with the terminal that it draws on, if it draws and there is one."""
        if not self.pictures.live:
            return self
        return replace(self, pictures=replace(self.pictures, terminal=find_terminal()))

    @property
    def terminal(self) -> Terminal | None:
        """Where it draws; see on_terminal."""
        return self.pictures.terminal

    def resolved(self: AnyGenerate) -> AnyGenerate:
        """The same with the models' files, and the prompt's text. Raises UserError."""
        from pipeinfer_cli.models.resolve import file_of

        prompt = self.prompt if self.plan_only else Prompt(text=read_prompt(self.prompt))
        draft_model = file_of(self.draft_model)
        template, grammar = self.template.read(), self.grammar.read()
        return JobConfig.resolved(
            replace(
                self, prompt=prompt, draft_model=draft_model, template=template, grammar=grammar
            )
        )

    @property
    def uses_draft_model(self) -> bool:
        """Whether the head's cores are a draft model's."""
        return self.draft_model is not None and self.strategy != "iterative"

    @property
    def drafts(self) -> Sequence[DraftConfig]:
        """How its request drafts."""
        return [] if self.strategy == "iterative" else [self.draft]


def parse_format(text: str) -> OutputFormat:
    """One of FORMATS; GenerateConfig refuses anything else."""
    return cast("OutputFormat", text)


def read_prompt(prompt: Prompt) -> str:
    """The prompt's text. Files and stdin lose one final newline, as in llama.cpp's tools.

    A byte-order mark is dropped there, and the line ends of Windows become newlines.
    Raises UserError if it cannot be read, is not UTF-8, or nothing was given on a terminal.
    """
    text = _read(prompt)
    if not prompt.escape:
        return text
    return _decode(unescape(text).encode(errors="surrogateescape"), "the prompt after -e/--escape")


def _read(prompt: Prompt) -> str:
    if prompt.text is not None:
        return _decode(prompt.text.encode(errors="surrogateescape"), "the prompt argument")
    if prompt.file is not None:
        return _plain_lines(_read_file(prompt.file)).removesuffix("\n")
    return _plain_lines(_read_stdin()).removesuffix("\n")


def _read_file(file: Path) -> str:
    try:
        data = file.read_bytes()
    except OSError as error:
        raise UserError(
            f"cannot read the prompt file {str(file)!r}: {error.strerror}: check -f/--file"
        ) from None
    return _decode(data, f"the prompt file {str(file)!r}")


def _plain_lines(text: str) -> str:
    return text.removeprefix("\ufeff").replace("\r\n", "\n")


def _read_stdin() -> str:
    if sys.stdin is None:
        raise UserError("no prompt and no stdin: give a PROMPT argument or -f FILE")
    if sys.stdin.isatty():
        raise UserError(
            "no prompt: give one as an argument, with -f FILE, or through a pipe on stdin"
        )
    text = _decode(sys.stdin.buffer.read(), "the prompt on stdin")
    if not text:
        raise UserError("the prompt on stdin is empty: pipe a text, or give an argument or -f FILE")
    return text


def _decode(data: bytes, source: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{source} is not UTF-8 text (byte {error.start}): convert it, for example with iconv"
        ) from None


def check_texts(stop: Sequence[str], system: str | None, *, chat: bool) -> None:
    """UserError for stop strings and system texts that are invalid."""
    for text in stop:
        if not _decode(text.encode(errors="surrogateescape"), "--stop"):
            raise UserError("--stop '': must not be empty")
    if system is not None:
        _decode(system.encode(errors="surrogateescape"), "--system")
        if not chat:
            raise UserError("--system requires --chat: add it, or use pipeinfer chat")
