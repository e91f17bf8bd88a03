"""A conversation as the text that a model knows it by: the GGUF's own chat template."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any, NoReturn

from pipeinfer_cli import console
from pipeinfer_cli.commands.chat.template_options import (
    NO_OPTIONS,
    TemplateOptions,
    variables_of,
)
from pipeinfer_cli.engine.vocab import Vocab
from pipeinfer_cli.errors import UserError

Message = Mapping[str, str]  # role and content
# Where the last answer ends in a rendered text: a character that nobody uses, in no template.
MARK = "\U0010fffd"
Render = Callable[..., str]  # of messages, and values of variables by their names


class ChatTemplate:
    """Renders messages, and the beginning of the answer to them.

    A system text whose role the template refuses, or ignores, goes before the first message;
    `note` says so then. Raises UserError if the template cannot render a first message.
    """

    def __init__(self, render: Render, *, system: str | None = None) -> None:
        self._render = render
        self._system: list[Message] = []
        self._folded = ""
        self.note = ""
        self.unused: tuple[str, ...] = ()  # variables that were given values
        probe: Message = {"role": "user", "content": "?"}
        if system is not None:
            message: Message = {"role": "system", "content": system}
            if self._takes([message, probe], system):
                self._system = [message]
            else:
                self._folded = system
                self.note = "the chat template has no system role: --system goes before the message"
        self.text([probe])

    @classmethod
    def of(
        cls,
        vocab: Vocab,
        model: str,
        *,
        system: str | None,
        options: TemplateOptions = NO_OPTIONS,
    ) -> ChatTemplate:
        """The model's own, or another one that was asked for.

        UserError if there is none, if it is not a template, or lacks a switch that is asked for.
        """
        own, given = vocab.chat_template, options.read().source
        source = own if given is None else given
        if source is None:
            raise UserError(
                f"{model!r} has no chat template (tokenizer.chat_template): use an instruct "
                "model, give one with --chat-template, or generate without --chat and a prompt in "
                "the form that the model knows"
            )
        try:
            render = chat_formatter(source, special_tokens(vocab))
            known = variables_of(source)
        except Exception as error:  # noqa: BLE001 (whatever Jinja2 has against it)
            owner = model if given is None else str(options.file)
            raise UserError(f"the chat template of {owner!r} is damaged: {error}") from None
        template = cls(partial(render, **options.values_for(known)), system=system)
        template.unused = tuple(name for name in options.variables if name not in known)
        return template

    def say_note(self) -> None:
        """Says on stderr what is unusual about it."""
        if self.note:
            console.note(self.note)
        if self.unused:
            console.note(
                f"--chat-template-kwargs: the chat template does not use {', '.join(self.unused)}"
            )

    def text(self, messages: Sequence[Message], /, **variables: Any) -> str:
        """The conversation up to where the next answer begins. The first message is a user's.

        An answer that is the last message is continued: the text ends where it ends.
        `variables` are values for the template, beside those of the options.

        Raises UserError if the template refuses it.
        """
        *before, last = messages
        if last["role"] != "assistant":
            return self._rendered(messages, variables)
        if not last["content"] and before:
            return self._rendered(before, variables)
        marked = {**last, "content": last["content"] + MARK}
        text = self._rendered([*before, marked], {**variables, "add_generation_prompt": False})
        end = text.rfind(MARK)
        if end < 0:
            raise UserError("the model's chat template leaves out the last message to continue")
        return text[:end].replace(MARK, "")

    def _rendered(self, messages: Sequence[Message], variables: Mapping[str, Any]) -> str:
        first, *others = messages
        if self._folded:
            first = {**first, "content": f"{self._folded}\n\n{first['content']}"}
        try:
            return self._render([*self._system, first, *others], **variables)
        except Exception as error:  # noqa: BLE001 (a template is a program by somebody else)
            raise UserError(f"the model's chat template fails: {_reason(error)}") from None

    def _takes(self, messages: Sequence[Message], system: str) -> bool:
        try:
            return system.strip() in self._render(messages)
        except Exception:  # noqa: BLE001 (said when it fails without the system text, too)
            return False


def special_tokens(vocab: Vocab) -> dict[str, str]:
    """The texts of special tokens by the names that templates know them by."""
    ends = {"bos_token": _text(vocab, vocab.bos), "eos_token": _text(vocab, vocab.eos)}
    return {**vocab.special_tokens, **ends}


def chat_formatter(template: str, special: Mapping[str, str]) -> Render:
    """Renders a chat template (Jinja2, in a sandbox) with a beginning of the next answer.

    What templates of models may use is what Transformers gives them, with the texts of these
    special tokens. Both this and the function that it returns raise whatever Jinja2 and the
    template want.
    """
    from jinja2 import ext, nodes, parser, sandbox

    class GenerationTags(ext.Extension):
        """`{% generation %}` marks what a model is trained on; its block is kept as it is."""

        tags = {"generation"}  # noqa: RUF012 (as in the base class)

        def parse(self, parser: parser.Parser) -> list[nodes.Node]:
            parser.stream.skip(1)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    environment = sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[GenerationTags, ext.loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    render = partial(
        environment.from_string(template).render,
        **special,
        add_generation_prompt=True,
        documents=None,
        raise_exception=_raise,
        strftime_now=lambda form: datetime.now().strftime(form),  # noqa: DTZ005 (where we are)
        functions=None,
        function_call=None,
        tools=None,
        tool_choice=None,
    )
    return lambda messages, **variables: str(render(messages=list(messages), **variables))


def _to_json(value: Any, **options: Any) -> str:
    """Jinja2's own filter would escape for HTML."""
    return json.dumps(value, **{"ensure_ascii": False, **options})


def _raise(message: str) -> NoReturn:
    raise ValueError(message)


def _text(vocab: Vocab, token: int | None) -> str:
    return "" if token is None else vocab.text(token).decode(errors="replace")


def _reason(error: Exception) -> str:
    return f"{error}" or type(error).__name__
