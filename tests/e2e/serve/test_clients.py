"""Clients that people use, and `pipeinfer serve`."""

from __future__ import annotations

import json
import os
import shutil
import sys

import anthropic
import openai
import pytest

from serving_requests import HELLO, N_CTX, OTHER, PICK, SCHEMA, TOOL
from support import check_output, run

pytestmark = pytest.mark.e2e


def test_openais_client(client, server):
    whole = client.completions.create(model="tiny", prompt="hello", max_tokens=9)
    assert whole.usage.completion_tokens == 9
    assert whole.choices[0].finish_reason == "length"
    chat = client.chat.completions.create(model="other", messages=HELLO, max_completion_tokens=9)
    assert (chat.model, chat.choices[0].message.role) == ("other", "assistant")
    *chunks, last = client.chat.completions.create(
        model="tiny",
        messages=[{"role": "user", "content": [{"type": "text", "text": "hello"}]}],
        max_tokens=9,
        stream=True,
        stream_options={"include_usage": True},
    )
    text = "".join(each.choices[0].delta.content or "" for each in chunks)
    assert text == chat.choices[0].message.content
    assert (last.choices, last.usage.completion_tokens) == ([], 9)
    drawn = [
        client.chat.completions.create(
            model="tiny", messages=HELLO, max_tokens=12, temperature=1.5, extra_body=more
        )
        for more in ({}, {}, {"seed": 5}, {"seed": 5})
    ]
    texts = [each.choices[0].message.content for each in drawn]
    assert texts[2] == texts[3] and len({*texts}) == 3, "without a seed one is drawn"
    assert [each.id for each in client.models.list()] == ["tiny"]
    with pytest.raises(openai.BadRequestError, match="logprobs is not supported"):
        client.completions.create(model="tiny", prompt="hello", logprobs=3)
    with pytest.raises(openai.BadRequestError, match=f"context {N_CTX}") as caught:
        client.completions.create(model="tiny", prompt="x" * 5000)
    assert caught.value.code == "context_length_exceeded"


def test_openais_client_with_responses(client, server):
    chat = client.chat.completions.create(
        model="tiny",
        messages=[{"role": "system", "content": "be brief"}, *HELLO],
        max_tokens=9,
    )
    text = chat.choices[0].message.content
    asked = {"model": "tiny", "instructions": "be brief", "input": "hello", "max_output_tokens": 9}
    whole = client.responses.create(**asked)
    assert (whole.output_text, whole.status) == (text, "incomplete")
    with client.responses.stream(**asked) as stream:
        events = list(stream)
    assert (events[0].type, events[-1].type) == ("response.created", "response.incomplete")
    assert events[-1].response.output_text == text
    deltas = [each.delta for each in events if each.type == "response.output_text.delta"]
    assert "".join(deltas) == text


def test_anthropics_client(server):
    with anthropic.Anthropic(base_url=server.url, api_key="any", max_retries=0) as client:
        asked = {"model": "tiny", "system": "be brief", "messages": HELLO, "max_tokens": 9}
        whole = client.messages.create(**asked)
        assert (whole.stop_reason, whole.usage.output_tokens) == ("max_tokens", 9)
        with client.messages.stream(**asked) as stream:
            assert "".join(stream.text_stream) == whole.content[0].text
            assert stream.get_final_message().stop_reason == "max_tokens"
        count = client.messages.count_tokens(
            model="tiny", system="be brief", messages=HELLO
        ).input_tokens
        usage = whole.usage
        assert count == usage.input_tokens + usage.cache_read_input_tokens
        stop = whole.content[0].text[3]
        cut = client.messages.create(**asked, stop_sequences=["never", stop])
        assert (cut.stop_reason, cut.stop_sequence) == ("stop_sequence", stop)
        with pytest.raises(anthropic.BadRequestError, match="max_tokens"):
            client.messages.create(**{**asked, "max_tokens": 0})


