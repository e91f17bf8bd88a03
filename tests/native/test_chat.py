"""The conversation's loop, with answers that are made up."""

import signal
from types import SimpleNamespace

import pytest

from pipeinfer_cli.checks import MAX_COUNT
from pipeinfer_cli.commands.chat import work
from pipeinfer_cli.commands.chat.config import ChatConfig
from pipeinfer_cli.commands.chat.interrupts import Interrupts
from pipeinfer_cli.commands.generate_config import Prompt
from pipeinfer_cli.engine.config import ONE_THREAD
from pipeinfer_cli.errors import Interrupted
from pipeinfer_cli.launch import local_rank
from pipeinfer_cli.runtime.answer import Answer
from pipeinfer_cli.scheduler.metrics import Counters, RequestInfo, measure
from support import smollm2

pytestmark = pytest.mark.native

INFO = RequestInfo(strategy="iterative", n_ranks=1, n_stages=1, n_prompt=3)


class Script:
    """Lines, and what comes of each message: an answer, or None for an interrupted one."""

    def __init__(self, monkeypatch, lines, *, n_ctx=512, interrupted=()):
        self.prompts = []
        self.requests = []
        self._lines = iter(lines)
        self._interrupted = interrupted
        monkeypatch.setattr(work, "open_lines", lambda: self)
        monkeypatch.setattr(work, "write_text", self.write_text)
        config = ChatConfig(
            model="smollm2",
            prompt=Prompt(text=""),
            chat=True,
            n_ctx=n_ctx,
            n_predict=MAX_COUNT,
            strategy="iterative",
            drafter="none",
            stats=True,
        )
        files = SimpleNamespace(head_path=smollm2())
        plan = SimpleNamespace(
            files=files,
            model=SimpleNamespace(n_ctx_train=8192),
            profile=None,
            prior=lambda _draft: None,
            draft_cores=ONE_THREAD,
            inexact="",
            is_exact=True,
            changes={},
            states=None,
        )
        work.ChatWork(config, plan)(SimpleNamespace(watched=False))

    def read(self):
        return next(self._lines, None)

    def write_text(self, config, head, request, vocab, emulation):
        answer = Answer()
        self.requests.append(request)
        pieces = [vocab.piece(token, is_special=True) for token in request.prompt]
        self.prompts.append(b"".join(pieces).decode())
        if (turn := len(self.prompts)) in self._interrupted:
            answer.text = "So far" if self._interrupted[turn] else ""
            answer.tokens += vocab.tokenize(answer.text, is_whole=False)
            answer.finish_reason = "interrupted"
            return answer, measure(INFO, 0.0, [], Counters())
        answer.tokens += [*vocab.tokenize("Yes.", is_whole=False), vocab.eos]
        answer.text, answer.finish_reason = "Yes.", "stop"
        return answer, measure(INFO, 0.0, [1.0], Counters())


def test_turns_follow_one_another(monkeypatch, capsys):
    script = Script(monkeypatch, ["One?", "  ", "Two?", "/quit", "Three?"])
    first, second = script.prompts
    assert second.startswith(first + "Yes.<|im_end|>")
    assert second.endswith("<|im_start|>user\nTwo?<|im_end|>\n<|im_start|>assistant\n")
    assert all(request.reuse for request in script.requests)
    assert [request.n_max for request in script.requests] == [
        512 - len(request.prompt) + 1 for request in script.requests
    ]
    assert capsys.readouterr().err.count("pipeinfer: iterative, 1 ranks") == 2


def test_a_reset_forgets(monkeypatch, capsys):
    first, second = Script(monkeypatch, ["One?", "/reset", "One?"]).prompts
    assert first == second
    assert "forgotten" in capsys.readouterr().err


def test_what_was_said_before_ctrl_c_is_kept(monkeypatch):
    first, second = Script(monkeypatch, ["One?", "Two?"], interrupted={1: True}).prompts
    assert second.startswith(first + "So far<|im_end|>")


def test_a_message_is_not_kept_if_nothing_was_said(monkeypatch):
    _, second = Script(monkeypatch, ["One?", "Two?"], interrupted={1: False}).prompts
    assert "One?" not in second


def test_an_answer_that_ctrl_c_has_ended_is_continued(monkeypatch, capsys):
    lines = ["/continue", "One?", "/continue", "Two?", "/help", "/other"]
    first, more, third = Script(monkeypatch, lines, interrupted={1: True}).prompts
    assert more == first + "So far"
    assert third.startswith(first + "So farYes.<|im_end|>")
    said = capsys.readouterr().err
    assert "no answer to continue" in said
    assert "pipeinfer: /reset forgets the conversation\n" in said
    assert "unknown command /other" in said


def test_a_conversation_that_fills_the_context_goes_on_after_a_reset(monkeypatch, capsys):
    long = "many words " * 60
    script = Script(monkeypatch, [long, "One?", "/reset", "Two?"], n_ctx=100)
    assert [("One?" in prompt, "Two?" in prompt) for prompt in script.prompts] == [
        (True, False),
        (False, True),
    ]
    assert "the context 100 (-c): /reset" in capsys.readouterr().err


def test_the_first_ctrl_c_ends_the_answer_and_a_later_one_everything(monkeypatch):
    monkeypatch.setattr(local_rank, "REPEAT_S", 0.0)
    interrupts = Interrupts()
    before = signal.getsignal(signal.SIGINT)
    for _ in range(2):
        assert not interrupts()
        with interrupts.answering():
            assert not interrupts()
            signal.raise_signal(signal.SIGINT)
            assert interrupts()
            with pytest.raises(Interrupted):
                signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is before
