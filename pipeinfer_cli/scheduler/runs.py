"""What travels through the pipeline: runs on their way out, results on their way back."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass

from pipeinfer_cli.errors import UserError

DEFAULT_SEED = 0  # fixed: the same command gives the same text
MAX_SEED = 2**64 - 1
MASK_WORD_BYTES = 4


class KvKind(enum.IntEnum):
    """What a KV operation does to the cells of `[pos_first, pos_last)`."""

    COPY = 1  # those of seq_src also belong to seq_dst
    REMOVE = 2  # they no longer belong to seq_src; -1: to any sequence
    COMPACT = 3  # all used cells move over the free ones before them, in their order


class RunStatus(enum.IntEnum):
    """How a run ended."""

    COMPLETED = 0
    CANCELLED = 1
    ABORTED = 2  # only of a stage's part: given up in mid-compute


@dataclass(frozen=True, slots=True, kw_only=True)
class KvOp:
    """An operation on every stage's KV cache, applied in order even if its run is cancelled."""

    kind: KvKind
    seq_src: int = 0
    seq_dst: int = 0
    pos_first: int = 0
    pos_last: int = -1  # -1: to the end


@dataclass(frozen=True, slots=True)
class Mask:
    """Tokens that may be drawn, at least one of them."""

    bits: bytes  # in words of MASK_WORD_BYTES: a bit per token, the lowest of the first byte for 0

    def __post_init__(self) -> None:
        assert len(self.bits) % MASK_WORD_BYTES == 0 and any(self.bits)

    def allows(self, token: int) -> bool:
        """Whether this token may be drawn."""
        return bool(self.bits[token >> 3] >> (token & 7) & 1)

    @property
    def only(self) -> int | None:
        """The token, if there is a single one."""
        bits = int.from_bytes(self.bits, "little")
        return None if bits & (bits - 1) else bits.bit_length() - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class RunToken:
    """One token of a run."""

    id: int
    position: int
    seq_ids: tuple[int, ...] = (0,)  # it sees the cells of the first one
    want: bool = False  # the result shall have a row (the sampled next token) for it
    sample: SampleParams | None = None  # how that row is drawn; None: as the engine was told
    mask: Mask | None = None  # the tokens among which it is drawn; None: any


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One batch of tokens on its way through the stages. Without tokens: KV operations only."""

    run_id: int  # grows from run to run, from 1
    tokens: tuple[RunToken, ...] = ()
    kv_ops: tuple[KvOp, ...] = ()

    @property
    def samples(self) -> tuple[SampleParams, ...]:
        """The different ways in which its rows are drawn."""
        return tuple(dict.fromkeys(each.sample for each in self.tokens if each.sample))

    @property
    def masks(self) -> tuple[Mask, ...]:
        """The different masks of its rows."""
        return tuple(dict.fromkeys(each.mask for each in self.tokens if each.mask))

    @property
    def n_rows(self) -> int:
        """How many rows its result has, unless it is cancelled."""
        return sum(each.want for each in self.tokens)


@dataclass(frozen=True, slots=True)
class StageTime:
    """What one stage did for one run; `start_us` is its host's monotonic clock."""

    stage: int
    status: RunStatus
    start_us: int
    wait_us: int
    compute_us: int
    in_bytes: int = 0  # of the message that brought the run; 0 from within the process
    late_us: int = 0  # emulated: the real compute ended later than the stage's time by this


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The answer to a run: a row per token that wanted one, none if the run was cancelled."""

    run_id: int
    status: RunStatus
    rows: tuple[int, ...]  # sampled token ids
    times: tuple[StageTime, ...]  # in the order of the stages
    in_bytes: int = 0  # of the message that brought the result; 0 from within the process


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleParams:
    """See struct pi_sample_params. Raises UserError where it is built if a value is invalid.

    The filters are llama.cpp's, in its order and with its defaults; they act when temperature > 0.
    """

    temperature: float = 0.0  # 0: greedy
    top_k: int = 40  # the most likely tokens to choose from; 0: all
    top_p: float = 0.95  # of these as few as have this probability together; 1: all
    min_p: float = 0.05  # of these the ones with this share of the largest probability; 0: all
    seed: int = DEFAULT_SEED

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise UserError(f"--temp {self.temperature:g}: give a number of 0 (greedy) or more")
        if not 0 <= self.top_k < 2**31:
            raise UserError(f"--top-k {self.top_k}: give a number of tokens, or 0 for all")
        if not 0 <= self.top_p <= 1:
            raise UserError(f"--top-p {self.top_p:g}: give a probability from 0 to 1 (off)")
        if not 0 <= self.min_p <= 1:
            raise UserError(f"--min-p {self.min_p:g}: give a share from 0 (off) to 1")
        if not 0 <= self.seed <= MAX_SEED:
            raise UserError(f"--seed {self.seed}: give a whole number from 0 to {MAX_SEED}")


DEFAULT_SAMPLE = SampleParams()  # greedy
