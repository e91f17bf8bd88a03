"""`pipeinfer serve`, as clients call it."""

from __future__ import annotations

import http.client
import json
import os
import random
import re
import signal
import socket
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import anthropic
import openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batches import write_items
from serving import ANSWER_S, TEMPLATE, Server
from small_models import talking_llama
from support import check_output, mpiexec, pipeinfer, run

pytestmark = pytest.mark.e2e

LONG_S = float(os.environ.get("TEST_SERVE") or 0)  # of the long storm
N_CLIENTS = 32
N_PARALLEL = 3
N_CTX = 4096  # endless texts are long
HELLO = [{"role": "user", "content": "hello"}]
ENDLESS = {"prompt": "hello", "ignore_eos": True, "stream": True}
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 8}, "kind": {"enum": ["ab", 7]}},
    "required": ["name", "kind"],
    "additionalProperties": False,
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": SCHEMA}}
PICK = {"type": "object", "properties": {"kind": {"enum": ["ab", "cd"]}}, "required": ["kind"]}
PICK["additionalProperties"] = False
TOOL = {"type": "function", "function": {"name": "pick", "parameters": PICK}}
OTHER = {"type": "function", "function": {"name": "other", "parameters": PICK}}
COMMON = "all prompts begin like this, or nearly so: "


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("serve")
    talking_llama(folder / "tiny.gguf")
    (folder / "template.jinja").write_text(TEMPLATE)
    return folder


@pytest.fixture(scope="module")
def options(folder):
    return ("-c", str(N_CTX), "-t", "1", "--chat-template", str(folder / "template.jinja"))


@pytest.fixture(scope="module")
def server(folder, options):
    """Shared by most tests: each leaves it without requests."""
    more = ("--ranks", "2", "--parallel", str(N_PARALLEL), "--queue", "40")
    with Server(folder / "tiny.gguf", *options, *more) as server:
        yield server


@pytest.fixture
def client(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0) as client:
        yield client


def asked(n: int) -> list[dict]:
    """Requests of several lengths and ways of drawing; half of them begin alike."""
    draw = random.Random(n)
    made = []
    for index in range(n):
        words = "".join(draw.choices("abcdefgh ", k=draw.randint(3, 40)))
        body = {"prompt": COMMON * (index % 2) + words, "max_tokens": draw.randint(1, 40)}
        if index % 3:
            body |= {"temperature": 0.6 * (index % 3), "seed": index, "top_k": 0}
        if index % 5 == 4:
            body["stop"] = ["e", "0"]
        made.append({**body, "ignore_eos": index % 4 != 3})
    return made


def generated(folder, options, bodies) -> list[dict]:
    """What `generate` answers, one request after the other."""
    prompts, output = folder / "prompts.jsonl", folder / "answers.jsonl"
    output.unlink(missing_ok=True)
    lines = [
        {"custom_id": str(i), "method": "POST", "url": "/v1/completions", "body": body}
        for i, body in enumerate(bodies)
    ]
    command = ["generate", "-m", str(folder / "tiny.gguf"), *options[:4], "--ranks", "1"]
    files = ["--prompts", str(write_items(prompts, lines)), "--output", str(output)]
    check_output(pipeinfer(*command, *files, "--format", "openai"))
    answers = [json.loads(line) for line in output.read_text().splitlines()]
    return [each["response"]["body"]["choices"][0] for each in answers]


def joined(server, body) -> dict:
    """A stream's text and finish reason."""
    *chunks, done = [data for _, data in server.events("/v1/completions", body)]
    assert done == "[DONE]"
    choices = [json.loads(each)["choices"][0] for each in chunks]
    text = "".join(each["text"] for each in choices)
    return {"text": text, "finish_reason": choices[-1]["finish_reason"]}


def test_answers_are_those_of_generate_whatever_runs_beside_them(server, folder, options):
    bodies = asked(16)
    expected = generated(folder, options, bodies)

    def answer(index: int) -> dict:
        if index % 2:
            return joined(server, {**bodies[index], "stream": True})
        status, body = server.ask("/v1/completions", bodies[index])
        assert status == 200, body
        return body["choices"][0]

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(answer, range(len(bodies))))
    for got, want in zip(answers, expected, strict=True):
        assert (got["text"], got["finish_reason"]) == (want["text"], want["finish_reason"])
    assert server.metric("prompt_tokens_reused_total") > 10 * len(COMMON), "no beginning was kept"


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


