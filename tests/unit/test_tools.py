"""Tools: what requests say of them, and calls in texts that come in any pieces."""

import contextlib
import json
import random

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from byte_vocab import ByteVocab
from pipeinfer_cli.commands.chat.template import chat_formatter
from pipeinfer_cli.commands.chat.tools.definitions import NO_TOOLS, ToolUse, for_template
from pipeinfer_cli.commands.chat.tools.formats import (
    HERMES,
    LLAMA,
    MISTRAL,
    QWEN_CODER,
    format_of,
    spelled_tokens,
)
from pipeinfer_cli.commands.chat.tools.parser import ToolCall, ToolParser
from pipeinfer_cli.errors import UserError
from pipeinfer_cli.runtime.grammar.compiler import GrammarCompiler

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a town",
        "parameters": {
            "$defs": {"unit": {"enum": ["C", "F"]}},
            "type": "object",
            "properties": {"town": {"enum": ["Rome", "Oslo"]}, "unit": {"$ref": "#/$defs/unit"}},
            "required": ["town"],
            "additionalProperties": False,
        },
    },
}
ADD = {"type": "function", "function": {"name": "add"}}
NAMES = ("get_weather", "add")

# How templates of these families write calls, and what they tell of tools.
TEMPLATES = {
    HERMES: """{% if tools %}{% for tool in tools %}{{ tool | tojson }}
{% endfor %}Answer within <tool_call></tool_call>{% endif %}
{% for message in messages %}<|im_start|>{{ message.role }}
{{ message.content }}{% for call in message.tool_calls or [] %}
<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>{% endfor %}<|im_end|>
{% endfor %}""",
    LLAMA: """{% if tools %}Respond in the format {"name": function name, "parameters": dictionary}
{% for t in tools %}{{ t | tojson(indent=4) }}{% endfor %}{% endif %}
{% for message in messages %}<|start_header_id|>{{ message.role }}<|end_header_id|>

{% if message.tool_calls %}{% set call = message.tool_calls[0].function %}
{% if builtin %}<|python_tag|>{% endif %}{"name": "{{ call.name }}", "parameters": {{
call.arguments | tojson }}}{% else %}{{ message.content }}{% endif %}<|eot_id|>
{% endfor %}""",
    MISTRAL: """{% if tools %}[AVAILABLE_TOOLS]{{ tools | tojson }}[/AVAILABLE_TOOLS]{% endif %}
{% for message in messages %}{% if message.tool_calls %}[TOOL_CALLS][
{%- for call in message.tool_calls %}{"name": "{{ call.function.name }}", "arguments": {{
call.function.arguments | tojson }}}{{ ", " if not loop.last }}{% endfor %}]</s>
{% else %}[INST]{{ message.content }}[/INST]{% endif %}{% endfor %}""",
}
TEMPLATES[QWEN_CODER] = """{% if tools %}{% for tool in tools %}{{ tool.function.name }}
{% endfor %}Answer with <tool_call><function=example><parameter=example>{% endif %}
{% for message in messages %}<|im_start|>{{ message.role }}
{{ message.content }}{% for call in message.tool_calls or [] %}
<tool_call>
<function={{ call.function.name }}>
{% for name, value in call.function.arguments | items %}<parameter={{ name }}>
{% if value is mapping or (value is sequence and value is not string) %}{{ value | tojson }}
{% else %}{{ value | string }}
{% endif %}</parameter>
{% endfor %}</function>
</tool_call>{% endfor %}<|im_end|>
{% endfor %}"""
IM_END = "<|im_end|>"
ENDS = {HERMES: IM_END, LLAMA: "<|eot_id|>", MISTRAL: "</s>", QWEN_CODER: IM_END}
BEGINS = {HERMES: "assistant\n", LLAMA: "assistant<|end_header_id|>\n\n", MISTRAL: "[/INST]"}
BEGINS[QWEN_CODER] = BEGINS[HERMES]
TOOLS = ToolUse.of([WEATHER, ADD]).tools

