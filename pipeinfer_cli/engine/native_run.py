"""Runs as the library takes them."""

from __future__ import annotations

from ctypes import c_int32

from pipeinfer_cli.engine import abi
from pipeinfer_cli.engine.sampling import native_sample
from pipeinfer_cli.scheduler.runs import Run, SampleParams


def native_run(run: Run) -> abi.Run:
    """A run as pi_submit and pi_draft_expand take it."""
    kv_ops = [
        abi.KvOp(op.kind, op.seq_src, op.seq_dst, op.pos_first, op.pos_last) for op in run.kv_ops
    ]
    samples = run.samples
    index_of: dict[SampleParams | None, int] = {None: -1}
    index_of.update((sample, index) for index, sample in enumerate(samples))
    tokens = [
        abi.Token(t.id, t.position, len(t.seq_ids), t.want, index_of[t.sample]) for t in run.tokens
    ]
    seq_ids = [seq_id for token in run.tokens for seq_id in token.seq_ids]
    return abi.Run(
        run.run_id,
        len(kv_ops),
        len(tokens),
        len(seq_ids),
        len(samples),
        (abi.KvOp * len(kv_ops))(*kv_ops),
        (abi.Token * len(tokens))(*tokens),
        (c_int32 * len(seq_ids))(*seq_ids),
        (abi.SampleParams * len(samples))(*map(native_sample, samples)),
    )
