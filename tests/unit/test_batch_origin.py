"""What lines of results are made from, and a --resume with something else."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from pipeinfer_cli.commands.batch.config import BatchConfig, BatchFiles
from pipeinfer_cli.commands.batch.items import BadItem, Item, read_items
from pipeinfer_cli.commands.batch.lines import OwnForm, check_ids
from pipeinfer_cli.commands.batch.origin import KEY, Origins, differences
from pipeinfer_cli.commands.batch.results import FileSink, to_line
from pipeinfer_cli.commands.chat.template_options import TemplateOptions
from pipeinfer_cli.commands.generate_config import GenerateConfig, Prompt
from pipeinfer_cli.engine.config import CacheTypes
from pipeinfer_cli.errors import UserError
from pipeinfer_cli.models import shards
from pipeinfer_cli.models.shards import ModelFiles, Split, model_digest
from pipeinfer_cli.runtime.grammar.source import GrammarSource
from pipeinfer_cli.scheduler.policy import DraftConfig
from pipeinfer_cli.scheduler.runs import SampleParams
from raw_gguf import UINT32, RawGguf, RawTensor

DRAWN = SampleParams(temperature=0.5, seed=3)
CONFIG = BatchConfig(model="m", prompt=Prompt(), n_predict=7, files=BatchFiles(prompts="in.jsonl"))
SYNTHETIC = ["seed none, now 9", 'synth_acceptance none, now "0.5"']
FORM = OwnForm(CONFIG, Origins(CONFIG, "1"))
QUESTION = {"id": 1, "messages": [{"role": "user", "content": "hi"}]}


def made(fields_: dict[str, Any], config: GenerateConfig, model: str = "1") -> dict[str, Any]:
    """What is recorded of one item, as it is read again."""
    (item,) = read_items(json.dumps(fields_).encode(), config)
    return dict(json.loads(to_line({"id": 1, KEY: Origins(config, model).of(item)}))[KEY])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"n_predict": 8}, ["n_predict 7, now 8"]),
        ({"n_ctx": 100}, ["n_ctx 4096, now 100"]),
        ({"sample": DRAWN}, ["temp 0, now 0.5"]),
        ({"stop": ("a", "b")}, ['stop none, now ["a", "b"]']),
        ({"ignore_eos": True}, ["ignore_eos none, now true"]),
        ({"chat": True}, ["another prompt"]),
        ({"cache_types": CacheTypes("f16", "q8_0")}, ['cache_type_v none, now "q8_0"']),
        ({"synth_acceptance": "0.5", "sample": SampleParams(seed=9)}, SYNTHETIC),
        # without effect on the text
        ({"sample": SampleParams(seed=9, top_k=3)}, []),
        ({"draft": DraftConfig(n_max=3), "strategy": "iterative"}, []),
        ({"threads": 3, "ranks": 2, "stats": True}, []),
    ],
    ids=str,
)
def test_an_option_that_changes_the_text_is_named(change: dict[str, Any], said: list[str]) -> None:
    item = {"id": 1, "prompt": "hi"}
    found = made(item, CONFIG)
    assert differences(found, made(item, replace(CONFIG, **change))) == said
    assert differences(found, made(item, CONFIG)) == []


def test_what_changes_the_model_is_named() -> None:
    changes = {"lora": [{"digest": "a", "scale": 0.5}], "rope": {"scale": 2.0}}
    (item,) = read_items(b'{"prompt": "hi"}', CONFIG)
    plain, changed = Origins(CONFIG, "1").of(item), Origins(CONFIG, "1", changes).of(item)
    assert differences(changed, changed) == []
    assert differences(plain, changed) == [
        'lora none, now [{"digest": "a", "scale": 0.5}]',
        'rope none, now {"scale": 2.0}',
    ]


def test_a_drawn_text_depends_on_its_seed_and_filters() -> None:
    item, config = {"prompt": "hi"}, replace(CONFIG, sample=DRAWN)
    other = replace(config, sample=replace(DRAWN, seed=4, top_k=1))
    assert differences(made(item, config), made(item, other)) == [
        "top_k 40, now 1",
        "seed 3, now 4",
    ]


def test_what_an_item_says_counts_as_what_an_option_says() -> None:
    item = {"prompt": "hi", "temp": 0.5, "seed": 3, "n_predict": 7, "stop": "a"}
    config = replace(CONFIG, sample=DRAWN, stop=("a",))
    assert made(item, replace(CONFIG, n_predict=1)) == made({"prompt": "hi"}, config)


def test_the_system_text_is_that_of_messages() -> None:
    config = replace(CONFIG, chat=True)
    briefly = replace(config, system="Be brief.")
    assert differences(made(QUESTION, config), made(QUESTION, briefly)) == ["another system"]


def test_a_chat_template_and_its_variables_are_those_of_messages() -> None:
    def told(**options: Any) -> dict[str, Any]:
        return made(QUESTION, replace(CONFIG, chat=True, template=TemplateOptions(**options)))

    plain = told()
    assert differences(plain, told(source="x")) == ["another chat_template"]
    assert differences(told(source="y"), told(source="x")) == ["another chat_template"]
    assert differences(plain, told(reasoning="off")) == ['reasoning none, now "off"']
    assert differences(plain, told(kwargs='{"a": 1}')) == [
        'chat_template_kwargs none, now {"a": 1}'
    ]
    unused = replace(CONFIG, template=TemplateOptions(source="x", reasoning="off"))
    prompt = {"prompt": "hi"}
    assert made(prompt, unused) == made(prompt, CONFIG)


@pytest.mark.parametrize(
    ("model", "item", "said"),
    [
        ("2", QUESTION, ["another model"]),
        ("1", {**QUESTION, "messages": [{"role": "user", "content": "ho"}]}, ["another prompt"]),
        ("2", {"id": 1, "prompt": "hi"}, ["another model", "another prompt"]),
        ("1", {**QUESTION, "bogus": 1}, ["another prompt", "n_ctx 4096, now none"]),
    ],
)
def test_another_model_or_prompt_is_named(model: str, item: dict[str, Any], said: str) -> None:
    found = differences(made(QUESTION, CONFIG), made(item, CONFIG, model))
    assert list(found)[: len(said)] == said or "another line" in found


def test_every_field_of_an_item_is_recorded_or_changes_no_text() -> None:
    """A field that is added to Item has to be added to its record, too."""
    item = {"prompt": "hi", "temp": 1, "stop": "a", "ignore_eos": True}
    (read,) = read_items(json.dumps(item).encode(), CONFIG)
    assert isinstance(read, Item)
    changes: dict[str, Any] = {
        "prompt": "ho",
        "messages": (QUESTION["messages"]),
        "n_predict": 8,
        "sample": DRAWN,
        "stop": (),
        "ignore_eos": False,
        "stop_tokens": (2,),
        "variables": {"enable_thinking": False},
        "grammar": GrammarSource.of_grammar("x"),
    }
    assert set(changes) == {each.name for each in fields(Item)} - {"id", "index", "model"}
    origins = Origins(CONFIG, "1")
    asked = replace(read, messages=tuple(QUESTION["messages"]))  # variables are for messages
    for name, value in changes.items():
        item = asked if name == "variables" else read
        assert differences(origins.of(item), origins.of(replace(item, **{name: value}))), name


def test_resume_refuses_what_was_made_from_something_else(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    lines = b'{"id": "a", "prompt": "x"}\n{"id": "b", "prompt": "y"}\n{"id": "c"}\n'
    items, form = read_items(lines, CONFIG), OwnForm(CONFIG, Origins(CONFIG, "1"))
    sink = FileSink.create(path)
    for item in items:
        if isinstance(item, BadItem):
            sink.write(to_line(form.error(item, item.error)))
        else:
            sink.write(to_line({"id": item.id, "text": "", KEY: form.origins.of(item)}))
    sink.close()
    content = path.read_bytes()

    sink, resume_point = FileSink.resume(path, items, form)
    sink.close()
    assert (resume_point.n_items, resume_point.n_failed, resume_point.n_unknown) == (3, 1, 0)
    others = read_items(lines.replace(b'"y"', b'"z"'), CONFIG)
    with pytest.raises(UserError, match=r"line 2 of .* was made with another prompt: give the"):
        FileSink.resume(path, others, form)
    mended = read_items(lines.replace(b'"c"', b'"c", "prompt": "z"'), CONFIG)
    with pytest.raises(UserError, match=r"line 3 of .* was made with another"):
        FileSink.resume(path, mended, form)
    with pytest.raises(UserError, match=r"line 1 of .* another model: give the same"):
        FileSink.resume(path, items, OwnForm(CONFIG, Origins(CONFIG, "2")))
    assert path.read_bytes() == content


def test_equal_ids_are_refused_and_unequal_ones_are_not() -> None:
    fine = b'{"id": 1, "prompt": "a"}\n{"id": "1", "prompt": "a"}\n{"id": 1.0, "prompt": "a"}'
    check_ids(read_items(fine, CONFIG), FORM)
    for other in (b'{"id": "1"}', b'{"id": "1", "prompt": "b"}'):
        with pytest.raises(UserError, match="items 2 and 4 have the same id '1'"):
            check_ids(read_items(fine + b"\n" + other, CONFIG), FORM)
    with pytest.raises(UserError, match="items 1 and 2 have the same id 2"):
        check_ids(read_items(b'{"id": 2, "prompt": "a"}\n{"prompt": "a"}', CONFIG), FORM)


def test_models_of_one_size_and_header_are_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "HEADER_BYTES", 100)
    monkeypatch.setattr(shards, "SAMPLE_BYTES", 10)

    def digest(name: str, data: bytes) -> str:
        path = tmp_path / name
        path.write_bytes(data)
        return model_digest(ModelFiles(name=path, head_path=path, split=None))

    data = bytes(100) + bytes(range(256)) * 100
    assert digest("a", data) == digest("b", data)
    tuned = data[:200] + bytes(byte ^ 1 for byte in data[200:])
    assert len({digest("a", data), digest("c", tuned), digest("d", data + b"\0")}) == 3
    split = Split(source="s", sha256="ab" * 32, boundaries=(0, 1, 2))
    gone = tmp_path / "gone"
    assert model_digest(ModelFiles(name=gone, head_path=gone, split=split)) != digest("a", data)
    with pytest.raises(UserError, match="cannot read the model"):
        model_digest(ModelFiles(name=gone, head_path=gone, split=None))


def test_models_are_told_apart_by_any_of_their_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "HEADER_BYTES", 10)

    def digest(name: str, data: bytes, n_parts: int = 2) -> str:
        paths = [tmp_path / f"{name}-{part:05}-of-00002.gguf" for part in range(1, n_parts + 1)]
        for index, path in enumerate(paths):
            tensor = RawTensor(shape=(len(data) // 4,), data=data if index else bytes(len(data)))
            fields = {b"split.no": (UINT32, index), b"split.count": (UINT32, 2)}
            RawGguf(fields=fields, tensors={b"a": tensor}).write(path)
        return model_digest(ModelFiles(name=paths[0], head_path=paths[0], split=None))

    data = bytes(range(100)) * 10
    assert digest("a", data) == digest("b", data)
    assert digest("a", data) != digest("c", data[:999] + b"\x01")
    with pytest.raises(UserError, match=r"cannot read the model .*d-00002-of-00002.gguf"):
        digest("d", data, n_parts=1)
