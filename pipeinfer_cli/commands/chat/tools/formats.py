"""The forms in which models write calls of tools, told apart by their chat templates."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial

from pipeinfer_cli.commands.chat.template_options import variables_of
from pipeinfer_cli.commands.chat.tools import xml
from pipeinfer_cli.commands.chat.tools.definitions import Tool, ToolUse
from pipeinfer_cli.engine.vocab import Vocab
from pipeinfer_cli.errors import UserError
from pipeinfer_cli.runtime.grammar.compiler import DEFINITIONS, JSON_OPTIONS
from pipeinfer_cli.runtime.grammar.source import GrammarSource

HERMES_BEGIN, HERMES_END = xml.CALL_BEGIN, xml.CALL_END
LLAMA_TAG = "<|python_tag|>"
MISTRAL_BEGIN, MISTRAL_ARGS, MISTRAL_ID = "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"

Spell = Callable[[str], str]  # a mark of the form, or another text, as Lark has it


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolFormat:
    """A form of calls.

    `marks` have a meaning in it. Where they are control tokens, the text is to have them as they
    are spelled: see `spelled_tokens`.
    """

    name: str
    marks: tuple[str, ...]
    begins: tuple[str, ...]  # a call begins with one of them
    call: Callable[[str, Tool], Sequence[str]]  # in Lark: the rule of this name is a call of it
    # In Lark, of calls: the rule `start`. `call` is one of them.
    one: Callable[[Spell], str]
    several: Callable[[Spell], str]

    def grammar(self, use: ToolUse, spelled: Mapping[str, int]) -> GrammarSource:
        """What an answer is like that has to be calls. `spelled`: control tokens, by their marks.

        A JSON schema that llguidance cannot use is an error of whoever compiles this.
        """

        def spell(text: str) -> str:
            return f"<[{spelled[text]}]>" if text in spelled else json.dumps(text)

        tools = use.callable
        start = (self.several if use.is_parallel else self.one)(spell)
        rules = [f"start: {start}", f"call: {' | '.join(f'call{i}' for i in range(len(tools)))}"]
        for index, tool in enumerate(tools):
            rules += self.call(f"call{index}", tool)
        return GrammarSource(form="lark", text="\n".join(rules), name="tools")


def _json_call(arguments: str, rule: str, tool: Tool) -> list[str]:
    """A call as an object. What its schema defines must be at the root."""
    parameters = dict(tool.parameters)
    shared = {key: parameters.pop(key) for key in DEFINITIONS if key in parameters}
    schema = {
        "x-guidance": JSON_OPTIONS,
        **shared,
        "type": "object",
        "properties": {"name": {"const": tool.name}, arguments: parameters},
        "required": ["name", arguments],
        "additionalProperties": False,
    }
    return [f"{rule}: %json {json.dumps(schema)}"]


def _between_marks(spell: Spell) -> str:
    newline = json.dumps("\n")
    return f"{spell(HERMES_BEGIN)} {newline} call {newline} {spell(HERMES_END)}"


def _several_between_marks(spell: Spell) -> str:
    return f'{_between_marks(spell)} ("\\n" {_between_marks(spell)})*'


HERMES = ToolFormat(
    name="hermes",
    marks=(HERMES_BEGIN, HERMES_END),
    begins=(HERMES_BEGIN,),
    call=partial(_json_call, "arguments"),
    one=_between_marks,
    several=_several_between_marks,
)
QWEN_CODER = ToolFormat(
    name="qwen3-coder",
    marks=(xml.CALL_BEGIN, xml.CALL_END),
    begins=(xml.CALL_BEGIN, xml.FUNCTION_BEGIN),
    call=xml.call_rules,
    one=_between_marks,
    several=_several_between_marks,
)
LLAMA = ToolFormat(
    name="llama",
    marks=(LLAMA_TAG,),
    begins=(LLAMA_TAG,),
    call=partial(_json_call, "parameters"),
    one=lambda _: "call",
    several=lambda _: "call",  # its template knows answers with a single call only
)
MISTRAL = ToolFormat(
    name="mistral",
    marks=(MISTRAL_BEGIN, MISTRAL_ARGS, MISTRAL_ID),
    begins=(MISTRAL_BEGIN,),
    call=partial(_json_call, "arguments"),
    one=lambda spell: f'{spell(MISTRAL_BEGIN)} "[" call "]"',
    several=lambda spell: f'{spell(MISTRAL_BEGIN)} "[" call (", " call)* "]"',
)
FORMATS = (HERMES, QWEN_CODER, MISTRAL, LLAMA)


@cache
def format_of(template: str) -> ToolFormat:
    """The form that a chat template (its source) teaches. UserError if it is none that is known."""
    try:
        knows_tools = "tools" in variables_of(template)
    except Exception:  # noqa: BLE001 (whatever Jinja2 has against it is said where it is rendered)
        knows_tools = False
    if not knows_tools:
        raise UserError("tools: the model's chat template does not know tools: leave them out")
    if xml.FUNCTION_BEGIN in template:
        if xml.PARAMETER_BEGIN in template:
            return QWEN_CODER
    else:
        if MISTRAL_BEGIN in template:
            return MISTRAL
        if HERMES_BEGIN in template:
            return HERMES
        if LLAMA_TAG in template or '"parameters": ' in template:
            return LLAMA
    known = ", ".join(each.name for each in FORMATS)
    raise UserError(f"tools: calls in the form of the model's chat template are not known: {known}")


def spelled_tokens(vocab: Vocab, marks: Sequence[str]) -> dict[str, int]:
    """Those of the marks that are control tokens of a model, which have no text of their own."""
    found = {}
    for mark in marks:
        ids = vocab.tokenize(mark, is_whole=False)
        if len(ids) == 1 and not vocab.piece(ids[0]):
            found[mark] = ids[0]
    return found
