"""`pipeinfer chat`: the head answers one message after the other."""

from __future__ import annotations

import re
from dataclasses import replace

from pipeinfer_cli.cluster.emulation import EmulationSettings
from pipeinfer_cli.commands.chat.config import ChatConfig
from pipeinfer_cli.commands.chat.interrupts import Interrupts
from pipeinfer_cli.commands.chat.lines import note, open_lines
from pipeinfer_cli.commands.chat.template import ChatTemplate
from pipeinfer_cli.commands.chat.transcript import Transcript
from pipeinfer_cli.commands.generate import make_request, write_text
from pipeinfer_cli.commands.notes import TrainingNote
from pipeinfer_cli.engine.engine import Engine
from pipeinfer_cli.engine.vocab import Vocab
from pipeinfer_cli.errors import UserError
from pipeinfer_cli.runtime.answer import Answer, ids_of
from pipeinfer_cli.runtime.head import LEAST_ROOM, Head, room_for
from pipeinfer_cli.runtime.pipeline import Plan

COMMAND = re.compile(r"/[a-z]+\s*")  # a message that begins with a path is none


class ChatWork:
    """A conversation. Raises UserError where it is built if the model cannot have one."""

    def __init__(self, config: ChatConfig, plan: Plan) -> None:
        vocab = Vocab(plan.files.head_path, verbose=config.verbose)
        template = ChatTemplate.of(
            vocab, config.model, system=config.system, options=config.template
        )
        template.say_note()
        ids_of(vocab, config.stop_tokens)  # says what is wrong with them
        self._config = config
        self._vocab = vocab
        self._transcript = Transcript(vocab, template)
        self._request = make_request(config, plan, vocab, (), config.n_predict)
        self._plan = plan
        self._note_training = TrainingNote(config, plan)
        self._interrupts = Interrupts()

    def __call__(self, engine: Engine) -> None:
        """Answers lines until they end, or one says /quit."""
        head = Head(
            self._plan, engine, timeout_s=self._config.timeout_s, stop_requested=self._interrupts
        )
        lines = open_lines()
        while (line := lines.read()) is not None:
            command = line.strip() if COMMAND.fullmatch(line) else ""
            if command in ("/quit", "/exit"):
                return
            if command == "/reset":
                self._transcript.reset()
                note("the conversation is forgotten")
            elif command:
                note(
                    f"unknown command {command}: use /reset or /quit, or begin with a space to "
                    "send it as a message"
                )
            elif line.strip():
                self._answer(head, line)

    def _answer(self, head: Head, message: str) -> None:
        config = self._config
        try:
            prompt = self._transcript.ask(message)
        except UserError as error:
            note(str(error))
            return
        room = room_for(prompt, config.n_ctx)
        if room < LEAST_ROOM:
            note(
                f"the conversation and this message have {len(prompt)} tokens, the context "
                f"{config.n_ctx} (-c): /reset, or a shorter message"
            )
            return
        self._note_training(len(prompt) + 1)
        request = replace(
            self._request, prompt=prompt, n_max=min(config.n_predict, room), reuse=True
        )
        answer = Answer()
        with self._interrupts.answering():
            stats = write_text(config, head, request, self._vocab, answer, EmulationSettings())
        if config.stats:
            note(stats.line())
        if answer.finish_reason == "length" and request.n_max == room:
            note(f"the context of {config.n_ctx} tokens (-c) ends the answer: /reset frees it")
        if answer.tokens:
            self._transcript.keep(answer.tokens, answer.text)
