"""A model's vocabulary: text to token ids and back, through llama-cpp-python's bindings."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from pipeinfer_cli import native
from pipeinfer_cli.errors import UserError

PIECE_BYTES = 256


class Vocab:
    """The vocabulary of a GGUF, loaded without its tensors. Raises UserError if it has none."""

    def __init__(self, model_path: Path, *, verbose: bool = False) -> None:
        self._llama = llama = bindings()
        native.capture_log(verbose=verbose)  # importing the bindings has set a log of their own
        params = llama.llama_model_default_params()
        params.vocab_only = True
        self._model = llama.llama_model_load_from_file(os.fsencode(model_path), params)
        if not self._model:
            raise UserError(
                f"cannot read the vocabulary of {str(model_path)!r}: check -m/--model, or use -v "
                "to see llama.cpp's own words"
            )
        self._vocab = llama.llama_model_get_vocab(self._model)
        self.n_tokens: int = llama.llama_vocab_n_tokens(self._vocab)

    def tokenize(self, text: str) -> list[int]:
        """As llama.cpp's tools do: special tokens recognised, BOS where the model wants one."""
        data = text.encode()
        room = len(data) + 8
        ids = (self._llama.llama_token * room)()
        count = self._llama.llama_tokenize(self._vocab, data, len(data), ids, room, True, True)
        assert count >= 0, "a text never has more tokens than bytes and added ones"
        return list(ids[:count])

    def piece(self, token: int) -> bytes:
        """The token's bytes, maybe a part of a UTF-8 character; empty for control tokens."""
        room = PIECE_BYTES
        while True:
            data = native.byte_buffer(room)
            count = self._llama.llama_token_to_piece(self._vocab, token, data, room, 0, False)
            if count >= 0:
                return data.raw[:count]
            room = -count

    def text(self, token: int) -> bytes:
        """The token as the vocabulary spells it, control tokens, too."""
        return bytes(self._llama.llama_vocab_get_text(self._vocab, token))

    def ends_generation(self, token: int) -> bool:
        """Whether it is one of the model's end-of-generation tokens."""
        return bool(self._llama.llama_vocab_is_eog(self._vocab, token))


def bindings() -> Any:
    """llama_cpp's low-level module, bound to our libllama."""
    os.environ["LLAMA_CPP_LIB_PATH"] = str(native.lib_dir())
    import llama_cpp.llama_cpp as llama

    return llama
