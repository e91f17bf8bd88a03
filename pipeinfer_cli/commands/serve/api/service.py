"""What all endpoints share: prompts as token ids, requests to the queue, and the server's state."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

import anyio
from anyio.to_thread import run_sync

from pipeinfer_cli.commands.chat.template import ChatTemplate
from pipeinfer_cli.commands.chat.template_options import EFFORT, RESERVED
from pipeinfer_cli.commands.chat.tools.definitions import NO_TOOLS, ToolUse, for_template
from pipeinfer_cli.commands.chat.transcript import whole_prompt
from pipeinfer_cli.commands.serve.config import ServeConfig
from pipeinfer_cli.commands.serve.generation import (
    DrainingError,
    Generation,
    GenerationRequest,
    QueueFullError,
    RequestQueue,
)
from pipeinfer_cli.commands.serve.http.errors import ApiError
from pipeinfer_cli.commands.serve.metrics import Metrics
from pipeinfer_cli.commands.serve.page.live import LiveFeed
from pipeinfer_cli.engine.vocab import Vocab
from pipeinfer_cli.errors import UserError
from pipeinfer_cli.models.shards import model_digest
from pipeinfer_cli.runtime.answer import Ends
from pipeinfer_cli.runtime.head import check_room
from pipeinfer_cli.runtime.pipeline import Plan
from pipeinfer_cli.runtime.vocabulary import PlainPrompts

SEED_BITS = 32  # of a seed that is drawn
N_TOKENIZERS = 2  # prompts that are tokenized at a time
Phase = Literal["loading", "ready", "draining"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a request says of its answer; None: as the server's options say."""

    n_max: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    seed: int | None = None
    stop: Sequence[str] | None = None
    stop_tokens: Sequence[int] = ()
    ignore_eos: bool | None = None