awkward = st.text(st.sampled_from('ab{}[]"\\\n<tool_call></>;é, '), max_size=12)
arguments = st.dictionaries(
    awkward, st.one_of(awkward, st.integers(), st.none(), st.lists(awkward, max_size=2)), max_size=3
)
calls = st.lists(st.tuples(st.sampled_from(NAMES), arguments), min_size=1, max_size=3)
forms = st.sampled_from([HERMES, LLAMA, MISTRAL, QWEN_CODER])
json_forms = st.sampled_from([HERMES, LLAMA, MISTRAL])


def parsed(form, text, cuts=(), tools=TOOLS):
    parser, parts = ToolParser(form, tools), []
    places = sorted({0, *(cut % (len(text) + 1) for cut in cuts), len(text)})
    for first, last in zip(places, places[1:], strict=False):
        parts += parser.feed(text[first:last])
    parts += parser.finish()
    joined = []
    for part in parts:
        if isinstance(part, str) and joined and isinstance(joined[-1], str):
            joined[-1] += part
        else:
            joined.append(part)
    return joined


def as_values(parts):
    return [
        (each.name, json.loads(each.arguments)) if isinstance(each, ToolCall) else each
        for each in parts
    ]


def written(form, made, content=""):
    """What a model of the family writes, as its template has it."""
    called = [{"function": {"name": name, "arguments": json.dumps(args)}} for name, args in made]
    messages = for_template(
        [
            {"role": "user", "content": "?"},
            {"role": "assistant", "content": content, "tool_calls": called},
        ]
    )
    render = chat_formatter(TEMPLATES[form], {"bos_token": "", "eos_token": ""})
    text = render(messages, tools=ToolUse.of([WEATHER, ADD]).for_template())
    return text[text.index(BEGINS[form]) + len(BEGINS[form]) :].rpartition(ENDS[form])[0]


@given(json_forms, calls, st.lists(st.integers(0, 10**6), max_size=12))
def test_calls_as_templates_write_them_come_back_however_cut(form, made, cuts):
    made = made[:1] if form is LLAMA else made
    parts = parsed(form, written(form, made), cuts)
    assert as_values(parts) == made


@given(calls, st.lists(st.integers(0, 10**6), max_size=12))
def test_a_text_before_calls(made, cuts):
    parts = parsed(HERMES, written(HERMES, made, content="I look it up."), cuts)
    assert as_values(parts) == ["I look it up.", *made]


@given(
    forms,
    st.lists(
        st.sampled_from(
            [
                *("<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[ARGS]", "<|python_tag|>", "{"),
                *("<function=", "add>", "<parameter=", "a>", "</parameter>", "</function>"),
                *("}", "[", "]", '{"name": "add", "arguments": {}}', '"', "\\", ";", " ", "\n"),
                *("add", "é", "<"),
            ]
        ),
        max_size=14,
    ).map("".join),
    st.lists(st.integers(0, 10**6), max_size=20),
)
def test_the_pieces_make_no_difference_and_no_text_is_lost(form, text, cuts):
    whole = parsed(form, text)
    assert parsed(form, text, cuts) == whole
    if not any(isinstance(part, ToolCall) for part in whole):
        assert "".join(whole) == text


