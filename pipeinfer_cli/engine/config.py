"""The engine's parameters, as plain values."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from pipeinfer_cli.engine.cpu.devices import NO_DEVICES, DeviceLayers
from pipeinfer_cli.engine.rope import OWN_ROPE, RopeConfig
from pipeinfer_cli.errors import UserError
from pipeinfer_cli.scheduler.policy import ONE_TEXT, StateConfig
from pipeinfer_cli.scheduler.runs import DEFAULT_SAMPLE, SampleParams

MAX_THREADS = 512  # of one rank: ggml's own limit
MAX_CPUS = 512  # only to those with smaller numbers can threads be bound: ggml's own limit

# Of the KV cache, as llama.cpp's options name them; enum ggml_type.
CACHE_TYPES = {
    "f32": 0,
    "f16": 1,
    "bf16": 30,
    "q8_0": 8,
    "q4_0": 2,
    "q4_1": 3,
    "iq4_nl": 20,
    "q5_0": 6,
    "q5_1": 7,
}
CACHE_OPTIONS = ("-ctk/--cache-type-k", "-ctv/--cache-type-v")
DRAFT_CACHE_OPTIONS = ("-ctkd/--cache-type-k-draft", "-ctvd/--cache-type-v-draft")


@dataclass(frozen=True, slots=True)
class CacheTypes:
    """The types of the keys and values in a KV cache. UserError where it is built if unknown."""

    k: str = "f16"
    v: str = "f16"
    options: tuple[str, str] = field(default=CACHE_OPTIONS, compare=False)  # that messages name

    def __post_init__(self) -> None:
        for option, name in zip(self.options, (self.k, self.v), strict=True):
            if name not in CACHE_TYPES:
                raise UserError(f"{option} {name!r}: give one of {', '.join(CACHE_TYPES)}")

    @property
    def ids(self) -> tuple[int, int]:
        """Enum ggml_type, of keys and of values."""
        return CACHE_TYPES[self.k], CACHE_TYPES[self.v]


F16_CACHE = CacheTypes()


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftCores:
    """With how many threads a draft model computes in the head's process, and on which cores."""

    n_threads: int = 1
    shares_cores: bool = False  # with the head's stage: one of the two computes at a time
    has_own_cores: bool = False  # idle threads may spin
    cpus: tuple[int, ...] = ()  # that they are bound to; none: not bound
    nodes: tuple[int, ...] = ()  # as in EngineConfig
    device: str = ""  # that computes instead; empty: none


ONE_THREAD = DraftCores()


@dataclass(frozen=True, slots=True, kw_only=True)
class RankEmulation:
    """See struct pi_emulation. The link is the one that brings this rank its runs or results."""

    stage_us: tuple[int, ...]  # of a run of 1, 2, ... tokens; empty on the head
    latency_us: int
    bytes_per_us: float
    hidden_bytes: int  # of one token


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """A LoRA adapter: its tensors are added to the model's, times `scale`."""

    path: Path
    scale: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class MpiCalls:
    """How libpipeinfer calls the MPI of this process, and with which communicators.

    See struct pi_mpi; handles are those of C.
    """

    library: str
    handle_bytes: int
    status_bytes: int
    any_source: int
    byte_type: int
    null_request: int
    comm_data: int
    comm_control: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """This rank's place in the pipeline; see struct pi_engine_params."""

    model_path: Path
    rank: int = 0
    n_ranks: int = 1
    stage_rank0: int = 0  # 1 if the head holds no layers
    layer_first: int
    layer_last: int  # equal to layer_first: no layers
    n_ctx: int  # most tokens of a text
    n_cells: int  # of the KV cache, for all texts and branches
    cache_types: CacheTypes = F16_CACHE  # the same on all ranks
    n_batch: int  # most tokens in a run
    n_threads: int
    has_own_cores: bool = False  # a core for each compute thread: idle threads may spin
    cpus: tuple[int, ...] = ()  # that the compute threads are bound to; none: not bound
    # NUMA nodes whose memory is taken, in turn, and to which mapped files move; none: as it comes.
    nodes: tuple[int, ...] = ()
    shares_cores: bool = False  # with draft models of this process: one at a time computes
    reads_weights: bool = False  # into memory, instead of mapping the file
    locks_memory: bool = False  # as reads_weights, and what is there once loaded is not paged out
    mpi: MpiCalls | None = None  # None with one rank
    states: StateConfig = ONE_TEXT  # of models that have recurrent layers
    sample: SampleParams = DEFAULT_SAMPLE  # the same on all ranks; of tokens that say nothing else
    emulation: RankEmulation | None = None
    adapters: tuple[Adapter, ...] = ()  # the same on all ranks, as is:
    rope: RopeConfig = OWN_ROPE
    devices: DeviceLayers = NO_DEVICES
    exact_shape: int = 0  # tokens of each computation; 0: those of a run. The same on all ranks
