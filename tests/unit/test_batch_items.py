"""The items of a batch: what is a request, and what is said of the others."""

from __future__ import annotations

import json
import math
import pickle
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeinfer_cli.checks import MAX_COUNT
from pipeinfer_cli.cli.main import asks_for_file
from pipeinfer_cli.commands.batch.config import BatchFiles
from pipeinfer_cli.commands.batch.items import BadItem, Item, read_items
from pipeinfer_cli.commands.generate_config import GenerateConfig, Prompt
from pipeinfer_cli.errors import UserError
from pipeinfer_cli.scheduler.runs import SampleParams

CONFIG = GenerateConfig(
    model="m", prompt=Prompt(), n_predict=7, sample=SampleParams(temperature=0.5, seed=3)
)


def read_one(line: str | bytes) -> Item | BadItem:
    (item,) = read_items(line if isinstance(line, bytes) else line.encode(), CONFIG)
    return item


def test_what_an_item_leaves_open_the_command_line_says() -> None:
    assert read_one('{"prompt": "hi"}') == Item(
        index=0,
        id=1,
        prompt="hi",
        messages=(),
        n_predict=7,
        sample=SampleParams(temperature=0.5, seed=3),
        stop=(),
        ignore_eos=False,
    )


def test_an_item_may_say_all_of_it() -> None:
    options = {"n_predict": 2, "temp": 1, "top_k": 0, "top_p": 0.5, "min_p": 0, "seed": 2**64 - 1}
    more = {
        "stop": ["a", "b"],
        "ignore_eos": True,
        "id": "x",
        "messages": [{"role": "user", "content": ""}],
    }
    item = read_one(json.dumps({**options, **more}))
    assert item == Item(
        index=0,
        id="x",
        prompt=None,
        messages=({"role": "user", "content": ""},),
        n_predict=2,
        sample=SampleParams(temperature=1, top_k=0, top_p=0.5, min_p=0, seed=2**64 - 1),
        stop=("a", "b"),
        ignore_eos=True,
    )


def test_with_chat_a_prompt_is_a_message_and_stop_strings_are_the_command_lines() -> None:
    config = replace(CONFIG, chat=True, stop=("X",))
    plain, own = read_items(b'{"prompt": "hi"}\n{"prompt": "ho", "stop": []}', config)
    assert isinstance(plain, Item) and isinstance(own, Item)
    assert (plain.prompt, plain.messages) == (None, ({"role": "user", "content": "hi"},))
    assert (plain.stop, own.stop) == (("X",), ())


def test_ids_default_to_line_numbers_and_blank_lines_are_no_items() -> None:
    lines = ['{"prompt": "a"}', "", "  ", '{"prompt": "b", "id": 2.5}', '{"prompt": "c"}\r', ""]
    items = read_items(b"\xef\xbb\xbf" + "\n".join(lines).encode(), CONFIG)
    assert [(item.index, item.id) for item in items] == [(0, 1), (1, 2.5), (2, 5)]
    assert all(isinstance(item, Item) for item in items)


def test_a_text_may_take_what_the_context_leaves() -> None:
    item = read_one('{"prompt": "a", "n_predict": -1}')
    assert isinstance(item, Item)
    assert item.n_predict == MAX_COUNT


