"""Requests that tests send to a server, and what `generate` says to them."""

from __future__ import annotations

import json
import os
import random

from batches import write_items
from support import check_output, pipeinfer

LONG_S = float(os.environ.get("TEST_SERVE") or 0)  # of a long storm
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