def test_a_text_follows_a_schema_as_that_of_generate(client, server, folder, options):
    file = folder / "schema.json"
    file.write_text(json.dumps(SCHEMA))
    command = ["generate", "-m", str(folder / "tiny.gguf"), *options, "--ranks", "1", "--chat"]
    text = check_output(pipeinfer(*command, "--json-schema", str(file), "hello"))
    asked = {"model": "tiny", "messages": HELLO}
    whole = client.chat.completions.create(**asked, response_format=FORMAT)
    assert (whole.choices[0].message.content, whole.choices[0].finish_reason) == (
        text.removesuffix("\n"),
        "stop",
    )
    assert json.loads(text)["kind"] in ("ab", 7)
    flat = {**FORMAT["json_schema"], "type": "json_schema"}
    response = client.responses.create(model="tiny", input="hello", text={"format": flat})
    assert response.output_text == whole.choices[0].message.content
    for more in ({"json_schema": SCHEMA}, {"response_format": FORMAT}):
        chunks = client.chat.completions.create(**asked, stream=True, extra_body=more)
        deltas = [each.choices[0].delta.content or "" for each in chunks]
        assert "".join(deltas) == whole.choices[0].message.content
    grammar = 'root ::= "yes " [a-c]{3} | "no"'
    answer = server.text(prompt="hello", grammar=grammar)
    assert answer == "no" or answer.startswith("yes ")


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


def test_tokens_there_and_back(server):
    _, there = server.ask("/tokenize", {"content": "abé", "add_special": True})
    assert there["tokens"][0] == 1
    status, back = server.ask("/detokenize", {"tokens": there["tokens"][1:]})
    assert status == 200 and back["content"].endswith("abé")
    prompt = {"prompt": there["tokens"], "max_tokens": 6}
    assert server.text(**prompt) == server.text(prompt="abé", max_tokens=6)


@pytest.mark.parametrize("is_stream", [True, False])
def test_clients_that_leave_free_the_stages(server, is_stream):
    cancelled = server.metric("requests_total", end="cancelled")
    opened = []
    for index in range(N_PARALLEL + 1):
        connection = http.client.HTTPConnection(server.host, server.port, timeout=ANSWER_S)
        body = {**ENDLESS, "stream": is_stream, "prompt": f"{index} {COMMON}"}
        connection.request("POST", "/v1/completions", json.dumps(body))
        opened.append(connection)
    server.await_metric("requests_active", N_PARALLEL)
    server.await_metric("requests_waiting", 1)
    for connection in opened:
        connection.close()
    server.await_metric("requests_waiting", 0)
    server.await_metric("requests_active", 0)
    n_cancelled = server.metric("requests_total", end="cancelled") - cancelled
    # the one that has waited may have begun when another one left
    assert n_cancelled in (N_PARALLEL, N_PARALLEL + 1)
    assert server.metric("kv_sequences") == server.metric("cached_texts")
    assert server.text(prompt="hello", max_tokens=3)


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


def test_a_message_may_have_no_parts(server):
    body = {"model": "x", "max_tokens": 1, "messages": [{"role": "user", "content": []}]}
    assert server.ask("/v1/messages", body)[0] == 200


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


def test_the_page_and_its_events(server):
    with urllib.request.urlopen(server.url + "/", timeout=ANSWER_S) as answer:
        page = answer.read().decode()
        assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert not re.findall(r"(?:src|href)=\"(?!data:)|https?://|@import|url\(", page)
    fates: set[str] = set()
    with urllib.request.urlopen(server.url + "/live", timeout=ANSWER_S) as events:
        assert events.readline().startswith(b"data: ")
        server.text(prompt=f"not cached yet: {COMMON}", max_tokens=30, ignore_eos=True)
        n_tokens = 0
        while not {"prompt", "decided"} <= fates:
            if not (line := events.readline()).startswith(b"data: "):
                continue
            for each in json.loads(line[6:])["events"]:
                fates |= {each["fate"]} if "fate" in each else set()
                n_tokens += len(each.get("spans", ()))
        assert n_tokens > 2, "each stage has its part of a run"


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


def storm(server, seed: int, truths: dict[str, str], n_requests: int) -> None:
    """Clients that ask, and leave now and then, also in the middle of an answer."""
    draw = random.Random(seed)
    for _ in range(n_requests):
        body = json.loads(draw.choice(list(truths)))
        if draw.random() < 0.6:
            assert server.text(**body) == truths[json.dumps(body)], body
            continue
        connection = http.client.HTTPConnection(server.host, server.port, timeout=ANSWER_S)
        connection.request("POST", "/v1/completions", json.dumps({**body, "stream": True}))
        for _ in range(draw.randint(0, 3)):
            connection.sock.recv(draw.choice([1, 100, 1000]))
        connection.close()


def test_a_storm_leaves_nothing_behind(server, folder, options):
    made = asked(12)
    truths = {
        json.dumps(body): choice["text"]
        for body, choice in zip(made, generated(folder, options, made), strict=True)
    }
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda seed: storm(server, seed, truths, 4), range(8)))
    server.await_metric("requests_active", 0)
    server.await_metric("requests_waiting", 0)
    assert server.metric("kv_sequences") == server.metric("cached_texts") > 0
    assert server.metric("cached_tokens") <= N_CTX