@dataclass(slots=True, kw_only=True)
class Service:
    """The model, and the way to its pipeline. For HTTP's thread."""

    config: ServeConfig
    plan: Plan
    vocab: Vocab
    queue: RequestQueue
    metrics: Metrics
    live: LiveFeed
    template: ChatTemplate | None  # None: the model has none, or a damaged one
    no_template: str = ""  # why
    is_loaded: bool = False
    is_over: bool = False  # nothing more happens: streams without an end have one now
    begin_s: float = field(default_factory=time.time)
    _tokenizing: anyio.CapacityLimiter | None = None
    _prompts: PlainPrompts | None = None

    @property
    def phase(self) -> Phase:
        """Whether requests are answered."""
        if self.queue.is_closed:
            return "draining"
        return "ready" if self.is_loaded else "loading"

    @property
    def model_name(self) -> str:
        """What the model is called: no path."""
        return self.config.server.alias or self.plan.files.head_path.stem

    @property
    def fingerprint(self) -> str:
        """Changes with the model."""
        return f"fp_{model_digest(self.plan.files)}"

    def check_ready(self) -> None:
        """ApiError unless requests are answered."""
        if self.phase == "loading":
            raise ApiError(503, "the model is being loaded: try again", code="loading")
        if self.phase == "draining":
            raise ApiError(503, "the server is about to end", code="draining")

    async def text_prompt(self, text: str) -> list[int]:
        """A text's token ids, as `generate` makes them. ApiError if it has none."""
        if self._prompts is None:
            self._prompts = PlainPrompts(self.vocab)
        return await self._tokenized(partial(self._prompts.tokens, text), "prompt")

    def check_ids(self, tokens: Sequence[int], param: str) -> None:
        """ApiError unless they are token ids of the vocabulary."""
        if wrong := [each for each in tokens if each >= self.vocab.n_tokens]:
            most = self.vocab.n_tokens - 1
            raise ApiError(400, f"{param}: {wrong[0]}: token ids are from 0 to {most}", param=param)

    async def chat_prompt(
        self,
        messages: Sequence[Mapping[str, Any]],
        variables: Mapping[str, Any],
        use: ToolUse = NO_TOOLS,
    ) -> list[int]:
        """A conversation's token ids, as `generate --chat` makes them. ApiError if it cannot."""
        template = self.template
        if template is None:
            raise ApiError(400, self.no_template)
        for name in RESERVED:
            if name in variables:
                raise ApiError(400, f"chat_template_kwargs: {name} is not for requests")

        if messages[-1].get("tool_calls"):
            raise ApiError(
                400, "messages: the last one calls tools: give their results", param="messages"
            )
        if tools := use.for_template():
            variables = {**variables, "tools": tools}

        def rendered() -> list[int]:
            return whole_prompt(self.vocab, template.text(for_template(messages), **variables))

        return await self._tokenized(rendered, "messages")

    async def tokenize(self, text: str, *, is_whole: bool) -> list[int]:
        """The ids of any text."""
        return await self._tokenized(
            partial(self.vocab.tokenize, text, is_whole=is_whole), "content"
        )

    async def _tokenized(self, make: Callable[[], list[int]], param: str) -> list[int]:
        """Elsewhere: a long text takes a while, in which other requests are answered."""
        if self._tokenizing is None:
            self._tokenizing = anyio.CapacityLimiter(N_TOKENIZERS)
        try:
            return await run_sync(make, limiter=self._tokenizing)
        except UserError as error:
            raise ApiError(400, str(error), param=param) from None

    def request(self, prompt: Sequence[int], options: Options) -> GenerationRequest:
        """What to generate. ApiError if it cannot be done."""
        config = self.config
        n_predict = config.n_predict if options.n_max is None else options.n_max
        try:
            room = check_room(prompt, config.n_ctx, n_predict)
        except UserError as error:
            code = "context_length_exceeded" if prompt else None
            raise ApiError(400, str(error), code=code) from None
        self.check_ids(options.stop_tokens, "stop_token_ids")
        try:
            sample = replace(config.sample, **self._sampling(options))
            ends = Ends.of(config, self.vocab)
        except UserError as error:  # it names the command line's option
            option, _, rest = str(error).partition(" ")
            name = option.lstrip("-").replace("-", "_").replace("temp", "temperature")
            raise ApiError(400, f"{name} {rest}", param=name) from None
        return GenerationRequest(
            prompt=tuple(prompt),
            n_max=min(n_predict, room),
            sample=sample,
            ends=replace(
                ends,
                ignore_eos=ends.ignore_eos if options.ignore_eos is None else options.ignore_eos,
                stop=ends.stop if options.stop is None else tuple(options.stop),
                stop_tokens=frozenset(ends.stop_tokens) | set(options.stop_tokens),
            ),
        )

    def _sampling(self, options: Options) -> dict[str, Any]:
        given = {
            "temperature": options.temperature,
            "top_k": 0 if options.top_k == -1 else options.top_k,
            "top_p": options.top_p,
            "min_p": options.min_p,
            "seed": options.seed,
        }
        if options.seed == -1 or (options.seed is None and not self.config.has_seed):
            given["seed"] = secrets.randbits(SEED_BITS)
        return {name: value for name, value in given.items() if value is not None}

    def submit(self, request: GenerationRequest) -> Generation:
        """Puts it into the queue. ApiError if that is full. Whoever calls this calls `cancel`."""
        generation = Generation(request, self.config.server.time_limit_s)
        try:
            self.queue.put(generation)
        except QueueFullError:
            self.metrics.on_refusal("refused")
            raise ApiError(
                429, f"{len(self.queue)} requests are waiting: try again later", code="queue_full"
            ) from None
        except DrainingError:
            raise ApiError(503, "the server is about to end", code="draining") from None
        return generation

    def cancel(self, generation: Generation) -> None:
        """Nobody waits for it any more. One that has ended is ignored."""
        generation.close()
        if not generation.has_ended:
            self.queue.cancel(generation)


def effort_variables(variables: Mapping[str, Any] | None, effort: str | None) -> Mapping[str, Any]:
    """Variables of the chat template, with the effort that a request asks for."""
    given = dict(variables or {})
    return given if effort is None else {EFFORT: effort, **given}
