"""The target's vocabulary as jobs use it: loaded with its notes, and prompts as token ids."""

from __future__ import annotations

from pathlib import Path

from pipeinfer_cli import console
from pipeinfer_cli.engine.vocab import Vocab


def load_vocab(path: Path, *, verbose: bool) -> Vocab:
    """A vocabulary; what is wrong with it, but no reason to refuse it, is noted on stderr."""
    vocab = Vocab(path, verbose=verbose)
    for note in vocab.notes:
        console.note(note)
    return vocab


class PlainPrompts:
    """Texts to be continued as token ids: with BOS where the model wants one, never with EOS."""

    def __init__(self, vocab: Vocab) -> None:
        self._vocab = vocab
        self._has_noted = False

    def tokens(self, text: str) -> list[int]:
        """The text's ids; a second BOS is noted on stderr, once. UserError as `Vocab.tokenize`."""
        vocab = self._vocab
        ids = vocab.tokenize(text)
        if vocab.adds_bos and ids[:2] == [vocab.bos, vocab.bos] and not self._has_noted:
            self._has_noted = True
            console.note(
                "the prompt begins with two BOS tokens, its own and the one that "
                "the model's GGUF asks for: leave it out of the prompt"
            )
        return ids
