"""Drafters for the tests: real ones, and two that know the truth and use it as they like."""

import random
from functools import cache
from pathlib import Path

from pipeinfer_cli.drafters.fallback import FallbackDrafter
from pipeinfer_cli.drafters.model import ModelDrafter
from pipeinfer_cli.drafters.ngram import NgramDrafter
from pipeinfer_cli.scheduler.runs import SampleParams

N_VOCAB = 49152


class Teller:
    """Right with a given chance: 0 is an adversary that is always wrong.

    If it may name several candidates, the last one is right, or none.
    """

    def __init__(self, text, chance, seed=1):
        self.text, self.chance, self.random = text, chance, random.Random(seed)

    def propose(self, context, n_candidates=1):
        position = len(context)
        while position < len(self.text):
            token = self.text[position]
            if self.random.random() >= self.chance:
                token = (token + self.random.randrange(1, N_VOCAB - n_candidates)) % N_VOCAB
            wrong = [((token + i + 1) % N_VOCAB, 0.5) for i in range(n_candidates - 1)]
            yield [*wrong, (token, self.random.choice([0.2, 0.6, 1.0]))]
            position += 1


@cache
def load(path, n_ctx, sample):
    return ModelDrafter(path, n_ctx=n_ctx, sample=sample)


def make_guesser(name, request, prompt, truth):
    if name == "wrong":
        return Teller(prompt + truth, 0.0)
    if name == "random":
        return Teller(prompt + truth, 0.7)
    if name == "ngram":
        return NgramDrafter()
    sample = SampleParams(**request.get("sample", {}))
    model = load(Path(request["draft_model"]), request["n_ctx"], sample)
    return FallbackDrafter(NgramDrafter(), model) if name == "both" else model