def test_one_stop_string_needs_no_list() -> None:
    item = read_one('{"prompt": "a", "stop": "END"}')
    assert isinstance(item, Item)
    assert item.stop == ("END",)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("hello", "not JSON"),
        ('{"prompt": "a"', "not JSON"),
        ('{"prompt": "a"} {}', "not JSON"),
        ("[" * 100_000, "nested too deeply"),
        ('["prompt"]', "not a JSON object"),
        ("{}", "prompt or messages"),
        ('{"prompt": "a", "messages": []}', "prompt or messages, one of them"),
        ('{"prompt": 5}', "prompt 5: give a string"),
        ('{"prompt": "a", "n-predict": 5}', "unknown key 'n-predict'"),
        ('{"prompt": "a", "n_predict": 0}', "n_predict 0"),
        ('{"prompt": "a", "n_predict": true}', "n_predict True"),
        ('{"prompt": "a", "n_predict": 5.5}', "n_predict 5.5"),
        ('{"prompt": "a", "temp": "hot"}', "temp 'hot': give a number"),
        ('{"prompt": "a", "temp": -1}', "temp -1: give a number of 0"),
        ('{"prompt": "a", "temp": NaN}', "temp nan"),
        ('{"prompt": "a", "temp": 1e999}', "temp inf"),
        ('{"prompt": "a", "temp": 1' + "0" * 400 + "}", "too large"),
        ('{"prompt": "a", "top_k": 1.5}', "top_k 1.5: give a whole number"),
        ('{"prompt": "a", "top_p": 2}', "top_p 2: give a probability"),
        ('{"prompt": "a", "min_p": false}', "min_p False"),
        ('{"prompt": "a", "seed": -1}', "seed -1"),
        ('{"prompt": "a", "stop": 3}', "stop 3"),
        ('{"prompt": "a", "stop": ["x", ""]}', "must not be empty"),
        ('{"prompt": "a", "ignore_eos": 1}', "ignore_eos 1"),
        ('{"prompt": "a", "id": null}', "id None"),
        ('{"prompt": "a", "id": true}', "id True"),
        ('{"prompt": "a", "id": NaN}', "id nan"),
        ('{"prompt": "\\ud800"}', "surrogate"),
        ('{"prompt": "a", "id": "\\udc00"}', "surrogate"),
        ('{"messages": {}}', "messages: give a list"),
        ('{"messages": [{"role": "user"}]}', "message 1: give an object"),
        ('{"messages": [{"role": "user", "content": [1]}]}', "content of message 1"),
        (b'{"prompt": "\xff"}', "not UTF-8 (byte 12 of the line)"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_bad_item_says_why(line: str | bytes, said: str) -> None:
    item = read_one(line)
    assert isinstance(item, BadItem)
    assert said in item.error
    assert len(item.error) < 300
    json.dumps(item.error, ensure_ascii=False).encode()


def test_a_bad_item_keeps_a_good_id() -> None:
    item = read_one('{"id": "x", "prompt": "a", "bogus": 1}')
    assert isinstance(item, BadItem)
    assert item.id == "x"


@given(st.binary() | st.lists(st.binary()).map(b"\n".join))
def test_any_bytes_are_items_or_errors(data: bytes) -> None:
    lines = data.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    items = read_items(data, CONFIG)
    assert [item.index for item in items] == list(range(len(items)))
    assert len(items) == sum(bool(line.strip()) for line in lines)


TEXT = st.text('aé"\n\ud800', max_size=5)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda each: st.lists(each, max_size=3) | st.dictionaries(TEXT, each, max_size=3),
    max_leaves=5,
)
KEY = st.sampled_from(["id", "prompt", "messages", "n_predict", "temp", "seed", "stop", "top_p"])


@given(st.dictionaries(KEY, JSON))
def test_any_values_are_an_item_or_an_error(fields: dict[str, object]) -> None:
    item = read_one(json.dumps(fields))
    if isinstance(item, Item):
        assert item.prompt == fields.get("prompt")
        assert math.isfinite(item.sample.temperature)
        assert item.id == fields.get("id", 1)
    else:
        assert item.error


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"prompts": ""}, "--prompts is empty"),
        ({"prompts": "p", "output": ""}, "--output is empty"),
        ({"prompts": "p", "resume": True}, "--resume requires --output"),
        ({"prompts": "p", "parallel": 0}, "--parallel 0"),
        ({"prompts": "p", "parallel": 65}, "--parallel 65"),
    ],
)
def test_files_that_make_no_sense(fields: dict[str, object], said: str) -> None:
    with pytest.raises(UserError, match=said):
        BatchFiles(**fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("line", "asks"),
    [
        ("generate --prompts in --output out", True),
        ("generate --prompts=in --output=out --resume", True),
        ("generate --prompts in", False),
        ("generate --prompts - --output -", False),
        ("generate --prompts - --output=-", False),
        ("generate hello", False),
        ("bench --output md", False),
        ("bench --prompts p.txt --output json", False),
    ],
)
def test_a_batch_that_writes_a_file_is_known_before_its_options_are_parsed(
    line: str, asks: bool
) -> None:
    assert asks_for_file(line.split()) == asks


def test_a_missing_file_is_said(tmp_path: object) -> None:
    with pytest.raises(UserError, match=r"cannot read the items '/no/such.jsonl'"):
        BatchFiles(prompts="/no/such.jsonl").read()


@given(st.binary())
def test_stdin_survives_the_way_to_a_rank(data: bytes) -> None:
    files = BatchFiles(prompts="-", items=data.decode(errors="surrogateescape"), output="o")
    assert pickle.loads(pickle.dumps(files)).read() == data
