"""A model's vocabulary: text to token ids and back, through llama-cpp-python's bindings."""

from __future__ import annotations

import ctypes
import os
import re
import unicodedata
import weakref
from collections.abc import Iterable
from ctypes import c_int32
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from pipeinfer_cli.engine import abi, llama_cpp
from pipeinfer_cli.engine.abi import ERR_INVALID, ERROR_BYTES, OK, decoded
from pipeinfer_cli.engine.formats import stage_archs
from pipeinfer_cli.engine.llama_cpp import bindings
from pipeinfer_cli.errors import UserError

PIECE_BYTES = 256
META_BYTES = 128
FTYPE_PREFIXES = ("LLAMA_FTYPE_MOSTLY_", "LLAMA_FTYPE_ALL_")
NO_VOCABULARY = 0  # enum llama_vocab_type
NO_FLASH_ATTENTION = ("grok",)
# llama.cpp splits a text by regular expressions that need some hundred bytes of memory for each
# character of what they match.
MAX_WORD_CHARS = 250_000
# What llama.cpp warns of though it changes nothing, or has put it right.
HARMLESS = re.compile(
    "control-looking token|default special token|removing .* (token )?from|is a normal token here|"
    "is not in special_eog_ids|"
    "override .* for Gemma4|attribute to USER_DEFINED|dummy tokens|GENERATION QUALITY|"
    "CONSIDER REGENERATING|^[* ]*$"
)
VALUE = re.compile(r"\d+|'[^']*'")
NO_PRE_TOKENIZER = "missing pre-tokenizer type"

TYPES = {  # enum llama_token_attr; its other bits say how a text is cut into tokens
    1 << 0: "unknown",
    1 << 1: "unused",
    1 << 2: "normal",
    1 << 3: "control",
    1 << 4: "user-defined",
    1 << 5: "byte",
}
TYPE_BITS = sum(TYPES)
SPECIAL_TOKENS = {  # beside BOS and EOS; as GGUFs spell the keys
    "unk_token": "unknown",
    "sep_token": "seperator",
    "pad_token": "padding",
    "cls_token": "cls",
    "mask_token": "mask",
}

Entry = tuple[bytes, int]  # a token's text and type


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelMetadata:
    """What a model is called by."""

    type: str  # architecture, size and file type: `llama 135M Q4_1`
    size_bytes: int  # of all tensors
    n_params: int


