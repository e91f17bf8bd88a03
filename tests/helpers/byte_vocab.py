"""A vocabulary without a model: all bytes, some words, and two control tokens that end a text."""

from __future__ import annotations

from pipeinfer_cli.errors import UserError

WORDS = [b'{"', b'":', b'": "', b"name", b"age", b'", "', b'"}', b"true", b"null", b" the", b"ab"]
CONTROL = [b"<|end|>", b"<|stop|>"]
N_BYTES = 256


class ByteVocab:
    """Stands for engine.vocab.Vocab. The longest word wins; a text's first word gets no space."""

    bos = None

    def __init__(self, words=WORDS, control=CONTROL, *, n_ends=1):
        self._texts = [*(bytes([byte]) for byte in range(N_BYTES)), *words]
        self._control = [*control]
        self.n_tokens = len(self._texts) + len(control)
        self.ends = [len(self._texts) + index for index in range(n_ends)]

    def pieces(self, *, is_special=False):
        return [self.piece(token, is_special=is_special) for token in range(self.n_tokens)]

    def piece(self, token, *, is_special=False):
        if token < len(self._texts):
            return self._texts[token]
        return self._control[token - len(self._texts)] if is_special else b""

    def ends_generation(self, token):
        return token in self.ends

    def tokenize(self, text, *, is_whole=True):
        if text.encode() in self._control:
            return [len(self._texts) + self._control.index(text.encode())]
        data, ids = text.encode(), []
        while data:
            matching = [i for i, each in enumerate(self._texts) if data.startswith(each)]
            if not matching:
                raise UserError("cannot tokenize")
            ids.append(max(matching, key=lambda token: len(self._texts[token])))
            data = data[len(self._texts[ids[-1]]) :]
        return ids

    def text(self, tokens):
        return b"".join(map(self.piece, tokens))
