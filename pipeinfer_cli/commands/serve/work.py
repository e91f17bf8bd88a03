"""The head's work in a server: HTTP in a thread of its own, and the pipeline's loop."""

from __future__ import annotations

import os
import sys
from contextlib import closing

from pipeinfer_cli import console, log
from pipeinfer_cli.commands.chat.template import ChatTemplate
from pipeinfer_cli.commands.generate import make_request
from pipeinfer_cli.commands.serve.address import address, written
from pipeinfer_cli.commands.serve.api.service import Service
from pipeinfer_cli.commands.serve.api.shapes import Shapes
from pipeinfer_cli.commands.serve.app import make_app
from pipeinfer_cli.commands.serve.config import ServeConfig
from pipeinfer_cli.commands.serve.generation import RequestQueue
from pipeinfer_cli.commands.serve.http.server import HttpServer
from pipeinfer_cli.commands.serve.loop import ServeLoop
from pipeinfer_cli.commands.serve.metrics import Metrics
from pipeinfer_cli.commands.serve.page.live import LiveFeed
from pipeinfer_cli.engine.engine import Engine
from pipeinfer_cli.engine.vocab import Vocab
from pipeinfer_cli.errors import UserError
from pipeinfer_cli.launch import environment, signals
from pipeinfer_cli.runtime.answer import Ends
from pipeinfer_cli.runtime.drafters import Drafters
from pipeinfer_cli.runtime.head import Head
from pipeinfer_cli.runtime.pipeline import Plan
from pipeinfer_cli.runtime.vocabulary import load_vocab

# Seconds for which a thread of Python may keep another one waiting. The usual 5 ms would add to the
# time of a token whenever HTTP has something to do.
SWITCH_S = 0.0005


class ServeWork:
    """Listens before the model is loaded. UserError if something cannot be used."""

    def __init__(self, config: ServeConfig, plan: Plan) -> None:
        self._config, self._plan = config, plan
        self._vocab = load_vocab(plan.files.head_path, verbose=config.verbose)
        ends = Ends.of(config, self._vocab)  # says what is wrong with its tokens
        template, why = _template(config, self._vocab)
        self._drafters = Drafters(config, self._vocab, plan.draft_cores)
        self._like = make_request(config, plan, self._vocab, (), 1, self._drafters)
        self._queue, self._metrics = RequestQueue(config.server.queue), Metrics()
        self._live = LiveFeed()
        self._service = Service(
            config=config,
            plan=plan,
            vocab=self._vocab,
            queue=self._queue,
            metrics=self._metrics,
            live=self._live,
            template=template,
            no_template=why,
        )
        source = config.template.read().source or self._vocab.chat_template
        self._http = HttpServer(config.server)
        sys.setswitchinterval(SWITCH_S)
        shapes = Shapes(self._vocab, source)
        shapes.prepare(ends.stop_tokens)
        self._http.start(make_app(self._service, shapes))
        if not config.server.is_local and config.server.api_key is None:
            console.note(
                f"--host {config.server.host}: whoever reaches this port can use the model: "
                "give a key with --api-key-file"
            )
        log.note(f"{self._http.url}: loading the model", verbose=True)

    def __call__(self, engine: Engine) -> None:
        """Answers requests until a signal comes; those in flight may end."""
        config = self._config
        with (
            closing(self._http),
            closing(self._drafters),
            signals.deferred_signals() as stop_request,
        ):
            head = Head(self._plan, engine, timeout_s=config.timeout_s)
            loop = ServeLoop(
                config,
                self._like,
                head=head,
                vocab=self._vocab,
                drafters=self._drafters,
                queue=self._queue,
                metrics=self._metrics,
            )
            n_cached = config.n_ctx
            fields = address(config.server, self._http.port, os.environ)
            with (
                head.streams(
                    config.strategy, like=self._like, n_cached=n_cached, observer=self._live
                ) as streams,
                written(config.server.write_url, fields),
            ):
                self._live.listen(streams.is_drafted)
                self._queue.listen(engine.nudge)
                self._service.is_loaded = True
                log.note(f"{self._http.url}: ready", verbose=True)
                if environment.job_mark(os.environ):
                    log.note(f"from a laptop: {fields['tunnel']}", verbose=True)
                try:
                    loop.run(streams, stop_request)
                finally:
                    self._queue.deafen()
                    self._service.is_over = True
        log.note("ended", verbose=True)


def _template(config: ServeConfig, vocab: Vocab) -> tuple[ChatTemplate | None, str]:
    """The chat template, or why there is none."""
    try:
        template = ChatTemplate.of(vocab, config.model, system=None, options=config.template)
    except UserError as error:
        if config.template.given:
            raise
        return None, str(error)
    template.say_note()
    return template, ""
