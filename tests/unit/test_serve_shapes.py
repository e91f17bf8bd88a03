"""Grammars and tools of requests to a server, as far as no server is needed."""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import partial

import anyio
import pytest

from byte_vocab import ByteVocab
from pipeinfer_cli.commands.serve.api import answers
from pipeinfer_cli.commands.serve.api.schema import ChatBody
from pipeinfer_cli.commands.serve.api.shapes import Shapes, source_of, tool_use
from pipeinfer_cli.commands.serve.generation import GenerationRequest, GrammarError
from pipeinfer_cli.commands.serve.http.errors import ApiError
from pipeinfer_cli.runtime.answer import Ends
from pipeinfer_cli.runtime.grammar import compiler
from pipeinfer_cli.runtime.grammar.compiler import GrammarCompiler
from pipeinfer_cli.scheduler.runs import SampleParams

MESSAGES = [{"role": "user", "content": "hello"}]
TOOL = {"type": "function", "function": {"name": "pick", "parameters": {"type": "object"}}}
HERMES = "{{ tools }}<tool_call></tool_call>"
REQUEST = GenerationRequest(prompt=(1,), n_max=9, sample=SampleParams(), ends=Ends())


def shaped(template=HERMES, request=REQUEST, **fields):
    body = ChatBody.model_validate({"messages": MESSAGES, **fields})
    shapes = Shapes(ByteVocab(control=[b"<|end|>", b"<tool_call>"]), template)
    shape = shapes.of(source_of(body), tool_use(body.tools, body.tool_choice))
    return shape, anyio.run(partial(shapes.constrained, request, shape))


def test_a_grammar_is_compiled_before_the_request_waits():
    shape, request = shaped(grammar="start: /[xy]/")
    allowed = [token for token in range(256) if request.constraint.mask.allows(token)]
    assert (shape.parser(), allowed) == (None, [*b"xy"])


def test_what_asks_for_nothing_is_no_constraint():
    for fields in ({}, {"grammar": ""}, {"response_format": {"type": "text"}}, {"tools": []}):
        shape, request = shaped(template=None, **fields)
        assert (shape.parser(), request.constraint) == (None, None)


def test_tools_that_may_be_called_leave_the_text_free():
    shape, request = shaped(tools=[TOOL])
    assert ([each.name for each in shape.tools], request.constraint) == (["pick"], None)
    assert len(request.ends.spelled) == 1, "the text needs the mark, which is a control token"
    shape, request = shaped(tools=[TOOL], tool_choice="none", response_format={"type": "text"})
    assert (shape.parser(), request.ends.spelled) == (None, frozenset())


@pytest.mark.parametrize("template", [None, "{{ messages }}", "{{ tools }}<function=x>"])
def test_a_template_without_known_tools_is_an_error_of_the_request(template):
    with pytest.raises(ApiError) as caught:
        shaped(template=template, tools=[TOOL])
    assert (caught.value.status, caught.value.param) == (400, "tools")


def test_without_llguidance_one_line_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(ApiError, match=r"pip install 'pipeinfer\[grammar\]'$") as caught:
        shaped(json_schema={"type": "object"})
    assert (caught.value.status, caught.value.param) == (400, "json_schema")


def test_the_first_grammar_does_not_wait_for_a_tokenizer(monkeypatch):
    vocab = ByteVocab(control=[b"<|end|>", b"<|stop|>"])
    shapes = Shapes(vocab, HERMES)
    stop = vocab.tokenize("<|stop|>", is_whole=False)
    shapes.prepare(stop).join(60)
    monkeypatch.setattr(compiler, "make_tokenizer", None)
    request = replace(REQUEST, ends=Ends(stop_tokens=stop))
    shape = shapes.of(source_of(ChatBody(messages=MESSAGES, grammar='start: "a"')))
    assert anyio.run(shapes.constrained, request, shape).constraint is not None


def test_what_is_wrong_with_grammars_is_not_said_before_one_is_wanted(monkeypatch):
    monkeypatch.setitem(sys.modules, "llguidance", None)
    shapes = Shapes(ByteVocab(), HERMES)
    shapes.prepare(()).join(60)  # an exception of the thread would be a warning, and so an error


@pytest.mark.parametrize("kind", [ValueError, BaseException])
def test_whatever_the_compiler_raises_is_an_error_of_the_request(monkeypatch, kind):
    def start(*_):
        raise kind("a panic\nof two lines")

    monkeypatch.setattr(GrammarCompiler, "start", start)
    with pytest.raises(ApiError, match=r"^json_schema: a panic of two lines$") as caught:
        shaped(json_schema={"const": 1})
    assert caught.value.status == 400


def test_a_text_that_cannot_go_on_is_an_error_of_the_request():
    error = answers._api_error(GrammarError("it cannot go on"))
    assert (error.status, error.code) == (400, "grammar_dead_end")
