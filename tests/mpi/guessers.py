"""Drafters for the tests: real ones, and some that know the truth and use it as they like."""

import random
import time
from functools import cache
from pathlib import Path

from pipeinfer_cli.drafters.fallback import FallbackDrafter
from pipeinfer_cli.drafters.model import ModelDrafter
from pipeinfer_cli.drafters.ngram import NgramDrafter
from pipeinfer_cli.scheduler.runs import SampleParams

N_VOCAB = 49152


class Teller:
    """Right with a given chance: 0 is an adversary that is always wrong.

    If it may name several candidates, one of the first three is right, or none. It may answer after
    any of these delays.
    """

    def __init__(self, text, chance, delays_s=(0.0,), *, n_vocab=N_VOCAB, seed=1):
        self.text, self.chance, self.delays_s, self.n_vocab = text, chance, delays_s, n_vocab
        self.random = random.Random(seed)

    def expand(self, batch, is_wanted):
        if (delay_s := self.random.choice(self.delays_s)) > 0:
            time.sleep(delay_s)
        positions = [batch.n_text + len(branch) for branch in batch.branches]
        return [self.candidates(position, batch.n_candidates) for position in positions]

    def candidates(self, position, n):
        if position >= len(self.text):
            return []
        token = self.text[position]
        first = token + self.random.randint(1, self.n_vocab - n)
        tokens = [(first + i) % self.n_vocab for i in range(n)]
        if self.random.random() < self.chance:
            tokens[self.random.randrange(min(n, 3))] = token
        sure = self.random.choice([0.2, 0.6, 1.0])
        others = [min(sure, (1 - sure) / 2**i) for i in range(1, n)]
        return list(zip(tokens, [sure, *others], strict=True))


@cache
def load(path, n_ctx, sample):
    return ModelDrafter(path, n_ctx=n_ctx, sample=sample)


def make_guesser(name, request, prompt, truth):
    text, n_vocab = prompt + truth, request.get("n_vocab", N_VOCAB)
    if name == "wrong":
        return Teller(text, 0.0, n_vocab=n_vocab)
    if name == "random":
        return Teller(text, 0.7, n_vocab=n_vocab)
    if name == "late":
        return Teller(text, 0.7, [0, 0.002, 0.01, 0.05], n_vocab=n_vocab)
    if name == "ngram":
        return NgramDrafter()
    sample = SampleParams(**request.get("sample", {}))
    model = load(Path(request["draft_model"]), request["n_ctx"], sample)
    return FallbackDrafter(NgramDrafter(), model) if name == "both" else model