def test_tools_of_openais_client(client):
    # the model is random, and would go on with calls
    asked = {"model": "tiny", "messages": HELLO, "tools": [OTHER, TOOL], "max_tokens": 500}
    asked["parallel_tool_calls"] = False
    named = {"type": "function", "function": {"name": "pick"}}
    whole = client.chat.completions.create(**asked, tool_choice=named).choices[0]
    assert (whole.finish_reason, whole.message.content) == ("tool_calls", None)
    (call,) = whole.message.tool_calls
    assert call.function.name == "pick"
    assert json.loads(call.function.arguments)["kind"] in ("ab", "cd")
    *chunks, last = client.chat.completions.create(**asked, tool_choice=named, stream=True)
    (delta,) = [each for chunk in chunks for each in chunk.choices[0].delta.tool_calls or ()]
    assert (delta.index, delta.function.name) == (0, "pick")
    assert delta.function.arguments == call.function.arguments
    assert last.choices[0].finish_reason == "tool_calls"
    history = [*HELLO, whole.message, {"role": "tool", "tool_call_id": call.id, "content": "done"}]
    short = {**asked, "messages": history, "max_tokens": 9}
    answer = client.chat.completions.create(**short, tool_choice="none").choices[0]
    assert (answer.finish_reason, answer.message.tool_calls) == ("length", None)
    plain = client.chat.completions.create(model="tiny", messages=HELLO, max_tokens=9)
    unused = {"messages": HELLO, "max_tokens": 9, "tool_choice": "none"}
    same = client.chat.completions.create(**{**asked, **unused})
    assert same.choices[0].message.content == plain.choices[0].message.content
    free = {**asked, "messages": HELLO, "max_tokens": 9}
    text = client.chat.completions.create(**free).choices[0].message.content
    chunks = list(client.chat.completions.create(**free, stream=True))
    assert "".join(each.choices[0].delta.content or "" for each in chunks) == text


def test_tools_of_the_other_dialects(client, server):
    flat = {"type": "function", "name": "pick", "parameters": PICK, "strict": True}
    asked = {"model": "tiny", "tools": [flat], "tool_choice": "required"}
    asked |= {"parallel_tool_calls": False, "max_output_tokens": 500}
    (item,) = client.responses.create(**asked, input="hello").output
    assert (item.type, item.name, json.loads(item.arguments)["kind"] in ("ab", "cd")) == (
        *("function_call", "pick"),
        True,
    )
    with client.responses.stream(**asked, input="hello") as stream:
        (streamed,) = stream.get_final_response().output
    assert (streamed.name, streamed.arguments) == (item.name, item.arguments)
    output = {"type": "function_call_output", "call_id": item.call_id, "output": "done"}
    history = [{"role": "user", "content": "hello"}, item.model_dump(exclude_none=True), output]
    after = {**asked, "tool_choice": "none", "max_output_tokens": 9, "input": history}
    text = client.responses.create(**after).output_text

    with anthropic.Anthropic(base_url=server.url, api_key="any", max_retries=0) as other:
        tool = {"name": "pick", "input_schema": PICK}
        choice = {"type": "any", "disable_parallel_tool_use": True}
        asked = {"model": "tiny", "max_tokens": 500, "tools": [tool], "tool_choice": choice}
        whole = other.messages.create(**asked, messages=HELLO)
        (block,) = whole.content
        assert (whole.stop_reason, block.type, block.name) == ("tool_use", "tool_use", "pick")
        assert block.input == json.loads(item.arguments)
        with other.messages.stream(**asked, messages=HELLO) as stream:
            (streamed,) = stream.get_final_message().content
        assert (streamed.name, streamed.input) == (block.name, block.input)
        result = {"type": "tool_result", "tool_use_id": block.id, "content": "done"}
        history = [
            *HELLO,
            {"role": "assistant", "content": [block.model_dump(exclude_none=True)]},
            {"role": "user", "content": [result]},
        ]
        last = {**asked, "max_tokens": 9, "tool_choice": {"type": "none"}, "messages": history}
        assert other.messages.create(**last).content[0].text == text


