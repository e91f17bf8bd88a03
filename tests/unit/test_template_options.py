"""Another chat template, values for its variables, and its switches for thinking."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeinfer_cli.commands.chat.template import ChatTemplate
from pipeinfer_cli.commands.chat.template_options import TemplateOptions, variables_of
from pipeinfer_cli.commands.generate_config import GenerateConfig, Prompt
from pipeinfer_cli.errors import UserError

MESSAGES = [{"role": "user", "content": "Hi"}]
# the switches as templates of the field have them
QWEN3 = (
    "{{ messages[0].content }}{% if enable_thinking is defined and enable_thinking is false %}"
    "<think></think>{% endif %}"
)
DEEPSEEK = (
    "{% if not thinking is defined %}{% set thinking = false %}{% endif %}"
    "{{ messages[0].content }}{{ '<think>' if thinking else '</think>' }}"
)
GPT_OSS = (
    "{% if reasoning_effort is not defined %}{% set reasoning_effort = 'medium' %}{% endif %}"
    "{{ messages[0].content }}{% if messages[0].thinking %}{% endif %} {{ reasoning_effort }}"
)


class FakeVocab:
    """A model with a template."""

    bos = eos = None
    special_tokens: dict[str, str] = {}  # noqa: RUF012 (as little as is needed)

    def __init__(self, source: str | None) -> None:
        self.chat_template = source


def text(source: str | None, **options: Any) -> str:
    vocab: Any = FakeVocab(source)
    template = ChatTemplate.of(vocab, "m.gguf", system=None, options=TemplateOptions(**options))
    return template.text(MESSAGES)


@pytest.mark.parametrize(
    ("source", "options", "rendered"),
    [
        (QWEN3, {}, "Hi"),
        (QWEN3, {"reasoning": "auto"}, "Hi"),
        (QWEN3, {"reasoning": "on"}, "Hi"),
        (QWEN3, {"reasoning": "off"}, "Hi<think></think>"),
        (QWEN3, {"kwargs": '{"enable_thinking": false}'}, "Hi<think></think>"),
        (QWEN3, {"kwargs": '{"enable_thinking": true}', "reasoning": "off"}, "Hi"),
        (DEEPSEEK, {}, "Hi</think>"),
        (DEEPSEEK, {"reasoning": "on"}, "Hi<think>"),
        (DEEPSEEK, {"reasoning": "off"}, "Hi</think>"),
        (GPT_OSS, {}, "Hi medium"),
        (GPT_OSS, {"effort": "high"}, "Hi high"),
        ("{{ date }}", {"kwargs": '{"date": "today"}'}, "today"),
    ],
)
def test_switches_as_templates_have_them(
    source: str, options: dict[str, Any], rendered: str
) -> None:
    assert text(source, **options) == rendered


@pytest.mark.parametrize(
    ("source", "options", "said"),
    [
        (GPT_OSS, {"reasoning": "off"}, "--reasoning off: the chat template has no switch for it"),
        (QWEN3, {"effort": "low"}, "--reasoning-effort low: the chat template does not use"),
        (None, {}, "has no chat template .*give one with --chat-template"),
    ],
)
def test_a_template_without_the_switch(
    source: str | None, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        text(source, **options)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"reasoning": "maybe"}, "--reasoning 'maybe': give one of on, off, auto"),
        ({"kwargs": "{"}, "--chat-template-kwargs '{': not JSON"),
        ({"kwargs": "[" * 100_000}, "not JSON"),
        ({"kwargs": "[1]"}, "not a JSON object"),
        ({"kwargs": '{"messages": []}'}, "messages is not for options"),
    ],
    ids=str,
)
def test_values_that_make_no_sense(options: dict[str, str], said: str) -> None:
    with pytest.raises(UserError) as refused:
        TemplateOptions(**options)  # type: ignore[arg-type]
    assert said in str(refused.value)


def test_a_file_in_place_of_the_models_template(tmp_path: Path) -> None:
    file = tmp_path / "template.jinja"
    file.write_text("{{ messages[0].content }}!")
    assert text(None, file=file) == text(QWEN3, file=file) == "Hi!"
    file.write_text("{% for")
    with pytest.raises(UserError, match=r"template of '.*template.jinja' is damaged"):
        text(QWEN3, file=file)
    file.write_bytes(b"\xff")
    with pytest.raises(UserError, match=r"not UTF-8 text \(byte 0\): give a file"):
        text(QWEN3, file=file)
    with pytest.raises(UserError, match=r"--chat-template 'chatml': No such file"):
        text(QWEN3, file=Path("chatml"))


def test_a_variable_that_the_template_does_not_use_is_noted(
    capsys: pytest.CaptureFixture[str],
) -> None:
    vocab: Any = FakeVocab(QWEN3)
    options = TemplateOptions(kwargs=json.dumps({"enable_thinking": True, "enable_thinkin": True}))
    ChatTemplate.of(vocab, "m", system=None, options=options).say_note()
    said = "--chat-template-kwargs: the chat template does not use enable_thinkin"
    assert capsys.readouterr().err == f"pipeinfer: note: {said}\n"


def test_items_have_variables_of_their_own() -> None:
    vocab: Any = FakeVocab(QWEN3)
    template = ChatTemplate.of(vocab, "m", system=None, options=TemplateOptions(reasoning="on"))
    assert template.text(MESSAGES, enable_thinking=False) == "Hi<think></think>"
    assert template.text(MESSAGES) == "Hi"


def test_variables_of_templates_with_tags_that_jinja_does_not_know() -> None:
    source = "{%- generation -%}{% if a %}{% break %}{% endif %}{{ b.c }}{% endgeneration %}"
    looped = f"{{% for each in messages %}}{source}{{% endfor %}}{{% set d = 1 %}}{{{{ d }}}}"
    assert variables_of(looped) == {"messages", "a", "b"}


def test_a_template_is_for_chats() -> None:
    for options in ({"reasoning": "off"}, {"kwargs": '{"a": 1}'}, {"file": Path("x")}):
        template = TemplateOptions(**options)  # type: ignore[arg-type]
        with pytest.raises(UserError, match=rf"{template.given} requires --chat: add it"):
            GenerateConfig(model="m", prompt=Prompt(text="a"), template=template)
        GenerateConfig(model="m", prompt=Prompt(text="a"), template=template, chat=True)


def test_what_is_recorded_of_a_template(tmp_path: Path) -> None:
    assert TemplateOptions().record() == {}
    assert TemplateOptions(effort="auto").record() == {"reasoning_effort": "auto"}
    (path := tmp_path / "t").write_text("{{ a }}")
    options = TemplateOptions(file=path, reasoning="off").read()
    assert options.record() == {"chat_template": "{{ a }}", "reasoning": "off"}
