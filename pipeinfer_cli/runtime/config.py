"""What every job is asked to do: frozen, checked configurations."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from pipeinfer_cli.checks import check_count
from pipeinfer_cli.cluster.emulation import parse_acceptance
from pipeinfer_cli.engine.config import F16_CACHE, MAX_THREADS, Adapter, CacheTypes
from pipeinfer_cli.engine.cpu.devices import ALL_LAYERS
from pipeinfer_cli.engine.rope import OWN_ROPE, RopeConfig
from pipeinfer_cli.errors import UserError
from pipeinfer_cli.scheduler.policy import (
    DraftConfig,
)
from pipeinfer_cli.scheduler.runs import DEFAULT_SAMPLE, SampleParams

DEFAULT_N_CTX = 4096
DEFAULT_TIMEOUT_S = 300.0
# Auto: where ranks that share a host get NUMA nodes of their own. Within a node the kernel does it
# better: stages of one text compute in turn, and a bound one cannot leave a core that is busy.
BINDINGS = ("on", "off", "auto")
# llama.cpp's, and ours; see launch.host.numa.
NUMA_MODES = ("auto", "distribute", "isolate", "numactl")

# Long names of options that have no effect together: see commands.notes.
SAMPLING = ("--top-k", "--top-p", "--min-p", "--seed")
WITHOUT_TEMP = "the text is greedy without --temp"
CUTOFF = ("--draft-p-recovery", "--draft-p-decay")
# How to draft; without any of them that is chosen by expected gain.
DRAFT_CHOICES = (
    *("--draft-max", "--draft-min", "--draft-p-min", *CUTOFF),
    *("--draft-width", "--draft-p-split"),
)
DRAFTS = (*DRAFT_CHOICES, "--draft-threads")

AUTO_DEVICE, NO_DEVICE = "auto", "none"
LAYERS_OPTION, DEVICE_OPTION = "-ngl/--gpu-layers", "--device"
MAX_EXACT_SHAPE = 32  # tokens that may want a row: enum pi_limits
# Of every rank, or a list with one number per rank; None: see environment.default_threads.
Threads = int | Sequence[int] | None
AnyJob = TypeVar("AnyJob", bound="JobConfig")


@dataclass(frozen=True, slots=True, kw_only=True)
class JobConfig:
    """What all ranks of a job need: from this a pipeline is loaded, which serves many requests.

    Raises UserError where it is built if a value is invalid.
    """

    model: str  # a GGUF path or a name of models.toml; see resolve.resolve
    n_ctx: int = DEFAULT_N_CTX  # tokens of prompt and text together; 0: as the model was trained
    ranks: int | None = None  # None: what the launcher started, or this machine's default
    layer_split: tuple[float, ...] | None = None  # a weight per rank; None: even by time or bytes
    threads: Threads = None
    plan_only: bool = False  # print where everything would be, and end
    report_binding: bool = False
    bind: str = "auto"  # compute threads to cores of their rank: see BINDINGS
    cpu_variants: tuple[str, ...] = ()  # one for all ranks, or one per rank; none: each its best
    # Of each rank, or of all; none: its host's devices, if the build has a backend for them.
    devices: tuple[str, ...] = ()  # names as CUDA0, several as CUDA0+CUDA1; AUTO_DEVICE, NO_DEVICE
    gpu_layers: tuple[int, ...] = ()  # layers of its stage that they compute; -1: all
    exact_shape: int | None = None  # see EngineConfig; None: with devices only
    cache_types: CacheTypes = F16_CACHE  # of the target's KV caches
    draft_cache_types: CacheTypes = F16_CACHE  # of draft models: they do not change the text
    sample: SampleParams = DEFAULT_SAMPLE
    ignore_eos: bool = False
    verbose: bool = False
    timeout_s: float = DEFAULT_TIMEOUT_S  # without progress for this long, the job ends
    log_file: str | None = None  # {rank} in it is the rank's
    draft_device: str | None = None  # of draft models; None: the CPU
    draft_threads: int | None = None  # None: see environment.RankResources.draft_cores
    emulate: str | None = None  # a profile's name or file; see cluster.profile_toml
    draft_ratio: float | None = None  # instead of the profile's draft time; see with_draft_ratio
    synth_acceptance: str | None = None  # see cluster.emulation.parse_acceptance
    no_mmap: bool = False  # ranks read their weights into memory instead of mapping files
    mlock: bool = False  # as no_mmap, and keep them there
    numa: str = "auto"  # memory and CPUs of which NUMA nodes: see NUMA_MODES
    adapters: tuple[Adapter, ...] = ()  # of the target
    rope: RopeConfig = OWN_ROPE  # of the target
    given: tuple[str, ...] = ()  # options that are on the command line, by their long names
    notes: tuple[str, ...] = ()  # on the command line, which the head says first

    def __post_init__(self) -> None:
        if not self.model:
            raise UserError("-m/--model is empty: give a GGUF path or a name of models list")
        check_count("-c/--ctx-size", self.n_ctx, least=0)
        check_count("--ranks", self.ranks)
        for count in self.threads if isinstance(self.threads, Sequence) else (self.threads,):
            check_count("-t/--threads", count, MAX_THREADS)
        check_count("--draft-threads", self.draft_threads, MAX_THREADS)
        _check_shape(self.exact_shape)
        if self.bind not in BINDINGS:
            raise UserError(f"--bind {self.bind!r}: give {', '.join(BINDINGS)}")
        if self.numa not in NUMA_MODES:
            raise UserError(f"--numa {self.numa!r}: give {', '.join(NUMA_MODES)}")
        if self.numa == "numactl" and self.bind == "on":
            raise UserError("--numa numactl leaves CPUs as they are: leave --bind on out")
        if not (math.isfinite(self.timeout_s) and self.timeout_s > 0):
            raise UserError(f"--timeout {self.timeout_s:g}: give a number of seconds above 0")
        if self.draft_ratio is not None and self.emulate is None:
            raise UserError(f"--draft-ratio {self.draft_ratio:g}: give --emulate with it")
        if self.synth_acceptance is not None:
            parse_acceptance(self.synth_acceptance)
        if self.layer_split is not None:
            _check_weights(self.layer_split)
            self._check_split_fits()

    def _check_split_fits(self) -> None:
        assert self.layer_split is not None
        if self.ranks is not None and self.ranks != len(self.layer_split):
            raise UserError(
                f"--layer-split has {len(self.layer_split)} weights for {self.ranks} ranks: "
                "give one weight per rank"
            )

    def threads_of(self, rank: int) -> int | None:
        """What was asked for; None: a default. A list that is too short is refused by the head."""
        if not isinstance(self.threads, Sequence):
            return self.threads
        return self.threads[rank] if rank < len(self.threads) else None

    def cpu_variant_of(self, rank: int) -> str | None:
        """What was asked for; None: the best one. A list that does not fit: see `threads_of`."""
        if len(self.cpu_variants) < 2:
            return self.cpu_variants[0] if self.cpu_variants else None
        return self.cpu_variants[rank] if rank < len(self.cpu_variants) else None

    @property
    def may_bind(self) -> bool:
        """Whether compute threads may get cores of their own, if there are enough."""
        # ranks of an emulated cluster share this host
        return self.bind != "off" and self.numa != "numactl" and self.emulate is None

    @property
    def uses_draft_model(self) -> bool:
        """Whether the head's cores are a draft model's."""
        raise NotImplementedError

    @property
    def drafts(self) -> Sequence[DraftConfig]:
        """How its requests may draft."""
        raise NotImplementedError

    @property
    def is_json(self) -> bool:
        """Whether a plan is for programs."""
        return False

    @property
    def reads_stdin(self) -> bool:
        """Whether rank 0 reads stdin while it works."""
        return False

    @property
    def drain_s(self) -> float | None:
        """How long work may take to end well after a signal; None: a signal interrupts it."""
        return None

    @property
    def n_texts(self) -> int:
        """Texts that have cells in the KV caches at a time."""
        return 1

    def resolved(self: AnyJob) -> AnyJob:
        """The same with the models' files, for the ranks of this host. Raises UserError."""
        from pipeinfer_cli.models.resolve import resolve

        return replace(self, model=str(resolve(self.model)))


