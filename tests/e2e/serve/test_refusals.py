"""What `pipeinfer serve` refuses."""

from __future__ import annotations

import http.client
import json
import socket

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving import ANSWER_S
from serving_requests import FORMAT, HELLO, LONG_S, TOOL

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"response_format": {"type": "xml"}}, "response_format"),
        ({"response_format": {**FORMAT, "json_schema": {"schema": 7}}}, "response_format"),
        ({"json_schema": {"type": 7}}, "json_schema"),
        ({"json_schema": {"const": 1e308, "multipleOf": 1e-300}}, "json_schema"),
        ({"json_schema": False}, "json_schema"),
        ({"json_schema": {"enum": ["x" * 70_000]}}, "json_schema"),
        ({"json_schema": {}, "response_format": FORMAT}, "json_schema"),
        ({"json_schema": {}, "ignore_eos": True}, "json_schema"),
        ({"grammar": "root ::= ("}, "grammar"),
        ({"grammar": "start: /(/"}, "grammar"),
        ({"grammar": 7}, "grammar"),
        ({"guided_json": {"type": "object"}}, "guided_json"),
        ({"tools": 7}, "tools"),
        ({"tools": [{"type": "web_search"}]}, "tools"),
        ({"tools": [TOOL, TOOL]}, "tools"),
        ({"tools": [TOOL], "response_format": FORMAT}, "response_format"),
        ({"tools": [TOOL], "tool_choice": "maybe"}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"function": {"name": "x"}}}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        (
            {
                "tools": [
                    {"type": "function", "function": {"name": "x", "parameters": {"$ref": "y"}}}
                ],
                "tool_choice": "required",
            },
            "tools",
        ),
        ({"chat_template_kwargs": {"self": 1}}, "messages"),
        ({"messages": [*HELLO, {"role": "assistant", "tool_calls": 7}, *HELLO]}, "messages"),
        ({"messages": [*HELLO, {"role": "assistant", "tool_calls": [{}]}]}, "messages"),
    ],
)
def test_malformed_shapes_are_refused(server, more, param):
    body = {"messages": HELLO, "max_tokens": 1, **more}
    status, answer = server.ask("/v1/chat/completions", body)
    assert (status, answer["error"]["param"]) == (400, param), answer
    assert "\n" not in answer["error"]["message"]


def test_limits(server):
    paths = {"/nothing": 404, "/v1/completions": 405, "/v1/models/other": 404}
    for path, status in paths.items():
        assert server.ask(path)[0] == status
    assert server.ask("/v1/completions", {"prompt": "x", "n": 2})[1]["error"]["param"] == "n"
    assert server.ask("/health", origin="http://evil.example")[0] == 403
    assert server.ask("/health", origin=server.url)[0] == 200
    assert server.ask("/health", host="evil.example")[0] == 403
    connection = http.client.HTTPConnection(server.host, server.port, timeout=ANSWER_S)
    connection.putrequest("POST", "/v1/completions")
    connection.putheader("content-length", str(1 << 30))
    connection.endheaders()
    answer = connection.getresponse()
    assert (answer.status, "bytes" in json.load(answer)["error"]["message"]) == (413, True)
    connection.close()
    for raw in (b"\x00\r\n\r\n", b"GET / HTTP/1.1\r\nx: " + b"y" * 100_000 + b"\r\n\r\n"):
        with socket.create_connection((server.host, server.port), ANSWER_S) as opened:
            opened.sendall(raw)
            said = b"".join(iter(lambda: opened.recv(4096), b""))
        head, _, body = said.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 400") and json.loads(body)["error"]


PATHS = (
    "/v1/completions",
    "/v1/chat/completions",
    "/v1/responses",
    "/v1/messages",
    "/v1/messages/count_tokens",
    "/tokenize",
    "/detokenize",
)
KEYS = (
    *("prompt", "messages", "input", "content", "tokens", "model", "max_tokens", "temperature"),
    *("stop", "stream", "seed", "top_p", "n", "logprobs", "system", "tools", "stream_options"),
    *("tool_choice", "tool_calls", "response_format", "json_schema", "grammar", "function", "name"),
    *("chat_template_kwargs", "stop_token_ids", "role", "type", "text", "add_special", "é"),
)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["user", "system", "text", 10**30, -1, "\ud800", "\x00", [], {}]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4)
    ),
    max_leaves=12,
)
bodies = st.one_of(
    st.dictionaries(st.sampled_from(KEYS), values, max_size=8).map(
        lambda made: json.dumps(made).encode()
    ),
    values.map(lambda made: json.dumps(made).encode()),
    st.binary(max_size=60),
    st.just(b"[" * 5000),
)


@settings(
    max_examples=(5 if LONG_S else 1) * settings.default.max_examples,  # 1000 by make test-serve
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    deadline=None,
)
@given(path=st.sampled_from(PATHS), body=bodies)
def test_what_is_malformed_is_refused_in_json(server, path, body):
    connection = http.client.HTTPConnection(server.host, server.port, timeout=ANSWER_S)
    try:
        connection.request("POST", path, body)
        answer = connection.getresponse()
        data = answer.read()
        if answer.status == 200:  # it was a request after all
            assert data
            return
        assert 400 <= answer.status < 500, (path, body, data)
        error = json.loads(data)["error"]
        assert error["message"] and error["type"]
    finally:
        connection.close()
