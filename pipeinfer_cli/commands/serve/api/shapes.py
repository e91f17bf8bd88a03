"""What answers have to be like: grammars that texts follow, and calls of tools.

A grammar is compiled on a thread of its own before its request enters the queue, so that the
pipeline's loop does not wait for it.
"""

from __future__ import annotations

import re
import secrets
import threading
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import anyio
from anyio.to_thread import run_sync

from pipeinfer_cli.commands.chat.tools.definitions import NO_TOOLS, Tool, ToolUse
from pipeinfer_cli.commands.chat.tools.formats import ToolFormat, format_of, spelled_tokens
from pipeinfer_cli.commands.chat.tools.parser import ToolParser
from pipeinfer_cli.commands.serve.api.schema import Common
from pipeinfer_cli.commands.serve.generation import GenerationRequest
from pipeinfer_cli.commands.serve.http.errors import ApiError
from pipeinfer_cli.engine.vocab import Vocab
from pipeinfer_cli.errors import UserError
from pipeinfer_cli.runtime.grammar.compiler import GrammarCompiler
from pipeinfer_cli.runtime.grammar.matcher import GrammarState
from pipeinfer_cli.runtime.grammar.source import GrammarSource, of_field, of_response_format

MAX_GRAMMAR_CHARS = 1 << 16  # compiling time grows faster than the text: about 1 s for this
ID_BYTES = 5  # templates of Mistral's know ids of 9 letters and digits only
FIRST_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What one answer has to be like."""

    source: GrammarSource | None = None
    tools: tuple[Tool, ...] = ()  # functions that it may call
    form: ToolFormat | None = None  # of the calls
    spelled: Mapping[str, int] = field(default_factory=dict)  # control tokens of the form

    def parser(self) -> ToolParser | None:
        """What finds calls in the answer; None: there are none."""
        return ToolParser(self.form, self.tools) if self.form is not None else None


class Shapes:
    """Makes shapes for the model, and grammars of them."""

    def __init__(self, vocab: Vocab, template: str | None) -> None:
        """`template` is the source of the chat template."""
        self._vocab, self._template = vocab, template
        self._compiler = GrammarCompiler(vocab)
        self._lock = threading.Lock()  # the compiler is for one thread at a time
        self._compiling: anyio.CapacityLimiter | None = None

    def prepare(self, stop_tokens: Collection[int]) -> threading.Thread:
        """What the first grammar needs is made by this thread, while the model is loaded."""
        thread = threading.Thread(target=self._prepare, args=(stop_tokens,), daemon=True)
        thread.start()
        return thread

    def _prepare(self, stop_tokens: Collection[int]) -> None:
        try:
            with self._lock:
                self._compiler.prepare(stop_tokens)
        except BaseException:  # noqa: BLE001 (what is wrong is said to whoever wants a grammar)
            return

    def of(self, source: GrammarSource | None, use: ToolUse = NO_TOOLS) -> Shape:
        """ApiError if the model knows no tools, or if both cannot be had."""
        if not use.callable:
            return Shape(source=source)
        if source is not None:
            name = param_of(source.name)
            raise ApiError(
                400, f"{name} cannot be combined with tools: give one of them", param=name
            )
        try:
            form = format_of(self._template or "")
            spelled = spelled_tokens(self._vocab, form.marks)
            source = form.grammar(use, spelled) if use.is_forced else None
        except UserError as error:
            raise ApiError(400, str(error), param="tools") from None
        return Shape(source=source, tools=use.callable, form=form, spelled=spelled)

    async def constrained(self, request: GenerationRequest, shape: Shape) -> GenerationRequest:
        """The request with what its text must follow. ApiError if the grammar is wrong."""
        ends = replace(request.ends, spelled=frozenset(shape.spelled.values()))
        request, source = replace(request, ends=ends), shape.source
        if source is None:
            return request
        param = param_of(source.name)
        if ends.ignore_eos:
            raise ApiError(
                400, f"ignore_eos cannot be combined with {param}, which ends the text", param=param
            )
        if len(source.text) > MAX_GRAMMAR_CHARS:
            raise ApiError(
                400,
                f"{source.name} has {len(source.text)} characters: at most {MAX_GRAMMAR_CHARS} "
                "are allowed",
                param=param,
            )
        if self._compiling is None:
            self._compiling = anyio.CapacityLimiter(1)
        try:
            state = await run_sync(
                self._compiled, source, ends.stop_tokens, limiter=self._compiling
            )
        except UserError as error:
            raise ApiError(400, str(error), param=param) from None
        return replace(request, constraint=state)

    def _compiled(self, source: GrammarSource, stop_tokens: Collection[int]) -> GrammarState:
        try:
            with self._lock:
                state = self._compiler.start(source, stop_tokens)
                _ = state.mask  # the first one, which may take longest
        except UserError:
            raise
        except BaseException as error:  # noqa: BLE001 (a panic of llguidance is not an Exception)
            why = " ".join(str(error).split())
            raise UserError(f"{source.name}: {why or type(error).__name__}") from None
        return state


def source_of(body: Common) -> GrammarSource | None:
    """The grammar of a body in OpenAI's older dialects. ApiError if it is invalid."""
    given = {
        key: value
        for key in ("response_format", "grammar", "json_schema")
        if (value := getattr(body, key)) not in (None, "")
    }
    if len(given) > 1:
        first, second, *_ = given
        raise ApiError(400, f"{first} and {second}: give one of them", param=second)
    try:
        for key, value in given.items():
            return of_field(key, value)
    except UserError as error:
        raise ApiError(400, str(error), param=next(iter(given))) from None
    return None


def response_format_source(value: Any, param: str) -> GrammarSource | None:
    """The same of a single response format. ApiError if it is invalid."""
    try:
        return of_response_format(value)
    except UserError as error:
        raise ApiError(400, str(error), param=param) from None


def tool_use(tools: object, choice: object, *, parallel: object = None) -> ToolUse:
    """The tools of a request in OpenAI's form. ApiError if they are invalid."""
    try:
        return ToolUse.of(tools, choice, parallel_tool_calls=parallel)
    except UserError as error:
        raise ApiError(400, str(error), param=param_of(str(error))) from None


def param_of(message: str) -> str | None:
    """The field that a message, or a grammar's name, begins with."""
    found = FIRST_WORD.match(message)
    return found[0] if found else None


def call_id() -> str:
    """A new id for a call."""
    return secrets.token_hex(ID_BYTES)[:9]