@pytest.mark.skipif(not LONG_S, reason="make test-serve")
@pytest.mark.timeout(LONG_S + 300)
def test_a_long_storm_leaves_nothing_behind_and_memory_is_flat(folder, options):
    made = asked(60)
    truths = {
        json.dumps(body): choice["text"]
        for body, choice in zip(made, generated(folder, options, made), strict=True)
    }
    with Server(
        folder / "tiny.gguf", *options, "--ranks", "1", "--parallel", "8", "--queue", "64"
    ) as server:
        seeds = iter(range(10**9))
        sizes = []
        for part_s in (LONG_S / 3, LONG_S / 3, LONG_S / 3):
            until_s = time.monotonic() + part_s

            def client(_: int, until_s: float = until_s) -> None:
                while time.monotonic() < until_s:
                    storm(server, next(seeds), truths, 4)

            with ThreadPoolExecutor(N_CLIENTS) as pool:
                list(pool.map(client, range(N_CLIENTS)))
            server.await_metric("requests_active", 0)
            assert server.metric("kv_sequences") == server.metric("cached_texts")
            assert server.metric("cached_tokens") <= N_CTX
            sizes.append(server.memory_bytes())
        ended = {
            end: server.metric("requests_total", end=end) for end in ("length", "stop", "cancelled")
        }
        print(f"requests {ended}, resident {[size >> 20 for size in sizes]} MiB")
        assert min(ended["length"], ended["cancelled"]) > N_CLIENTS
        assert sizes[2] < sizes[1] * 1.02, sizes
        assert server.stop() == 0


def test_a_key_a_full_queue_and_the_end_of_a_job(folder, options, tmp_path):
    key = tmp_path / "key"
    key.write_text("secret\n")
    more = ("--ranks", "1", "--parallel", "1", "--queue", "1", "--api-key-file", str(key))
    place = tmp_path / "place"
    more = (*more, "--drain", "30", "--alias", "a model", "--write-url", str(place))
    with Server(folder / "tiny.gguf", *options, *more) as server:
        known = {"authorization": "Bearer secret"}
        fields = dict(line.split("=", 1) for line in place.read_text().splitlines())
        assert (fields["url"], fields["api_key"]) == (server.url, "secret")
        assert f"-L {server.port}:127.0.0.1:{server.port} " in fields["tunnel"]
        assert place.stat().st_mode & 0o777 == 0o600
        assert server.ask("/health")[0] == 200
        for headers in ({}, {"authorization": "Bearer wrong"}, {"x_api_key": "é"}):
            assert server.ask("/v1/models", **headers)[0] == 401
        assert server.ask("/v1/models", x_api_key="secret")[1]["data"][0]["id"] == "a model"
        bodies = [{"prompt": word, "max_tokens": 150, "ignore_eos": True} for word in "abc"]
        answers: list[tuple[int, dict]] = []

        def ask(body) -> None:
            answers.append(server.ask("/v1/completions", body, **known))

        first, second = (threading.Thread(target=ask, args=(body,)) for body in bodies[:2])
        first.start()
        give_up = 600
        while server_metric(server, "requests_active", known) < 1:
            assert (give_up := give_up - 1)
        second.start()
        while server_metric(server, "requests_waiting", known) < 1:
            assert (give_up := give_up - 1)
        connection = http.client.HTTPConnection(server.host, server.port, timeout=ANSWER_S)
        connection.request("POST", "/v1/completions", json.dumps(bodies[2]), known)
        refused = connection.getresponse()
        assert (refused.status, refused.getheader("retry-after")) == (429, "2")
        connection.close()
        server.process.send_signal(signal.SIGTERM)
        for each in (first, second):
            each.join(ANSWER_S)
        assert [status for status, _ in answers] == [200, 200]
        assert all(body["usage"]["completion_tokens"] == 150 for _, body in answers)
        assert server.process.wait(ANSWER_S) == 0
        assert not place.exists()


def server_metric(server, name, headers) -> float:
    connection = http.client.HTTPConnection(server.host, server.port, timeout=ANSWER_S)
    connection.request("GET", "/metrics", headers=headers)
    lines = connection.getresponse().read().decode().splitlines()
    connection.close()
    return sum(float(each.split()[1]) for each in lines if each.startswith(f"pipeinfer_{name} "))


def test_ranks_of_a_launcher_end_well_with_a_signal(folder, options, monkeypatch):
    import serving

    monkeypatch.setattr(serving, "pipeinfer", lambda *args: mpiexec(2, *args))
    with Server(folder / "tiny.gguf", *options) as server:
        assert server.text(prompt="hello", max_tokens=3)
        assert server.stop(signal.SIGINT) == 0, server.said


def test_what_cannot_be_served_is_said_at_once(folder, server):
    model = str(folder / "tiny.gguf")
    done = run(pipeinfer("serve", "-m", model, "--ranks", "1", "--port", str(server.port)))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "give another --port" in done.stderr
