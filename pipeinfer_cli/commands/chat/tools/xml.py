"""Calls as Qwen3-Coder writes them: each argument is a text between marks.

    <tool_call>
    <function=get_weather>
    <parameter=town>
    Rome
    </parameter>
    </function>
    </tool_call>

What such a text stands for depends on the schema of its parameter: strings are without quotes,
everything else is JSON.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from pipeinfer_cli.commands.chat.tools.definitions import Tool
from pipeinfer_cli.errors import UserError
from pipeinfer_cli.runtime.grammar.compiler import DEFINITIONS, JSON_OPTIONS

CALL_BEGIN, CALL_END = "<tool_call>", "</tool_call>"  # some models leave them out
FUNCTION_BEGIN, FUNCTION_END = "<function=", "</function>"
PARAMETER_BEGIN, PARAMETER_END = "<parameter=", "</parameter>"
SPACE = " \t\r\n"
N_REFS = 16  # of references that lead to one another
N_DEEP = 3  # of alternatives within alternatives
N_ALTERNATIVES = 64
KINDS = frozenset({"string", "integer", "number", "boolean", "object", "array", "null"})
# What templates make of values by Jinja2's filter `string`.
PYTHON_WORDS: Mapping[str, Any] = {"True": True, "False": False, "None": None}

Schema = Any  # a JSON schema: an object, or a boolean
Found = tuple[int, dict[str, Any] | None]  # characters, and the call; None: it is text


def find_call(held: str, tools: Mapping[str, Tool], *, is_end: bool) -> Found | None:
    """The call that a text begins with, which has one of the first marks; None: not known yet."""
    at = len(CALL_BEGIN) if held.startswith(CALL_BEGIN) else 0
    at = _skip_space(held, at)
    if not held.startswith(FUNCTION_BEGIN, at):
        return None if FUNCTION_BEGIN.startswith(held[at:]) else (at, None)
    close = held.find(">", at)
    if close < 0:
        return None if "\n" not in held[at:] else (at + len(FUNCTION_BEGIN), None)
    name = held[at + len(FUNCTION_BEGIN) : close]
    if name not in tools:
        return close + 1, None
    texts: dict[str, str] = {}
    at = close + 1
    while True:
        at = _skip_space(held, at)
        if held.startswith(FUNCTION_END, at):
            break
        if not held.startswith(PARAMETER_BEGIN, at):
            may_follow = (PARAMETER_BEGIN, FUNCTION_END)
            return None if any(each.startswith(held[at:]) for each in may_follow) else (at, None)
        close = held.find(">", at)
        end = held.find(PARAMETER_END, close)
        if close < 0 or end < 0:
            return None
        text = held[close + 1 : end]
        texts[held[at + len(PARAMETER_BEGIN) : close]] = text.removeprefix("\n").removesuffix("\n")
        at = end + len(PARAMETER_END)
    at += len(FUNCTION_END)
    call = {"name": name, "arguments": _arguments(tools[name], texts)}
    after = _skip_space(held, at)
    if held.startswith(CALL_END, after):
        return after + len(CALL_END), call
    if CALL_END.startswith(held[after:]):
        return (len(held), call) if is_end else None
    return at, call


def _skip_space(text: str, at: int) -> int:
    while at < len(text) and text[at] in SPACE:
        at += 1
    return at


def _arguments(tool: Tool, texts: Mapping[str, str]) -> dict[str, Any]:
    declared = _properties(tool)
    shared = _shared(tool)
    return {
        name: _value(text, _kinds(declared.get(name, True), shared)) for name, text in texts.items()
    }


def _value(text: str, kinds: frozenset[str]) -> Any:
    """What a text stands for, if it may be of these kinds."""
    if kinds == {"string"}:
        return text
    try:
        value = PYTHON_WORDS[text] if text in PYTHON_WORDS else json.loads(text)
    except (ValueError, RecursionError):
        return text
    fits = kinds & _kinds_of_value(value)
    return text if "string" in kinds and (not fits or isinstance(value, str)) else value


def _kinds_of_value(value: Any) -> frozenset[str]:
    if isinstance(value, bool):
        return frozenset({"boolean"})
    if isinstance(value, int):
        return frozenset({"integer", "number"})
    names = {str: "string", float: "number", dict: "object", list: "array"}
    return frozenset({names.get(type(value), "null")})


def _kinds(schema: Schema, shared: Mapping[str, Any], n_deep: int = N_DEEP) -> frozenset[str]:
    """The kinds of values that a schema may allow; all, if it goes too deep."""
    schema = _resolved(schema, shared)
    if not isinstance(schema, Mapping) or not n_deep:
        return KINDS
    if (values := _listed(schema)) is not None:
        return frozenset[str]().union(*map(_kinds_of_value, values))
    if parts := _alternatives(schema):
        if len(parts) > N_ALTERNATIVES:
            return KINDS
        return frozenset[str]().union(*(_kinds(each, shared, n_deep - 1) for each in parts))
    named = schema.get("type")
    names = [named] if isinstance(named, str) else named
    return KINDS.intersection(map(str, names)) if isinstance(names, list) else KINDS


def _properties(tool: Tool) -> Mapping[str, Schema]:
    properties = tool.parameters.get("properties")
    return properties if isinstance(properties, Mapping) else {}


def _shared(tool: Tool) -> dict[str, Any]:
    """What the schemas of parameters refer to."""
    return {key: tool.parameters[key] for key in DEFINITIONS if key in tool.parameters}


def _resolved(schema: Schema, shared: Mapping[str, Any]) -> Schema:
    """The schema that a reference leads to, if it is to a definition."""
    for _ in range(N_REFS):
        if not isinstance(schema, Mapping) or not isinstance(ref := schema.get("$ref"), str):
            return schema
        _, _, path = ref.partition("#/")
        group, _, name = path.partition("/")
        found = shared.get(group)
        if not isinstance(found, Mapping) or name not in found:
            return schema
        schema = found[name]
    return schema


def _listed(schema: Mapping[str, Any]) -> list[Any] | None:
    """The values that a schema lists."""
    if "const" in schema:
        return [schema["const"]]
    values = schema.get("enum")
    return values if isinstance(values, list) else None


def _alternatives(schema: Mapping[str, Any]) -> list[Schema]:
    for key in ("anyOf", "oneOf"):
        if isinstance(schema.get(key), list):
            return list(schema[key])
    named = schema.get("type")
    if isinstance(named, list) and len(named) > 1:
        return [{**schema, "type": each} for each in named]
    return []


# An answer that has to be a call


def call_rules(rule: str, tool: Tool) -> list[str]:
    """Rules in Lark: `rule` is a call, from the function's mark to its end.

    Parameters come in the order of their schema. UserError if one cannot be had in this form.
    """
    shared, parts, rules = _shared(tool), [], list[str]()
    names = tool.parameters.get("required")
    required = names if isinstance(names, list) else ()
    for index, (name, schema) in enumerate(_properties(tool).items()):
        part = f"{rule}_{index}"
        values = " | ".join(_value_rules(part, f"{tool.name}.{name}", schema, shared, rules))
        begin = _spelled(f"{PARAMETER_BEGIN}{name}>\n")
        rules.append(f"{part}: {begin} ({values})")
        parts.append(part if name in required else f"{part}?")
    if not _properties(tool):
        terminal = f"{rule.upper()}_ANY"
        rules.append(f'{terminal}: "{PARAMETER_BEGIN}" /[A-Za-z_][\\w.-]*/ ">\\n" {_text("*")}')
        parts.append(f"{terminal}*")
    begin = _spelled(f"{FUNCTION_BEGIN}{tool.name}>\n")
    return [f"{rule}: {begin} {' '.join(parts)} {_spelled(FUNCTION_END)}", *rules]


VALUE_END = f"\n{PARAMETER_END}\n"


def _spelled(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _text(repeated: str) -> str:
    """A text without the mark that ends it, and that mark."""
    escaped = PARAMETER_END.replace("/", "\\/")
    return f"(/(?s:.{repeated})/ & ~/(?s:.*{escaped}.*)/) {_spelled(VALUE_END)}"


def _value_rules(
    rule: str,
    place: str,
    schema: Schema,
    shared: Mapping[str, Any],
    rules: list[str],
    n_deep: int = N_DEEP,
) -> Iterator[str]:
    """In Lark, what a value may be, with the end of it; more rules are added to `rules`."""
    schema = _resolved(schema, shared)
    end = _spelled(VALUE_END)
    if isinstance(schema, Mapping):
        if (values := _listed(schema)) is not None:
            for value in values:
                text = value if isinstance(value, str) else json.dumps(value)
                yield _spelled(text + VALUE_END)
            return
        if parts := _alternatives(schema):
            if len(parts) > N_ALTERNATIVES or not n_deep:
                raise UserError(f"tools: {place} has too many alternatives for this form of calls")
            for index, part in enumerate(parts):
                deeper = n_deep - 1
                yield from _value_rules(f"{rule}_{index}", place, part, shared, rules, deeper)
            return
    if "string" in _kinds(schema, shared):
        limits = schema if isinstance(schema, Mapping) else {}
        if "pattern" in limits:
            raise UserError(f"tools: {place} has a pattern, which this form of calls does not know")
        least, most = limits.get("minLength", 0), limits.get("maxLength", "")
        rules.append(f"{rule.upper()}: {_text(f'{{{least},{most}}}')}")
        yield rule.upper()
        return
    value = {"x-guidance": JSON_OPTIONS, **shared, **schema}
    rules.append(f"{rule}_json: %json {json.dumps(value)}")
    yield f"{rule}_json {end}"