def parse_layer_split(text: str) -> tuple[float, ...] | None:
    """`2,1,1` as a weight per rank; `auto` as None. Raises UserError."""
    if text.strip() == "auto":
        return None
    try:
        weights = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UserError(
            f"--layer-split {text!r} is not a list of numbers: "
            "give a weight per rank like 2,1,1, or auto"
        ) from None
    _check_weights(weights)
    return weights


def _check_shape(exact_shape: int | None) -> None:
    if exact_shape is not None and not 0 <= exact_shape <= MAX_EXACT_SHAPE:
        raise UserError(
            f"--exact-shape {exact_shape}: give a number of tokens from 1 to {MAX_EXACT_SHAPE}, "
            "or 0 for runs as they are"
        )


def parse_devices(text: str) -> tuple[str, ...]:
    """`CUDA0`, or a name per rank: `none,CUDA0,CUDA1`. UserError unless they can be names."""
    names = tuple(text.split(","))
    if not all(re.fullmatch(r"[\w.\[\]:-]+(\+[\w.\[\]:-]+)*", name) for name in names):
        raise UserError(
            f"{DEVICE_OPTION} {text!r}: give a name as CUDA0, {NO_DEVICE}, or one per rank: "
            f"{NO_DEVICE},CUDA0,CUDA1"
        )
    return names


def parse_layers(text: str) -> tuple[int, ...]:
    """`99`, or a number per rank: `0,99,99`; `all` and -1 are all. UserError if it is none."""
    try:
        counts = tuple(
            ALL_LAYERS if part.strip() in ("all", "auto") else int(part) for part in text.split(",")
        )
    except ValueError:
        counts = (ALL_LAYERS - 1,)
    if any(count < ALL_LAYERS for count in counts):
        raise UserError(
            f"{LAYERS_OPTION} {text!r}: give a number of layers, all, or one per rank: 0,99,99"
        )
    return counts


def _check_weights(weights: tuple[float, ...]) -> None:
    shown = ",".join(f"{weight:g}" for weight in weights)
    if any(not math.isfinite(weight) or weight < 0 for weight in weights):
        raise UserError(f"--layer-split {shown}: weights are finite numbers of 0 or more")
    if any(weight == 0 for weight in weights[1:]) or not any(weights):
        # Rank 0 without layers still drives the others; any other rank would only idle.
        raise UserError(f"--layer-split {shown}: only rank 0 may have the weight 0")


def no_effect(options: Sequence[str], why: str) -> str:
    """A note about options that are given in vain."""
    return f"no effect of {', '.join(options)}: {why}"
