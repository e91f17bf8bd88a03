"""OpenAI's batch lines as items, and answers in the form of its batch output."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeinfer_cli.commands.batch.config import BatchConfig, BatchFiles
from pipeinfer_cli.commands.batch.items import BadItem, Item, read_items
from pipeinfer_cli.commands.batch.lines import OpenAiForm, check_ids, form_of
from pipeinfer_cli.commands.batch.openai import CHAT, COMPLETIONS, NEUTRAL
from pipeinfer_cli.commands.batch.origin import KEY, Origins
from pipeinfer_cli.commands.batch.results import FileSink, to_line
from pipeinfer_cli.commands.generate_config import GenerateConfig, Prompt
from pipeinfer_cli.errors import UserError
from pipeinfer_cli.runtime.answer import Answer
from pipeinfer_cli.scheduler.metrics import Counters, RequestInfo, Stats, measure
from pipeinfer_cli.scheduler.runs import SampleParams

CONFIG = BatchConfig(
    model="/models/tiny.gguf",
    prompt=Prompt(),
    n_predict=7,
    format="openai",
    files=BatchFiles(prompts="in.jsonl"),
)
FORM = OpenAiForm(CONFIG, Origins(CONFIG, "m1"), "tiny")
MESSAGES = [{"role": "user", "content": "Hello"}]
# the example of OpenAI's guide
GUIDE = {
    "custom_id": "request-1",
    "method": "POST",
    "url": CHAT,
    "body": {
        "model": "gpt-3.5-turbo-0125",
        "messages": [
            {"role": "system", "content": "You are a helpful assistant."},
            {"role": "user", "content": "Hello world!"},
        ],
        "max_tokens": 1000,
    },
}


def read_one(fields: Any) -> Item | BadItem:
    (item,) = read_items(json.dumps(fields).encode(), CONFIG)
    return item


def body_item(**body: Any) -> Item | BadItem:
    return read_one({"custom_id": "a", "body": {"messages": MESSAGES, **body}})


def stats(n_prompt: int) -> Stats:
    info = RequestInfo(strategy="iterative", n_ranks=1, n_stages=1, n_prompt=n_prompt)
    return measure(info, 0.0, [1.0], Counters())


def answered(item: Item) -> dict[str, Any]:
    answer = Answer(tokens=[5, 6], text="Hi.", finish_reason="stop")
    return dict(json.loads(to_line(FORM.answer(item, answer, stats(4)))))


def test_the_example_of_the_guide_is_an_item() -> None:
    assert read_one(GUIDE) == Item(
        index=0,
        id="request-1",
        prompt=None,
        messages=(
            {"role": "system", "content": "You are a helpful assistant."},
            {"role": "user", "content": "Hello world!"},
        ),
        n_predict=1000,
        sample=SampleParams(),
        stop=(),
        ignore_eos=False,
        model="gpt-3.5-turbo-0125",
    )


def test_all_options_of_a_body() -> None:
    item = body_item(
        temperature=0.5,
        top_p=0.9,
        top_k=3,
        min_p=0.1,
        seed=4,
        stop=["a"],
        max_completion_tokens=9,
        ignore_eos=True,
        stop_token_ids=[2, 3],
        chat_template_kwargs={"enable_thinking": False},
        reasoning_effort="low",
        user="me",
        metadata={"a": 1},
        max_tokens=None,
        **{key: values[0] for key, values in NEUTRAL.items()},
    )
    assert isinstance(item, Item)
    assert item.sample == SampleParams(temperature=0.5, top_p=0.9, top_k=3, min_p=0.1, seed=4)
    assert (item.n_predict, item.stop, item.ignore_eos) == (9, ("a",), True)
    assert item.stop_tokens == (2, 3)
    assert item.variables == {"enable_thinking": False, "reasoning_effort": "low"}


@pytest.mark.parametrize("prompt", ["Once", ["Once"]])
def test_a_completion_has_a_prompt(prompt: Any) -> None:
    item = read_one({"custom_id": "a", "url": COMPLETIONS, "body": {"prompt": prompt}})
    assert isinstance(item, Item)
    assert (item.prompt, item.messages, item.n_predict) == ("Once", (), 7)


def test_text_parts_become_one_text_in_our_own_lines_too() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    messages = [{"role": "user", "content": parts, "name": "x"}]
    for item in (body_item(messages=messages), read_one({"messages": messages})):
        assert isinstance(item, Item)
        assert item.messages == ({"role": "user", "content": "a\nb", "name": "x"},)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ({"custom_id": "a"}, "body None: give an object with messages or prompt"),
        ({"custom_id": "a", "body": {}}, "prompt or messages"),
        ({"custom_id": "a", "id": "a", "body": {}}, "unknown key 'id': known are custom_id"),
        ({**GUIDE, "method": "GET"}, "method 'GET': only POST"),
        ({**GUIDE, "url": "/v1/embeddings"}, "url '/v1/embeddings'"),
        ({**GUIDE, "url": COMPLETIONS}, "no prompt, which /v1/completions requires"),
        ({**GUIDE, "custom_id": None}, "custom_id None: give a string"),
        ({"custom_id": "a", "body": {"prompt": ["a", "b"]}}, "prompt ['a', 'b']: give a string"),
    ],
)
def test_a_bad_line_says_why(line: dict[str, Any], said: str) -> None:
    item = read_one(line)
    assert isinstance(item, BadItem)
    assert said in item.error


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"n": 2}, "n 2 is not supported"),
        ({"n": True}, "n True is not supported"),
        ({"stream": True}, "stream True is not supported"),
        ({"logprobs": True}, "logprobs True"),
        ({"frequency_penalty": 0.5}, "frequency_penalty 0.5 is not supported: leave it out"),
        ({"response_format": {"type": "xml"}}, "response_format 'xml': give text, json_object"),
        ({"response_format": "json"}, "response_format 'json': give an object"),
        ({"grammar": "a", "json_schema": {}}, "grammar and json_schema: give one of them"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"guided_json": {}}, "guided_json is not supported: leave it out"),
        ({"max_tokens": 0}, "max_tokens 0: give a whole number"),
        ({"stop_token_ids": 2}, "stop_token_ids 2: give a list"),
        ({"stop_token_ids": [True]}, "stop_token_ids: True is neither"),
        ({"chat_template_kwargs": []}, "chat_template_kwargs []: give an object"),
        ({"chat_template_kwargs": {"messages": 1}}, "messages is not for items"),
        ({"temperature": "hot"}, "temperature 'hot': give a number"),
        ({"temperature": -1}, "temperature -1: give a number of 0"),
        ({"max_tokens": 5, "max_completion_tokens": 6}, "differ: give one of them"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "only parts of the"),
        ({"messages": [{"role": "user", "content": None}]}, "content of message 1 None: give"),
    ],
    ids=str,
)
def test_what_a_body_asks_in_vain_is_named_as_there(body: dict[str, Any], said: str) -> None:
    item = body_item(**body)
    assert isinstance(item, BadItem)
    assert said in item.error
    assert item.id == "a"


def test_an_answer_has_the_form_of_the_batch_output() -> None:
    item = read_one(GUIDE)
    assert isinstance(item, Item)
    line = answered(item)
    assert line == answered(item)
    digest = line["id"].removeprefix("batch_req_")
    assert line == {
        "id": f"batch_req_{digest}",
        "custom_id": "request-1",
        "response": {
            "status_code": 200,
            "request_id": f"req_{digest}",
            "body": {
                "id": f"chatcmpl-{digest}",
                "object": "chat.completion",
                "created": 0,
                "model": "gpt-3.5-turbo-0125",
                "choices": [
                    {
                        "index": 0,
                        "message": {"role": "assistant", "content": "Hi.", "refusal": None},
                        "logprobs": None,
                        "finish_reason": "stop",
                    }
                ],
                "usage": {"prompt_tokens": 4, "completion_tokens": 2, "total_tokens": 6},
                "system_fingerprint": "fp_m1",
            },
        },
        "error": None,
        "exact": True,
        KEY: FORM.origins.of(item),
    }
    other = answered(replace(item, id="request-2"))
    assert other["response"]["body"]["id"] != line["response"]["body"]["id"]


@pytest.mark.parametrize("output_format", ["json", "openai"])
def test_a_line_says_whether_its_text_is_exact(output_format: Any) -> None:
    item = read_one({"prompt": "Once", "id": 7})
    assert isinstance(item, Item)
    answer = Answer(tokens=[5], text="Hi.", finish_reason="stop")
    for exact in (True, False):
        config = replace(CONFIG, format=output_format)
        form = form_of(config, FORM.origins, "tiny", exact=exact)
        assert form.answer(item, answer, stats(4))["exact"] is exact


def test_a_completion_has_a_text_and_our_model_without_another_name() -> None:
    item = read_one({"prompt": "Once", "id": 7})
    assert isinstance(item, Item)
    line = answered(item)
    body = line["response"]["body"]
    assert (line["custom_id"], body["object"], body["model"]) == ("7", "text_completion", "tiny")
    assert body["choices"][0]["text"] == "Hi."


def test_a_bad_item_is_a_response_that_refuses() -> None:
    item = read_one({"custom_id": "a"})
    line = FORM.error(item, "no body")
    assert line["error"] == {"code": "invalid_request_error", "message": "no body"}
    assert line["response"]["status_code"] == 400
    assert line["response"]["body"]["error"]["message"] == "no body"


def test_its_lines_can_be_resumed_but_not_in_another_form(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    second = {"custom_id": "b", "body": {}}
    items = read_items(f"{json.dumps(GUIDE)}\n{json.dumps(second)}\n".encode(), CONFIG)
    good, bad = items
    assert isinstance(good, Item) and isinstance(bad, BadItem)
    lines = [to_line(answered(good)), to_line(FORM.error(bad, bad.error))]
    whole = b"".join(lines)
    for size in range(len(whole) + 1):
        path.write_bytes(whole[:size])
        sink, resume_point = FileSink.resume(path, items, FORM)
        sink.close()
        assert path.read_bytes() == b"".join(lines[: resume_point.n_items])
    assert (resume_point.n_items, resume_point.n_failed, resume_point.n_unknown) == (2, 1, 0)
    with pytest.raises(UserError, match="line 1 is not a result in the form of this --format"):
        FileSink.resume(path, items, form_of(replace(CONFIG, format="json"), FORM.origins, "tiny"))


def test_ids_that_become_equal_texts_are_refused() -> None:
    items = read_items(b'{"id": 1, "prompt": "a"}\n{"id": "1", "prompt": "a"}', CONFIG)
    check_ids(items, form_of(replace(CONFIG, format="json"), FORM.origins, "tiny"))
    with pytest.raises(UserError, match="items 1 and 2 have the same id '1'"):
        check_ids(items, FORM)


def test_the_form_is_for_batches() -> None:
    with pytest.raises(UserError, match="openai requires --prompts"):
        GenerateConfig(model="m", prompt=Prompt(text="a"), format="openai")
