"""What is tested of the types of KV caches: see tests/native/test_cache_types.py."""

from __future__ import annotations

from pipeinfer_cli.engine.config import CACHE_TYPES, CacheTypes

N_TOKENS = 700
# sizes of runs, in turn; threads; tokens
CUTS = [
    ([1], 2, 300),
    ([2], 1, 300),
    ([5], 2, 300),
    ([8], 1, 300),
    ([32], 3, N_TOKENS),
    ([1, 7, 32, 2, 13, 31], 2, N_TOKENS),
]
MIXED = [("q8_0", "q4_0"), ("f16", "q8_0"), ("q5_1", "f16"), ("bf16", "f32"), ("iq4_nl", "bf16")]
ALL = [CacheTypes(name, name) for name in CACHE_TYPES] + [CacheTypes(*pair) for pair in MIXED]
# over ranks: tests/mpi/test_losslessness.py, and random trees: tests/mpi/test_trees.py
SPLIT = [(name, name) for name in ("f32", "bf16", "q8_0", "q4_0")]
SPLIT += [("q4_1", "q5_0"), ("q5_1", "iq4_nl")]
TREES = [("q8_0", "q8_0"), ("q4_0", "q5_1"), ("bf16", "iq4_nl"), ("q4_1", "q5_0"), ("f32", "f32")]