class Vocab:
    """The vocabulary of a GGUF, loaded without its tensors. Raises UserError if it has none.

    `notes` are what llama.cpp warns of.
    """

    def __init__(self, model_path: Path, *, verbose: bool = False) -> None:
        self._llama = llama = bindings()
        self._lib = abi.load()
        llama_cpp.capture_log(verbose=verbose)  # llama_cpp, if it was run, has set its own
        llama_cpp.take_warnings()
        err = ctypes.create_string_buffer(ERROR_BYTES)
        self._handle = self._lib.pi_vocab_open(os.fsencode(model_path), err, ERROR_BYTES)
        if not self._handle:
            raise UserError(
                f"cannot read the vocabulary of {str(model_path)!r}: {decoded(err.value)}: use "
                "another model, or convert it again"
            )
        weakref.finalize(self, self._lib.pi_vocab_close, self._handle)
        self._model = ctypes.c_void_p(self._lib.pi_vocab_model(self._handle))
        warnings = notes_of(llama_cpp.take_warnings())
        self.notes = tuple(f"{str(model_path)!r}: {each}" for each in warnings)
        self._check_kind(model_path)
        self._vocab = llama.llama_model_get_vocab(self._model)
        self.n_tokens: int = llama.llama_vocab_n_tokens(self._vocab)

    def _check_kind(self, model_path: Path) -> None:
        """UserError for a kind of model that cannot be decoded as we do."""
        llama, arch = self._llama, self._meta("general.architecture")
        for kind, has_it in (
            ("a state that cannot be undone", llama.llama_model_is_recurrent),
            ("an encoder", llama.llama_model_has_encoder),
            ("no order of tokens", llama.llama_model_is_diffusion),
        ):
            if has_it(self._model):
                raise UserError(
                    f"{str(model_path)!r} is a model with {kind}: pipeinfer decodes transformers "
                    "with a KV cache, token after token: use one of these"
                )
        if llama.llama_model_is_hybrid(self._model) and arch not in stage_archs():
            raise UserError(
                f"{str(model_path)!r} is a model of the architecture {arch!r}, whose layers have "
                f"states that pipeinfer cannot keep: use one of {', '.join(stage_archs())}"
            )
        if llama.llama_vocab_type(llama.llama_model_get_vocab(self._model)) == NO_VOCABULARY:
            raise UserError(
                f"{str(model_path)!r} has no vocabulary (tokenizer.ggml.model): get another GGUF"
            )
        if arch in NO_FLASH_ATTENTION:
            raise UserError(
                f"{str(model_path)!r} is a model of the architecture {arch!r}, which llama.cpp "
                "computes without flash attention: its text would depend on how many tokens are "
                "computed at a time: use another model"
            )

    def tokenize(self, text: str, *, is_whole: bool = True) -> list[int]:
        """The text's token ids; control tokens that it spells are recognised.

        A whole text begins with BOS if the model wants that; nothing else is ever added. UserError
        if the vocabulary has no tokens for it, or if a word in it is too long.
        """
        check_words(text)
        data = text.encode()
        ids = self._ids(data, len(data) + 8)  # mostly enough
        return [self.bos, *ids] if is_whole and self.adds_bos and self.bos is not None else ids

    def _ids(self, data: bytes, room: int) -> list[int]:
        ids, count = (c_int32 * room)(), c_int32()
        err = ctypes.create_string_buffer(ERROR_BYTES)
        status = self._lib.pi_vocab_tokenize(
            self._handle, data, len(data), room, count, ids, err, ERROR_BYTES
        )
        if status == ERR_INVALID:  # a vocabulary without a space spells it in bytes
            return self._ids(data, count.value)
        if status != OK:
            raise UserError(f"cannot tokenize a text of {len(data)} bytes: {decoded(err.value)}")
        return ids[: count.value]

    def piece(self, token: int, *, is_special: bool = False) -> bytes:
        """The token's bytes, possibly only part of a UTF-8 character.

        Empty for control tokens, unless special ones are to be spelled, too.
        """
        return self._piece(token, abi.byte_buffer(PIECE_BYTES), is_special)

    def pieces(self, *, is_special: bool = False) -> list[bytes]:
        """The bytes of all tokens, by id: see `piece`."""
        data = abi.byte_buffer(PIECE_BYTES)
        return [self._piece(token, data, is_special) for token in range(self.n_tokens)]

    def _piece(self, token: int, data: ctypes.Array[ctypes.c_char], is_special: bool) -> bytes:
        while True:
            room = len(data)
            count = self._llama.llama_token_to_piece(self._vocab, token, data, room, 0, is_special)
            if count >= 0:
                return data.raw[:count]
            data = abi.byte_buffer(-count)

    def text(self, token: int) -> bytes:
        """The token as the vocabulary spells it, control tokens, too."""
        return bytes(self._llama.llama_vocab_get_text(self._vocab, token))

    def kind(self, token: int) -> int:
        """The bits of enum llama_token_attr that say of what type the token is; see TYPES."""
        return int(self._llama.llama_vocab_get_attr(self._vocab, token)) & TYPE_BITS

    def entries(self) -> list[Entry]:
        """All tokens, by id: how they are spelled, and of what type they are."""
        return [(self.text(token), self.kind(token)) for token in range(self.n_tokens)]

    @property
    def bos(self) -> int | None:
        """The token that begins a text; None if there is none."""
        return _id_or_none(self._llama.llama_vocab_bos(self._vocab))

    @property
    def eos(self) -> int | None:
        """The token that ends a text; None if there is none."""
        return _id_or_none(self._llama.llama_vocab_eos(self._vocab))

    @property
    def adds_bos(self) -> bool:
        """Whether the model wants its texts to begin with `bos`."""
        return bool(self._llama.llama_vocab_get_add_bos(self._vocab))

    @property
    def chat_template(self) -> str | None:
        """The GGUF's own, in Jinja2; None if it has none, or an empty one."""
        source: bytes | None = self._llama.llama_model_chat_template(self._model, None)
        return source.decode(errors="replace") if source and source.strip() else None

    @property
    def special_tokens(self) -> dict[str, str]:
        """The texts of the special tokens that the GGUF names, by the names that templates use."""
        found: dict[str, str] = {}
        for name, key in SPECIAL_TOKENS.items():
            token = self._meta(f"tokenizer.ggml.{key}_token_id")
            if token.isdecimal() and int(token) < self.n_tokens:
                found[name] = self.text(int(token)).decode(errors="replace")
        return found

    def ends_generation(self, token: int) -> bool:
        """Whether it is one of the model's end-of-generation tokens."""
        return bool(self._llama.llama_vocab_is_eog(self._vocab, token))

    def metadata(self) -> ModelMetadata:
        """Architecture, size and file type of the model that the vocabulary belongs to."""
        n_params: int = self._llama.llama_model_n_params(self._model)
        size_label = self._meta("general.size_label") or f"{n_params / 1e9:.2f}B"
        file_type = self._meta("general.file_type")
        names = {
            str(value): name.removeprefix(prefix)
            for name, value in vars(self._llama).items()
            for prefix in FTYPE_PREFIXES
            if name.startswith(prefix)
        }
        words = (self._meta("general.architecture"), size_label, names.get(file_type, ""))
        return ModelMetadata(
            type=" ".join(filter(None, words)),
            size_bytes=self._llama.llama_model_size(self._model),
            n_params=n_params,
        )

    def _meta(self, key: str) -> str:
        """A value of the GGUF's metadata; empty if it is not there."""
        data = abi.byte_buffer(META_BYTES)
        count = self._llama.llama_model_meta_val_str(self._model, key.encode(), data, META_BYTES)
        return bytes(data.value).decode(errors="replace") if count > 0 else ""


