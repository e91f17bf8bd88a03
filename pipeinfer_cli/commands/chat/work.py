"""`pipeinfer chat`: the head answers one message after the other."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from pipeinfer_cli.cluster.emulation import EmulationSettings
from pipeinfer_cli.commands.chat.config import ChatConfig
from pipeinfer_cli.commands.chat.interrupts import Interrupts
from pipeinfer_cli.commands.chat.lines import note, open_lines
from pipeinfer_cli.commands.chat.template import ChatTemplate
from pipeinfer_cli.commands.chat.transcript import Transcript
from pipeinfer_cli.commands.generate import constraint_of, make_request, write_text
from pipeinfer_cli.commands.notes import TrainingNote
from pipeinfer_cli.engine.engine import Engine
from pipeinfer_cli.errors import UserError
from pipeinfer_cli.runtime.answer import Ends
from pipeinfer_cli.runtime.grammar.compiler import GrammarCompiler
from pipeinfer_cli.runtime.head import LEAST_ROOM, Head, room_for
from pipeinfer_cli.runtime.pipeline import Plan
from pipeinfer_cli.runtime.vocabulary import load_vocab

COMMAND = re.compile(r"/[a-z]+\s*")  # a message that begins with a path is none
HELP = (
    "/continue continues the last answer, which Ctrl-C or -n has ended",
    "/reset forgets the conversation",
    "/quit or Ctrl-D ends, and so does Ctrl-C twice",
    "Ctrl-C ends an answer, or clears the line",
    "Enter sends a message; Alt-Enter, or \\ at the end of a line, begins another line of it",
    "a pasted text is one message; the arrow keys find earlier messages",
    "a space at the beginning sends what looks like a command as a message",
)


class ChatWork:
    """A conversation. Raises UserError where it is built if the model cannot have one."""

    def __init__(self, config: ChatConfig, plan: Plan) -> None:
        vocab = load_vocab(plan.files.head_path, verbose=config.verbose)
        template = ChatTemplate.of(
            vocab, config.model, system=config.system, options=config.template
        )
        template.say_note()
        ends = Ends.of(config, vocab)  # says what is wrong with its tokens
        constraint = constraint_of(config, GrammarCompiler(vocab), ends)
        self._config = config
        self._vocab = vocab
        self._transcript = Transcript(vocab, template)
        request = make_request(config, plan, vocab, (), config.n_predict)
        self._request = replace(request, constraint=constraint)
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
            if command:
                self._obey(head, command)
            elif line.strip():
                self._answer(head, partial(self._transcript.ask, line))

    def _obey(self, head: Head, command: str) -> None:
        if command == "/reset":
            self._transcript.reset()
            note("the conversation is forgotten")
        elif command == "/continue":
            self._answer(head, self._transcript.go_on)
        elif command == "/help":
            for line in HELP:
                note(line)
        else:
            note(
                f"unknown command {command}: use /help, /continue, /reset or /quit, or begin with "
                "a space to send it as a message"
            )

    def _answer(self, head: Head, make_prompt: Callable[[], list[int]]) -> None:
        config = self._config
        try:
            prompt = make_prompt()
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
        with self._interrupts.answering():
            answer, stats = write_text(config, head, request, self._vocab, EmulationSettings())
        if config.stats:
            note(stats.line())
        if answer.finish_reason == "length" and request.n_max == room:
            note(f"the context of {config.n_ctx} tokens (-c) ends the answer: /reset frees it")
        if answer.tokens:
            self._transcript.keep(answer.tokens, answer.text)
