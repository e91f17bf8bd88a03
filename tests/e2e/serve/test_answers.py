"""Answers of `pipeinfer serve` are those of `generate`."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from serving_requests import COMMON, FORMAT, HELLO, SCHEMA, asked, generated, joined
from support import check_output, pipeinfer

pytestmark = pytest.mark.e2e


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


def test_tokens_there_and_back(server):
    _, there = server.ask("/tokenize", {"content": "abé", "add_special": True})
    assert there["tokens"][0] == 1
    status, back = server.ask("/detokenize", {"tokens": there["tokens"][1:]})
    assert status == 200 and back["content"].endswith("abé")
    prompt = {"prompt": there["tokens"], "max_tokens": 6}
    assert server.text(**prompt) == server.text(prompt="abé", max_tokens=6)


def test_a_message_may_have_no_parts(server):
    body = {"model": "x", "max_tokens": 1, "messages": [{"role": "user", "content": []}]}
    assert server.ask("/v1/messages", body)[0] == 200
