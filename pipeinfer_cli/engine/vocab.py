"""A model's vocabulary: text to token ids and back, through llama-cpp-python's bindings."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from pipeinfer_cli.engine import abi, llama_cpp
from pipeinfer_cli.engine.llama_cpp import bindings
from pipeinfer_cli.errors import UserError

PIECE_BYTES = 256
META_BYTES = 128
FTYPE_PREFIXES = ("LLAMA_FTYPE_MOSTLY_", "LLAMA_FTYPE_ALL_")


TYPES = {  # enum llama_token_attr; its other bits say how a text is cut into tokens
    1 << 0: "unknown",
    1 << 1: "unused",
    1 << 2: "normal",
    1 << 3: "control",
    1 << 4: "user-defined",
    1 << 5: "byte",
}
TYPE_BITS = sum(TYPES)

Entry = tuple[bytes, int]  # a token's text and type


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelMetadata:
    """What a model is called by."""

    type: str  # architecture, size and file type: `llama 135M Q4_1`
    size_bytes: int  # of all tensors
    n_params: int


class Vocab:
    """The vocabulary of a GGUF, loaded without its tensors. Raises UserError if it has none."""

    def __init__(self, model_path: Path, *, verbose: bool = False) -> None:
        self._llama = llama = bindings()
        llama_cpp.capture_log(verbose=verbose)  # llama_cpp, if it was run, has set its own
        params = llama.llama_model_default_params()
        params.vocab_only = True
        self._model = llama.llama_model_load_from_file(os.fsencode(model_path), params)
        if not self._model:
            raise UserError(
                f"cannot read the vocabulary of {str(model_path)!r}: check -m/--model, or use -v "
                "to see llama.cpp's messages"
            )
        for kind, has_it in (
            ("a state that cannot be undone", llama.llama_model_is_recurrent),
            ("layers with a state that cannot be undone", llama.llama_model_is_hybrid),
            ("an encoder", llama.llama_model_has_encoder),
            ("no order of tokens", llama.llama_model_is_diffusion),
        ):
            if has_it(self._model):
                raise UserError(
                    f"{str(model_path)!r} is a model with {kind}: pipeinfer decodes transformers "
                    "with a KV cache, token after token: use one of these"
                )
        self._vocab = llama.llama_model_get_vocab(self._model)
        self.n_tokens: int = llama.llama_vocab_n_tokens(self._vocab)

    def tokenize(self, text: str, *, is_whole: bool = True) -> list[int]:
        """As llama.cpp's tools do: special tokens recognised, BOS where the model wants one.

        Nothing is added unless the text is whole.
        """
        data = text.encode()
        room = len(data) + 8  # mostly enough; a vocabulary without a space spells it in bytes
        while True:
            ids = (self._llama.llama_token * room)()
            count = self._llama.llama_tokenize(
                self._vocab, data, len(data), ids, room, is_whole, True
            )
            if count >= 0:
                return list(ids[:count])
            room = -count

    def piece(self, token: int, *, is_special: bool = False) -> bytes:
        """The token's bytes, possibly only part of a UTF-8 character.

        Empty for control tokens, unless special ones are to be spelled, too.
        """
        room = PIECE_BYTES
        while True:
            data = abi.byte_buffer(room)
            count = self._llama.llama_token_to_piece(self._vocab, token, data, room, 0, is_special)
            if count >= 0:
                return data.raw[:count]
            room = -count

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
        """The GGUF's own, in Jinja2; None if it has none."""
        source: bytes | None = self._llama.llama_model_chat_template(self._model, None)
        return None if source is None else source.decode(errors="replace")

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