@pytest.mark.parametrize(
    ("form", "text", "expected"),
    [
        (HERMES, 'a <tool_call>{"name": "add"}</tool_call> b', ["a", ("add", {}), "b"]),
        (HERMES, '<tool_call>{"name": "sub", "arguments": {}}</tool_call>', None),
        (HERMES, '<tool_call>{"name": "add", "arguments": 7}</tool_call>', None),
        (HERMES, '<tool_call>{"name": "add", "arguments": {}}', None),
        (HERMES, "<tool_call> none </tool_call> x ", None),
        (HERMES, " \n", None),
        (HERMES, '<tool_call>{"name": "add"}</tool_call> b \n', [("add", {}), "b \n"]),
        (HERMES, '<tool_call>{"name": "add", "arguments": {"a": NaN}}</tool_call>', None),
        (HERMES, 'see "<tool" and x < y', None),
        (  # half of a surrogate pair, which UTF-8 does not have
            HERMES,
            '<tool_call>{"name": "add", "arguments": {"a": "\\ud83d"}}</tool_call>',
            [("add", {"a": "?"})],
        ),
        (LLAMA, '<|python_tag|>{"name": "add", "parameters": {"a": 1}}', [("add", {"a": 1})]),
        (LLAMA, '{"name": "add", "parameters": {}}; {"name": "add"}', [("add", {}), ("add", {})]),
        (LLAMA, '{"name": "Ann", "age": 3}', None),
        (LLAMA, 'As JSON: {"name": "add", "parameters": {}}', None),
        (LLAMA, '{"name": "add", "parameters": {}} and more', None),
        (MISTRAL, '[TOOL_CALLS]add[ARGS]{"a": 1}', [("add", {"a": 1})]),
        (MISTRAL, "[TOOL_CALLS]add[CALL_ID]x1[ARGS]{}[TOOL_CALLS]add[ARGS]{}", [("add", {})] * 2),
        (MISTRAL, 'Hm.[TOOL_CALLS] [{"name": "add", "arguments": "{}"}]', ["Hm.", ("add", {})]),
        (MISTRAL, "[TOOL_CALLS] nothing", None),
        (MISTRAL, "[TOOL_CALLS][1, 2]", None),
        (QWEN_CODER, "<tool_call>\n<function=add>\n</function>\n</tool_call>", [("add", {})]),
        (  # models leave out the first mark, and the last one
            QWEN_CODER,
            "Hm. <function=add><parameter=a>\n1\n</parameter></function>",
            ["Hm.", ("add", {"a": 1})],
        ),
        (QWEN_CODER, "<function=add>\n</function> </tool_c", [("add", {})]),
        (QWEN_CODER, "<function=add>\n</function>\nDone.", [("add", {}), "Done."]),
        (QWEN_CODER, "<tool_call>\n<function=sub>\n</function>\n</tool_call>", None),
        (QWEN_CODER, "<function=add>\n<parameter=a>\n1\n</parameter>\n", None),
        (QWEN_CODER, "<function=add>\nand so on</function>", None),
        (QWEN_CODER, "a <function=\nb>", None),
        (QWEN_CODER, '<tool_call>{"name": "add", "arguments": {}}</tool_call>', None),
    ],
)
def test_what_is_a_call_and_what_is_text(form, text, expected):
    for cuts in ((), range(len(text))):
        assert as_values(parsed(form, text, cuts)) == ([text] if expected is None else expected)


TYPED = {
    "$defs": {"size": {"enum": ["S", 7]}, "loop": {"anyOf": [{"$ref": "#/$defs/loop"}] * 2}},
    "type": "object",
    "properties": {
        "text": {"type": "string"},
        "n": {"type": "integer"},
        "x": {"type": "number"},
        "yes": {"type": "boolean"},
        "list": {"type": "array"},
        "maybe": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        "either": {"type": ["string", "integer"]},
        "size": {"$ref": "#/$defs/size"},
        "loop": {"$ref": "#/$defs/loop"},
    },
}
SET = {"type": "function", "function": {"name": "set", "parameters": TYPED}}
SETS = ToolUse.of([SET]).tools


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("text", "12", "12"),
        ("text", '"a"', '"a"'),
        ("text", "\n a\n\n<b></parameter", "\n a\n\n<b></parameter"),
        ("n", "12", 12),
        ("n", "a dozen", "a dozen"),
        ("x", "1.5", 1.5),
        ("yes", "True", True),
        ("yes", "false", False),
        ("list", '["a", 1]', ["a", 1]),
        ("maybe", "None", None),
        ("maybe", "12", "12"),
        ("either", "12", 12),
        ("either", "twelve", "twelve"),
        ("size", "S", "S"),
        ("size", "7", 7),
        ("loop", "[1]", [1]),
        ("other", "[1]", [1]),
        ("other", "[1", "[1"),
    ],
)
def test_what_an_argument_stands_for_is_in_its_schema(name, text, expected):
    call = f"<function=set>\n<parameter={name}>\n{text}\n</parameter>\n</function>"
    (part,) = parsed(QWEN_CODER, call, tools=SETS)
    assert json.loads(part.arguments) == {name: expected}


plain_values = {
    "text": awkward,
    "n": st.integers(),
    "yes": st.booleans(),
    "list": st.lists(st.one_of(awkward, st.integers()), max_size=2),
}