def curl(server, path, body=None, *more):
    """What curl prints, if the status is not an error."""
    command = ["curl", "--silent", "--show-error", "--fail-with-body", "--no-buffer", *more]
    if body is not None:
        command += ["--header", "content-type: application/json", "--data", json.dumps(body)]
    return check_output([*command, server.url + path])


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is missing")
def test_curl(server):
    short = {"model": "tiny", "max_tokens": 9}
    text = server.text(prompt="hello", max_tokens=9)
    whole = json.loads(curl(server, "/v1/completions", {**short, "prompt": "hello"}))
    assert whole["choices"][0]["text"] == text
    chat = {**short, "messages": HELLO}
    said = json.loads(curl(server, "/v1/chat/completions", chat))["choices"][0]["message"]
    streams = {
        "/v1/completions": ({**short, "prompt": "hello"}, text),
        "/v1/chat/completions": (chat, said["content"]),
        "/v1/messages": (chat, said["content"]),
        "/v1/responses": ({"input": "hello", "max_output_tokens": 9}, said["content"]),
    }
    for path, (body, expected) in streams.items():
        lines = curl(server, path, {**body, "stream": True}).splitlines()
        data = [line.removeprefix("data: ") for line in lines if line.startswith("data: {")]
        assert "".join(map(piece, map(json.loads, data))) == expected, path
    message = json.loads(curl(server, "/v1/messages", chat))
    assert message["content"][0]["text"] == said["content"]
    count = {"model": "tiny", "messages": HELLO}
    counted = json.loads(curl(server, "/v1/messages/count_tokens", count))["input_tokens"]
    tokens = json.loads(curl(server, "/tokenize", {"content": "hello"}))["tokens"]
    assert counted > len(tokens) > 0
    text = json.loads(curl(server, "/detokenize", {"tokens": tokens}))["content"]
    assert text.endswith("hello")
    assert json.loads(curl(server, "/v1/models"))["data"][0]["id"] == "tiny"
    assert json.loads(curl(server, "/health"))["status"] == "ok"
    assert json.loads(curl(server, "/props"))["pipeline"]["ranks"]
    assert "pipeinfer_generated_tokens_total" in curl(server, "/metrics")
    assert curl(server, "/").startswith("<!doctype html>")
    refused = run(["curl", "--silent", "--fail-with-body", server.url + "/v1/models/other"])
    assert refused.returncode == 22 and json.loads(refused.stdout)["error"]["message"]


def piece(event):
    """The text of an event, in whatever dialect."""
    if choices := event.get("choices"):
        return choices[0].get("text") or choices[0].get("delta", {}).get("content") or ""
    if event["type"] == "response.output_text.delta":
        return event["delta"]
    return event["delta"]["text"] if event["type"] == "content_block_delta" else ""


def test_llm(server, tmp_path):
    """Simon Willison's command, with the lines of docs/serve.md in its folder."""
    models = [
        {"model_id": "tiny", "model_name": "tiny", "supports_schema": True},
        {"model_id": "plain", "model_name": "tiny", "completion": True},
    ]
    # JSON is YAML
    place = tmp_path / "extra-openai-models.yaml"
    place.write_text(json.dumps([{**each, "api_base": f"{server.url}/v1"} for each in models]))
    env = {**os.environ, "LLM_USER_PATH": str(tmp_path)}

    def llm(*more):
        return check_output([sys.executable, "-m", "llm", *more], env=env).removesuffix("\n")

    chat = {"messages": HELLO, "max_tokens": 9}
    _, body = server.ask("/v1/chat/completions", chat)
    text = body["choices"][0]["message"]["content"]
    options = ("-o", "max_tokens", "9")
    assert llm("-m", "tiny", "hello", *options) == text
    assert llm("-m", "tiny", "--no-stream", "hello", *options) == text
    history = [*HELLO, {"role": "assistant", "content": text}, {"role": "user", "content": "more"}]
    _, body = server.ask("/v1/chat/completions", {**chat, "messages": history})
    assert llm("--continue", "more", *options) == body["choices"][0]["message"]["content"]
    assert llm("-m", "plain", "hello", *options) == server.text(prompt="hello", max_tokens=9)
    assert json.loads(llm("-m", "tiny", "hello", "--schema", json.dumps(SCHEMA)))["name"]
