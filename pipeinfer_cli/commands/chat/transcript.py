"""A conversation as token ids: a turn's prompt begins with what the turn before has left."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from pipeinfer_cli.commands.chat.template import ChatTemplate, Message
from pipeinfer_cli.commands.generate_config import GenerateConfig
from pipeinfer_cli.engine.vocab import Vocab
from pipeinfer_cli.errors import UserError

# Some tokenizers put a space before the first word of a text, but not after this.
ANCHOR = "\n"


class Tokenizer(Protocol):
    """What is needed of vocab.Vocab."""

    @property
    def bos(self) -> int | None:
        """The token that begins a text."""

    @property
    def adds_bos(self) -> bool:
        """Whether the model wants its texts to begin with it."""

    def tokenize(self, text: str, *, is_whole: bool = True) -> list[int]:
        """The text's token ids."""

    def text(self, token: int) -> bytes:
        """The token as the vocabulary spells it."""

    def piece(self, token: int, *, is_special: bool = False) -> bytes:
        """The token's bytes in a text."""


class Transcript:
    """The messages so far, and the prompt for the next answer.

    The ids of a prompt begin with those of the prompt and the answer before it, as far as the
    chat template repeats their text: they are in the KV cache. Only what follows is tokenized.
    """

    def __init__(self, vocab: Tokenizer, template: ChatTemplate) -> None:
        self._vocab = vocab
        self._template = template
        self.reset()

    def reset(self) -> None:
        """Forgets all messages."""
        self._messages: list[Message] = []
        self._prompt_text = ""
        self._prompt_ids: list[int] = []
        self._answer: Sequence[int] = ()
        self._begun_text, self._begun_ids = "", list[int]()  # of an answer that is continued

    def ask(self, message: str) -> list[int]:
        """The prompt, whole, for an answer to this message, which is kept if `keep` is called.

        Raises UserError if the chat template refuses the message.
        """
        question: Message = {"role": "user", "content": message}
        messages = [*self._messages, question]
        text = self._template.text(messages)
        ids = self._known(text)
        self._pending, self._pending_text, self._pending_ids = messages, text, ids
        self._begun_text, self._begun_ids = "", list[int]()
        return ids

    def go_on(self) -> list[int]:
        """The prompt, whole, for more of the last answer, which is kept if `keep` is called.

        Raises UserError if there is no answer.
        """
        if not self._messages:
            raise UserError("there is no answer to continue: send a message first")
        *self._pending, last = self._messages
        self._pending_text, self._pending_ids = self._prompt_text, self._prompt_ids
        self._begun_text = last["content"]
        ids, n_bytes = matching_tokens(self._vocab, self._answer, self._begun_text)
        rest = self._begun_text.encode()[n_bytes:].decode()
        self._begun_ids = [*ids, *(continuation(self._vocab, rest) or [] if rest else [])]
        return [*self._pending_ids, *self._begun_ids]

    def keep(self, tokens: Sequence[int], text: str) -> None:
        """Keeps the message and this answer to it. The tokens may continue after the text."""
        answer: Message = {"role": "assistant", "content": self._begun_text + text}
        self._messages = [*self._pending, answer]
        self._prompt_text, self._prompt_ids = self._pending_text, self._pending_ids
        self._answer = [*self._begun_ids, *tokens]

    def _known(self, text: str) -> list[int]:
        """The prompt's ids: those that are known, and those of the text that is new."""
        if not self._messages or not text.startswith(self._prompt_text):
            return whole_prompt(self._vocab, text)
        said = self._messages[-1]["content"]
        for kept in (said, said.rstrip()):  # templates like to trim
            if text.startswith(self._prompt_text + kept):
                ids, n_bytes = matching_tokens(self._vocab, self._answer, kept)
                rest = text.removeprefix(self._prompt_text).encode()[n_bytes:].decode()
                if (new := continuation(self._vocab, rest)) is not None:
                    return [*self._prompt_ids, *ids, *new]
        return whole_prompt(self._vocab, text)


def matching_tokens(vocab: Tokenizer, tokens: Sequence[int], text: str) -> tuple[list[int], int]:
    """The tokens that spell the text, or a beginning of it in whole characters; and its bytes."""
    data, n_bytes = text.encode(), 0
    n_ids = n_whole = 0
    for count, token in enumerate(tokens, start=1):
        piece = vocab.piece(token)
        if not piece or not data.startswith(piece, n_bytes):
            break
        n_bytes += len(piece)
        if n_bytes == len(data) or data[n_bytes] & 0xC0 != 0x80:  # no character has only begun
            n_ids, n_whole = count, n_bytes
    return list(tokens[:n_ids]), n_whole


def continuation(vocab: Tokenizer, text: str) -> list[int] | None:
    """The ids of a text that does not begin a prompt; None if the tokenizer will not say."""
    ids = vocab.tokenize(text, is_whole=False)
    if not ids or text.encode().startswith(vocab.piece(ids[0], is_special=True)):
        return ids
    anchor = vocab.tokenize(ANCHOR, is_whole=False)
    ids = vocab.tokenize(ANCHOR + text, is_whole=False)
    return ids[len(anchor) :] if ids[: len(anchor)] == anchor else None


def whole_prompt(vocab: Tokenizer, text: str) -> list[int]:
    """The ids of a rendered conversation. Where template or model want a BOS there is one."""
    if vocab.bos is None:
        return vocab.tokenize(text, is_whole=False)
    bos_text = vocab.text(vocab.bos).decode(errors="replace")
    begins = bool(bos_text) and text.startswith(bos_text)
    ids = vocab.tokenize(text.removeprefix(bos_text) if begins else text, is_whole=False)
    return [vocab.bos, *ids] if begins or vocab.adds_bos else ids


def message_prompt(config: GenerateConfig, vocab: Vocab, message: str) -> list[int]:
    """The prompt for an answer to one message. UserError if the model has no chat template."""
    template = ChatTemplate.of(vocab, config.model, system=config.system, options=config.template)
    template.say_note()
    return Transcript(vocab, template).ask(message)