def _id_or_none(token: int) -> int | None:
    return token if token >= 0 else None


def check_words(text: str) -> None:
    """UserError for a text that llama.cpp would need too much memory to split."""
    if len(text) <= MAX_WORD_CHARS:
        return
    longest = max(sum(1 for _ in run) for _, run in groupby(text, _character_class))
    if longest > MAX_WORD_CHARS:
        raise UserError(
            f"the text has {longest} characters of one kind in a row, without a space or "
            f"punctuation between them; at most {MAX_WORD_CHARS} can be tokenized: divide them"
        )


def _character_class(character: str) -> str:
    """Letters with their accents, digits, spaces, or others: a word is of one of them."""
    kind = unicodedata.category(character)[0]
    if kind == "M":
        return "L"
    return " " if character.isspace() else kind if kind in "LN" else "P"


def notes_of(warnings: Iterable[str]) -> tuple[str, ...]:
    """What llama.cpp warns of in words for users: one note for warnings that differ in values."""
    alike: dict[str, list[str]] = {}
    for each in warnings:
        if not HARMLESS.search(each):
            alike.setdefault(VALUE.sub("", each), []).append(each)
    return tuple(_note(first, len(others)) for first, *others in alike.values())


def _note(warning: str, n_others: int) -> str:
    if NO_PRE_TOKENIZER in warning:
        return (
            "it does not say how its text is split into words (tokenizer.ggml.pre): llama.cpp's "
            "default is used, and answers may be worse than the model's: get a newer GGUF"
        )
    more = f" (and {n_others} more of this kind)" if n_others else ""
    return f"llama.cpp warns: {warning.strip()}{more}"