@given(
    st.lists(st.fixed_dictionaries({}, optional=plain_values), min_size=1, max_size=3),
    st.lists(st.integers(0, 10**6), max_size=12),
)
def test_typed_arguments_come_back_however_cut(arguments, cuts):
    made = [("set", each) for each in arguments]
    text = written(QWEN_CODER, made, content="So be it.")
    assert as_values(parsed(QWEN_CODER, text, cuts, tools=SETS)) == ["So be it.", *made]


def test_texts_leave_as_soon_as_they_cannot_be_calls():
    parser = ToolParser(HERMES, TOOLS)
    assert parser.feed("Hello <") == ["Hello"]
    assert parser.feed("b> ") == [" <b>"]
    assert parser.feed("<tool_call>") == []
    assert parser.feed('\n{"name": "add", "arguments": {}}\n</tool_cal') == []
    assert parser.feed("l>") == [ToolCall("add", "{}")]
    assert parser.finish() == []


def test_the_form_is_that_of_the_chat_template():
    for form, template in TEMPLATES.items():
        assert format_of(template) is form
    for template, said in (
        ("{{ messages[0].content }}", "does not know tools"),
        ("{% if", "does not know tools"),
        (
            "{{ tools }}<tool_call><function=x>",
            "known: hermes, qwen3-coder, mistral, llama",
        ),
        ("{{ tools }}", "are not known"),
    ):
        with pytest.raises(UserError, match=said):
            format_of(template)


def test_tools_of_a_request():
    use = ToolUse.of([WEATHER, ADD], parallel_tool_calls=False)
    assert (use.choice, use.is_forced, use.is_parallel) == ("auto", False, False)
    told = use.for_template()
    assert [each["function"]["name"] for each in told] == ["get_weather", "add"]
    assert told[1]["function"]["parameters"] == {"type": "object"}
    only = ToolUse.of([WEATHER, ADD], {"type": "function", "function": {"name": "add"}})
    assert only.is_forced and [each.name for each in only.callable] == ["add"]
    assert ToolUse.of([ADD], "none").for_template() is None
    assert ToolUse.of(None) == ToolUse.of([]) == ToolUse(choice="none")
    assert NO_TOOLS.for_template() is None


@pytest.mark.parametrize(
    ("tools", "choice", "said"),
    [
        ({}, None, "tools {}: give a list"),
        ([{"type": "web_search"}], None, r"tools\[0\]: only tools of the type function"),
        ([{"type": "function"}], None, r"tools\[0\].function None: give an object"),
        ([{"type": "function", "function": {}}], None, r"tools\[0\].function.name None"),
        ([ADD, ADD], None, "two functions have the name 'add'"),
        ([ADD], "maybe", "tool_choice 'maybe': give auto, none, required"),
        ([ADD], {"function": {"name": "x"}}, "tool_choice: 'x' is none of the tools"),
        ([], "required", "tool_choice required: there are no tools"),
        (
            [{"type": "function", "function": {"name": "a", "parameters": 7}}],
            None,
            "parameters 7: give a JSON schema",
        ),
    ],
)
def test_wrong_tools(tools, choice, said):
    with pytest.raises(UserError, match=said):
        ToolUse.of(tools, choice)


@pytest.mark.parametrize("calls", [7, [7], [{"function": {"name": "a", "arguments": "{"}}]])
def test_wrong_calls_in_messages(calls):
    with pytest.raises(UserError, match="tool_calls of message 1"):
        for_template([{"role": "assistant", "tool_calls": calls}])


def spell_out(vocab, tokens):
    return b"".join(vocab.piece(token, is_special=True) for token in tokens).decode()


