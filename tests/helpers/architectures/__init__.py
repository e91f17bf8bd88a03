"""A tiny random GGUF of each architecture that splits, with every special case of its layers.

tests/mpi/test_architectures.py shows on real ranks that split == whole for each of them, and that
they are the ones llama.cpp's patch admits. The table in docs/architectures.md is made from here:
`make docs-architectures`.
"""

from __future__ import annotations

from architectures.dense import DENSE
from architectures.hybrids import HYBRIDS
from architectures.latent import LATENT
from architectures.layers import norms, plain_layer
from architectures.mixtures import MIXTURES
from architectures.older import OLDER
from architectures.prediction import PREDICTION
from architectures.tiny_model import N_CTX, N_EMBD, N_FF, N_HEAD, N_VOCAB, TinyModel
from architectures.vision import VISION
from architectures.whole import WHOLE
from architectures.windows import WINDOWS

__all__ = [
    "N_CTX",
    "N_EMBD",
    "N_FF",
    "N_HEAD",
    "N_VOCAB",
    "TINY_MODELS",
    "WHOLE_MODELS",
    "TinyModel",
    "norms",
    "plain_layer",
    "table",
]

TINY_MODELS = (
    *DENSE,
    *OLDER,
    *MIXTURES,
    *WINDOWS,
    *LATENT,
    *PREDICTION,
    *VISION,
    *HYBRIDS,
)
WHOLE_MODELS = WHOLE  # exact on one rank, but not to be split

INTRODUCTION = """\
# Architectures that split

Models of these architectures (`general.architecture` of their GGUF) can be split by layers over
ranks; others with a KV cache run whole (`--ranks 1`), other kinds are refused. The name of a model
need not be that of its architecture: Kimi K2, Mistral Large 3 and GLM 4.7 Flash are `deepseek2`.

Each line stands for a tiny random model that
`tests/mpi/test_architectures.py` decodes on real ranks, split at every boundary and with inner
layers as stages of their own. Its logits must be those of the whole model, bit for bit, also after
positions were taken back; and those of the unpatched llama.cpp that decodes one token at a
time. `tests/native/test_architecture_shapes.py` shows for the same models
that logits do not depend on how many tokens are decoded at a time. Weights are Q8_0, experts of
gpt-oss MXFP4, norms and routers F32. The number of layers is without prediction layers: those are
in the file, and left out.

Grok is not among them: llama.cpp computes its attention without the flash attention that makes
sums independent of the batch. Gemma 3n and the small models of Gemma 4 (E2B, E4B) are not: their
layers share keys and values, and take inputs computed from the token. They run on one rank.

This file is made by `make docs-architectures`.
"""


def table() -> str:
    """docs/architectures.md."""
    rows = [
        ("architecture", "models", "what its test has", "layers"),
        ("---", "---", "---", "---"),
        *(
            (
                f"`{model.arch}`",
                model.known_as,
                model.special,
                str(model.n_layer),
            )
            for model in sorted(TINY_MODELS, key=lambda model: model.arch)
        ),
    ]
    return INTRODUCTION + "\n" + "".join(f"| {' | '.join(row)} |\n" for row in rows)
