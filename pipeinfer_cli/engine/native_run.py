"""Runs as the library takes them."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import c_int32, c_uint32

from pipeinfer_cli.engine import abi
from pipeinfer_cli.engine.sampling import native_sample
from pipeinfer_cli.scheduler.runs import MASK_WORD_BYTES, Mask, Run, SampleParams


def native_run(run: Run) -> abi.Run:
    """A run as pi_submit and pi_draft_expand take it."""
    kv_ops = [
        abi.KvOp(op.kind, op.seq_src, op.seq_dst, op.pos_first, op.pos_last) for op in run.kv_ops
    ]
    samples = run.samples
    index_of: dict[SampleParams | None, int] = {None: -1}
    index_of.update((sample, index) for index, sample in enumerate(samples))
    masks = run.masks
    mask_of: dict[Mask | None, int] = {None: -1}
    mask_of.update((mask, index) for index, mask in enumerate(masks))
    tokens = [
        abi.Token(t.id, t.position, len(t.seq_ids), t.want, index_of[t.sample], mask_of[t.mask])
        for t in run.tokens
    ]
    seq_ids = [seq_id for token in run.tokens for seq_id in token.seq_ids]
    return abi.Run(
        run.run_id,
        len(kv_ops),
        len(tokens),
        len(seq_ids),
        len(samples),
        len(masks),
        len(masks[0].bits) // MASK_WORD_BYTES if masks else 0,
        (abi.KvOp * len(kv_ops))(*kv_ops),
        (abi.Token * len(tokens))(*tokens),
        (c_int32 * len(seq_ids))(*seq_ids),
        (abi.SampleParams * len(samples))(*map(native_sample, samples)),
        _words(masks),
    )


def _words(masks: Sequence[Mask]) -> ctypes.Array[c_uint32]:
    """The masks, all of one size, one after the other."""
    assert len({len(each.bits) for each in masks}) <= 1
    bits = b"".join(each.bits for each in masks)
    return (c_uint32 * (len(bits) // MASK_WORD_BYTES)).from_buffer_copy(bits)