@pytest.mark.parametrize("form", [HERMES, LLAMA, MISTRAL, QWEN_CODER], ids=lambda form: form.name)
@pytest.mark.parametrize("choice", ["required", {"function": {"name": "get_weather"}}], ids=str)
def test_an_answer_that_has_to_be_calls_is_calls(form, choice):
    """Always the first of the allowed tokens, or the last: the parser finds calls, and no text."""
    closers = [b"<", b"/"] if form is QWEN_CODER else [b"}", b"]"]
    control = [b"<|end|>", *(mark.encode() for mark in form.marks)] if form is MISTRAL else None
    vocab = ByteVocab(control=control) if control else ByteVocab()
    use = ToolUse.of([WEATHER, ADD], choice)
    spelled = spelled_tokens(vocab, form.marks)
    assert set(spelled) == (set(form.marks) if control else set())
    start = GrammarCompiler(vocab).start(form.grammar(use, spelled))
    for take in (min, max):
        state, tokens = start, []
        while not state.is_over and len(tokens) < 300:
            allowed = [token for token in range(vocab.n_tokens) if state.mask.allows(token)]
            ends = [token for token in allowed if token in vocab.ends]
            # whatever may end shall end, and arguments of any kind shall be few
            closing = [
                token for token in allowed if vocab.piece(token) in [b"%c" % c for c in closers]
            ]
            tokens.append(take(ends or closing or allowed))
            state = state.after(tokens[-1])
        assert state.is_over
        parts = parsed(form, spell_out(vocab, tokens[:-1]))
        assert parts and all(isinstance(each, ToolCall) for each in parts), parts
        assert choice == "required" or {each.name for each in parts} == {"get_weather"}


odd_schemas = st.recursive(
    st.none() | st.integers() | st.booleans() | st.sampled_from(["string", "a", "#/$defs/a"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["type", "enum", "const", "anyOf", "$ref", "a", "minLength", "pattern"]
            ),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)
STRICT = {
    "$defs": {"size": {"enum": ["S", 7, 'é"']}},
    "type": "object",
    "properties": {
        "text": {"type": "string", "maxLength": 3},
        "n": {"type": "integer", "minimum": 0, "maximum": 20},
        "yes": {"type": "boolean"},
        "list": {"type": "array", "items": {"enum": ["a", 1]}, "maxItems": 2},
        "maybe": {"anyOf": [{"enum": ["x"]}, {"type": "null"}]},
        "either": {"type": ["boolean", "null"]},
        "size": {"$ref": "#/$defs/size"},
    },
    "required": ["text", "list", "maybe", "size"],
}


@pytest.mark.parametrize("seed", range(8))
def test_arguments_of_a_forced_call_follow_their_schemas(seed):
    draw = random.Random(seed)
    tool = {"type": "function", "function": {"name": "set", "parameters": STRICT}}
    use = ToolUse.of([tool], "required")
    vocab = ByteVocab()
    state = GrammarCompiler(vocab).start(QWEN_CODER.grammar(use, {}))
    tokens = []
    while not state.is_over and len(tokens) < 3000:
        allowed = [token for token in range(vocab.n_tokens) if state.mask.allows(token)]
        ends = [token for token in allowed if token in vocab.ends]
        tokens.append(draw.choice(ends or allowed))
        state = state.after(tokens[-1])
    assert state.is_over
    # a text may be made of any bytes
    text = b"".join(vocab.piece(token) for token in tokens[:-1]).decode(errors="replace")
    parts = parsed(QWEN_CODER, text, tools=use.tools)
    assert parts and all(isinstance(each, ToolCall) for each in parts), parts
    for each in parts:
        jsonschema.validate(json.loads(each.arguments), STRICT)


@given(st.dictionaries(st.sampled_from(["properties", "required", "$defs"]), odd_schemas))
def test_any_schema_makes_a_grammar_or_an_error_of_the_request(parameters):
    function = {"name": "add", "parameters": parameters}
    tools = ToolUse.of([{"type": "function", "function": function}], "required")
    call = "<function=add><parameter=a>\n7\n</parameter></function>"
    assert len(parsed(QWEN_CODER, call, tools=tools.tools)) == 1
    with contextlib.suppress(UserError):
        QWEN_CODER.grammar(tools, {})


def test_schemas_that_calls_between_marks_cannot_follow():
    loop = {"$ref": "#/$defs/loop"}
    for schema, said in (
        ({"type": "string", "pattern": "a"}, "add.a has a pattern"),
        ({"anyOf": [loop]}, "add.a has too many alternatives"),
        ({"oneOf": [{}] * 100}, "add.a has too many alternatives"),
    ):
        parameters = {"$defs": {"loop": {"anyOf": [loop] * 2}}, "properties": {"a": schema}}
        function = {"name": "add", "parameters": parameters}
        use = ToolUse.of([{"type": "function", "function": function}], "required")
        with pytest.raises(UserError, match=said):
            QWEN_CODER.grammar(use, {})
