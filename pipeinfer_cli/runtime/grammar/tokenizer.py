"""llguidance's view of a model's vocabulary, made of our own: the GGUF's."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from pipeinfer_cli.engine.vocab import Vocab
from pipeinfer_cli.errors import UserError

INSTALL = "pip install 'pipeinfer[grammar]'"
# Some tokenizers put a space before the first word of a text, but not after this.
ANCHOR = b"\n"


def llguidance() -> Any:
    """The package. UserError if it is not installed."""
    try:
        import llguidance as package
    except ImportError:
        raise UserError(f"a grammar needs the package llguidance: {INSTALL}") from None
    return package


class _Tokens:
    """What llguidance's TokenizerWrapper asks for; the names are its own."""

    def __init__(self, vocab: Vocab, ends: Collection[int]) -> None:
        self._vocab = vocab
        self.eos_token_id = min(ends)
        self.bos_token_id = vocab.bos
        texts = vocab.pieces()
        spelled = vocab.pieces(is_special=True)
        # What has no text of its own is nothing that a grammar's text could be made of.
        self.special_token_ids = [i for i, each in enumerate(texts) if not each and spelled[i]]
        self.tokens = [text or spelling for text, spelling in zip(texts, spelled, strict=True)]
        self._anchor = vocab.tokenize(ANCHOR.decode(), is_whole=False)
        self._by_text = {text: token for token, text in enumerate(texts) if text}
        self._n_longest = max(map(len, self._by_text))

    def __call__(self, data: bytes) -> list[int]:
        """Tokens that spell this, as the model's tokenizer cuts it if it can be made to."""
        for prefix in (b"", ANCHOR):
            try:
                ids = self._vocab.tokenize((prefix + data).decode(), is_whole=False)
            except (UnicodeDecodeError, UserError):
                break
            n_before = len(self._anchor) if prefix else 0
            if b"".join(map(self._vocab.piece, ids[n_before:])) == data:
                return ids[n_before:]
        return self._greedy(data)

    def _greedy(self, data: bytes) -> list[int]:
        """The longest token each time; bytes that no token begins with are left out."""
        ids, at = [], 0
        while at < len(data):
            for size in range(min(self._n_longest, len(data) - at), 0, -1):
                if (token := self._by_text.get(data[at : at + size])) is not None:
                    ids.append(token)
                    break
            at += size
        return ids


def make_tokenizer(vocab: Vocab, ends: Collection[int]) -> Any:
    """The LLTokenizer of a vocabulary, whose texts these tokens end. Takes about a second."""
    package = llguidance()
    wrapped = package.TokenizerWrapper(_Tokens(vocab, ends))
    return package.LLTokenizer(wrapped, n_vocab=vocab.n_tokens, eos_token=sorted(ends))
