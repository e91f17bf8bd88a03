"""A job's pipeline on all ranks: agree on a plan, load the layers; the head works, others serve."""

from __future__ import annotations

import os
import platform
import signal
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pipeinfer_cli import console, log
from pipeinfer_cli.cluster.emulation import check_model, load_profile, rank_emulation
from pipeinfer_cli.cluster.predict import Expectation, PlacementResult, consult
from pipeinfer_cli.cluster.profile import Profile
from pipeinfer_cli.engine import build_info
from pipeinfer_cli.engine.config import (
    F16_CACHE,
    ONE_THREAD,
    CacheTypes,
    DraftCores,
    EngineConfig,
    MpiCalls,
)
from pipeinfer_cli.engine.cpu import devices
from pipeinfer_cli.engine.cpu.devices import DeviceBytes, DeviceLayers
from pipeinfer_cli.engine.cpu.exactness import inexact
from pipeinfer_cli.engine.engine import Engine
from pipeinfer_cli.engine.formats import StateKind, state_kind
from pipeinfer_cli.engine.llama_cpp import capture_log, log_to_file
from pipeinfer_cli.engine.rope import OWN_ROPE, RopeConfig
from pipeinfer_cli.errors import Interrupted, PipeinferError, RunError, UserError
from pipeinfer_cli.launch import environment, local_rank, mpi, signals
from pipeinfer_cli.launch.environment import RankResources
from pipeinfer_cli.launch.host import numa
from pipeinfer_cli.launch.host.cores import Cores
from pipeinfer_cli.launch.watchdog.heartbeat import HEARTBEAT_BYTES, Phase
from pipeinfer_cli.launch.watchdog.watchdog import Watchdog
from pipeinfer_cli.log import LOG
from pipeinfer_cli.models import resolve
from pipeinfer_cli.models.adapters import CheckedAdapter, adapters_digest, check_adapters
from pipeinfer_cli.models.gguf.info import ModelInfo, read_model_info
from pipeinfer_cli.models.gguf.kv import check_cache_types
from pipeinfer_cli.models.layer_split import LayerRange, kv_bytes, split_layers
from pipeinfer_cli.models.shards import ModelFiles, file_digest, locate
from pipeinfer_cli.runtime import cpu_code, placement
from pipeinfer_cli.runtime import devices as placing
from pipeinfer_cli.runtime.config import JobConfig
from pipeinfer_cli.runtime.placement import Layout, Placement
from pipeinfer_cli.scheduler.costs.measured import PriorCosts
from pipeinfer_cli.scheduler.kv_sequences import spare_cells
from pipeinfer_cli.scheduler.policy import (
    MAX_DRAFT,
    N_BATCH,
    ONE_TEXT,
    Policy,
    StateConfig,
    kept_states,
)
from pipeinfer_cli.scheduler.runs import DEFAULT_SAMPLE, SampleParams

if TYPE_CHECKING:
    from mpi4py.MPI import Comm  # noqa: TID251 (only its name)

# After a signal a rank waits this long for the head to end the job.
SHUTDOWN_S = 5.0
HEAD_FIRST_S = 3.0  # of these, before it says so itself


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What rank 0 has decided for all ranks."""

    files: ModelFiles
    model: ModelInfo
    layers: tuple[LayerRange, ...]  # per rank
    n_ctx: int  # positions
    n_cells: int  # of the KV caches: the branches of token trees take some besides
    states: StateConfig | None = None  # of recurrent layers; None: there are none
    cache_types: CacheTypes = F16_CACHE
    inexact: str = ""  # why texts may differ from plain decoding; empty: they do not
    mixture: str = ""  # of code, over the ranks: see cpu_code.mixture; empty: there is none
    draft_cores: DraftCores = ONE_THREAD  # of a draft model in the head
    uses_draft_model: bool = False
    profile: Profile | None = None  # of the emulated cluster
    all_resources: tuple[RankResources, ...] = ()  # per rank
    reads_weights: bool = False  # see EngineConfig
    locks_memory: bool = False
    sample: SampleParams = DEFAULT_SAMPLE  # as on the head: others may have drawn another seed
    expected: Expectation | None = None  # what runs will cost, if this was calibrated
    adapters: tuple[CheckedAdapter, ...] = ()
    rope: RopeConfig = OWN_ROPE
    devices: tuple[DeviceLayers, ...] = ()  # per rank
    exact_shape: int = 0  # see EngineConfig

    @property
    def uses_devices(self) -> bool:
        """Whether any rank has some."""
        return any(each.names for each in self.devices)

    @property
    def computed_with(self) -> tuple[str, ...]:
        """What runs' times depend on beside processors; see calibration.Identity."""
        return placing.marks(self.devices, self.all_resources, self.exact_shape)

    @property
    def stage_rank0(self) -> int:
        """The rank of the first stage."""
        return 0 if len(self.layers[0]) else 1

    @property
    def n_stages(self) -> int:
        """Ranks that hold layers."""
        return len(self.layers) - self.stage_rank0

    @property
    def layout(self) -> Layout:
        """What the ranks hold."""
        return Layout(
            model=self.model,
            layers=self.layers,
            kv_bytes=[
                kv_bytes(self.model, held, self.n_cells, self.cache_types) for held in self.layers
            ],
            state_bytes=self._state_bytes,
            cache_types=self.cache_types,
            inexact=self.inexact,
            mixture=self.mixture,
            devices=self.devices if self.uses_devices else (),
            exact_shape=self.exact_shape,
        )

    @property
    def is_exact(self) -> bool:
        """Whether texts are those of plain decoding, as far as tests show.

        With runs of one shape: of plain decoding in that shape.
        """
        return not (self.inexact or self.mixture)

    @property
    def _state_bytes(self) -> tuple[int, ...]:
        """Of recurrent layers' states, by rank."""
        if self.states is None:
            return ()
        each = self.model.state_bytes
        n_states = self.states.n_states
        return tuple(n_states * sum(each[held.first : held.last]) for held in self.layers)

    @property
    def changes(self) -> dict[str, Any]:
        """What makes the texts others than those of the GGUF: nothing if nothing does."""
        parts = {
            "lora": [each.record() for each in self.adapters],
            "rope": self.rope.record(),
            "exact_shape": self.exact_shape,
        }
        return {name: part for name, part in parts.items() if part}

    def places(self) -> list[str]:
        """What each rank holds, in words."""
        return [
            f"stage {rank - self.stage_rank0}, layers {layers}" if len(layers) else "no layers"
            for rank, layers in enumerate(self.layers)
        ]

    def prior(self, draft_model: str | None) -> PriorCosts | None:
        """What the scheduler can know before the first run; `draft_model` as in a job."""
        if self.expected is None:
            return None
        return self.expected.prior(draft_model and file_digest(resolve.resolve(draft_model)))


# The head's work with a loaded pipeline.
Work = Callable[[Engine], None]


def run(config: JobConfig, comm: Comm | None, prepare: Callable[[Plan], Work]) -> int:
    """Carries out a job on this rank; returns the exit code. `comm` is None for one rank.

    `prepare` is called on the head alone, before anything is loaded: what is wrong with the job is
    said at once. Errors are raised on the rank that meets them, and end the others through MPI's
    abort. A process may run several jobs, one after the other.
    """
    capture_log(verbose=config.verbose)
    rank, n_ranks = (comm.rank, comm.size) if comm else (0, 1)
    if (log_fd := log.begin(config.log_file, rank)) is not None:
        log_to_file(log_fd, log.label(rank))
    channel = mpi.HeartbeatChannel(comm, HEARTBEAT_BYTES) if comm and n_ranks > 1 else None
    with Watchdog(
        channel, rank=rank, n_ranks=n_ranks, timeout_s=config.timeout_s, end=mpi.end_all
    ) as watchdog:
        local_rank.note_up(rank)
        with environment.same_affinity():  # a process may run several jobs
            code = _run(config, comm, prepare, watchdog)
        if code == 0:
            watchdog.barrier()
    LOG.info("the job has ended with exit code %d", code)
    return code


def _run(
    config: JobConfig, comm: Comm | None, prepare: Callable[[Plan], Work], watchdog: Watchdog
) -> int:
    os.environ.setdefault("GGML_NO_BACKTRACE", "1")  # it would start a debugger on every rank
    code = cpu_code.load(config, comm)
    index, on_host = _resources_on_this_host(config, comm)
    found = devices.found()
    resources, host = replace(on_host[index], cpu=code, devices=found), Cores.read()
    if config.may_bind:
        resources = resources.with_own_cores(index, on_host, must=config.bind == "on", host=host)
    resources = resources.with_memory(config.numa, host, numa.memory_policy())
    all_resources = comm.gather(resources) if comm else [resources]
    work: Work | None = None
    plan = None
    if all_resources is not None:  # on the head
        placement.check(config, all_resources)
        plan = make_plan(config, all_resources)
        placement.report(plan.layout, all_resources, config)
        if plan.uses_devices:
            console.note(placing.in_words(plan.devices, all_resources))
        if plan.states is not None and (config.plan_only or config.report_binding):
            console.note(plan.layout.states_line)
        work = None if config.plan_only else prepare(plan)
    if comm:
        plan = comm.bcast(plan)
    assert plan is not None
    if config.plan_only:
        return 0
    watchdog.place(plan.places(), plan.stage_rank0)
    with (
        open_engine(config, plan, comm, len(on_host), watchdog) as engine,
        watchdog.over(engine),
    ):
        if work is None:
            return serve(engine, config.drain_s)
        work(engine)
        return 0


def _resources_on_this_host(
    config: JobConfig, comm: Comm | None
) -> tuple[int, list[RankResources]]:
    isolate = config.numa == "isolate"
    if comm:
        return mpi.resources_on_this_host(comm, config.threads_of(comm.rank), isolate=isolate)
    masks = [environment.affinity()]
    if isolate:
        masks = environment.isolate(0, masks, [numa.current_cpu()])
    return 0, [RankResources.take(config.threads_of(0), masks)]


def make_plan(config: JobConfig, all_resources: Sequence[RankResources]) -> Plan:
    """Finds the model and places its layers on the ranks. Raises UserError."""
    files = locate(resolve.resolve(config.model))
    info = read_model_info(files.head_path)
    n_ctx = _context_size(config, info)
    check_cache_types(info.kv, config.cache_types)
    adapters = check_adapters(config.adapters, files.head_path, info)
    profile = load_profile(config.emulate, len(all_resources), config.draft_ratio)
    result = _place_layers(config, files, info, all_resources, profile, adapters)
    prior = result.expected.prior(None) if result.expected else None
    depth = Policy.depth_of(sum(len(each) > 0 for each in result.layers), prior)
    placed, shape = _devices(config, info, all_resources, result.layers)
    return Plan(
        files=files,
        model=info,
        layers=result.layers,
        n_ctx=n_ctx,
        draft_cores=_draft_cores(config, all_resources, result.layers),
        uses_draft_model=config.uses_draft_model,
        states=_states(config, info, result.layers, depth),
        n_cells=max(N_BATCH, n_ctx * config.n_texts + _spare_cells(config, depth)),
        cache_types=config.cache_types,
        inexact=inexact(
            build_info.load(),
            platform.machine(),
            info.weight_types,
            config.cache_types,
            info.arch,
            devices=placing.in_use(placed, all_resources),
            exact_shape=shape,
            has_experts=info.has_experts,
        ),
        mixture=cpu_code.mixture(
            result.layers, all_resources, placing.kinds(placed, all_resources)
        ),
        profile=profile,
        all_resources=tuple(all_resources),
        reads_weights=config.no_mmap,
        locks_memory=config.mlock,
        sample=config.sample,
        expected=result.expected,
        adapters=adapters,
        rope=config.rope,
        devices=placed,
        exact_shape=shape,
    )


def _devices(
    config: JobConfig,
    info: ModelInfo,
    all_resources: Sequence[RankResources],
    layers: Sequence[LayerRange],
) -> tuple[tuple[DeviceLayers, ...], int]:
    """What computes each rank's layers, and how many tokens at a time. Raises UserError."""
    placed = placing.of_ranks(config, all_resources, layers)
    has_states = state_kind(info.arch) is not StateKind.NONE
    if config.exact_shape and has_states:
        raise UserError(
            f"--exact-shape {config.exact_shape}: {info.arch} has layers with recurrent states, "
            "which runs of one shape do not make exact: leave it out"
        )
    return placed, placing.exact_shape(config, placed, can_be_exact=not has_states)


def _context_size(config: JobConfig, info: ModelInfo) -> int:
    """Tokens of prompt and text together. Raises UserError."""
    n_ctx = config.n_ctx or info.n_ctx_train
    if n_ctx <= 0:
        raise UserError("-c/--ctx-size 0: the GGUF does not say for how much: give a number")
    if 0 < info.n_positions < n_ctx:
        raise UserError(
            f"-c/--ctx-size {n_ctx}: this model has learned {info.n_positions} positions, and no "
            f"others: give -c {info.n_positions} or less"
        )
    return n_ctx


def _place_layers(
    config: JobConfig,
    files: ModelFiles,
    info: ModelInfo,
    all_resources: Sequence[RankResources],
    profile: Profile | None,
    adapters: Sequence[CheckedAdapter],
) -> PlacementResult:
    """The ranks' layers: as the shards have them, as was asked for, as was measured, or evenly.

    Raises UserError if it cannot be done.
    """
    n_ranks, weights = len(all_resources), config.layer_split
    if profile:
        check_model(profile, info.n_layer, weights)
    sharded = files.layers(n_ranks, weights)
    if weights is None and n_ranks > 1 and (config.uses_draft_model or profile):
        # the head's cores are the draft model's; the stages share the layers evenly by bytes
        stages = split_layers(info, n_ranks - 1, None)
        weights = (0.0, *(float(len(each)) for each in stages))
    result = PlacementResult(layers=sharded or split_layers(info, n_ranks, weights))
    if profile:  # which tells the times, instead of a calibration
        return result
    placed, shape = _devices(config, info, all_resources, result.layers)
    return consult(
        files.head_path,
        info,
        all_resources,
        result.layers,
        may_move=config.layer_split is None and sharded is None,
        draft_threads=_draft_cores(config, all_resources, result.layers).n_threads,
        verbose=config.verbose,
        adapters=adapters_digest(adapters),
        devices=placing.marks(placed, all_resources, shape),
    )


def _draft_cores(
    config: JobConfig, all_resources: Sequence[RankResources], layers: Sequence[LayerRange]
) -> DraftCores:
    beside_layers = len(layers[0]) > 0
    cores = all_resources[0].draft_cores(config.draft_threads, beside_layers=beside_layers)
    return replace(cores, device=placing.of_draft(config, all_resources[0]))


def _spare_cells(config: JobConfig, depth: int) -> int:
    """For branches, and for the holes that texts leave among one another."""
    drafts = (None, *config.drafts)
    return max(spare_cells(each, depth, n_texts=config.n_texts) for each in drafts)


def _states(
    config: JobConfig, info: ModelInfo, layers: Sequence[LayerRange], depth: int
) -> StateConfig | None:
    """What is kept of recurrent layers' states. A note where nothing can be drafted for them."""
    kind = state_kind(info.arch)
    if kind is StateKind.NONE:
        return None
    inside_runs = kind is StateKind.INSIDE_RUNS
    if config.drafts and not inside_runs:
        console.note(
            f"nothing is drafted: llama.cpp cannot take back the states of {info.arch}'s layers"
        )
    elif any(each.width > 1 for each in config.drafts):
        console.note(f"--draft-width: drafts for {info.arch} are chains: its layers have states")
    return kept_states(
        depth=depth,
        n_stages=sum(len(each) > 0 for each in layers),
        n_texts=config.n_texts,
        n_draft_max=max(
            (MAX_DRAFT if each.is_auto else each.n_max for each in config.drafts), default=0
        ),
        inside_runs=inside_runs,
    )


def open_engine(
    config: JobConfig, plan: Plan, comm: Comm | None, local_ranks: int, watchdog: Watchdog
) -> Engine:
    """Loads this rank's layers. RunError on rank 0, naming the ranks, if any rank cannot."""
    resident_before, begin_s = environment.resident_bytes(), time.monotonic()
    watchdog.enter(Phase.LOADING)
    if comm is None:
        engine = Engine(_engine_config(plan, rank=0, local_ranks=1))
        placement.note([_placement(plan, engine, 0, resident_before)], config)
        return engine
    mpi.check_one_library()  # now that libpipeinfer is loaded, too
    calls = mpi.calls(comm)
    opened: Engine | None = None
    error, code = "", 0
    try:
        opened = Engine(_engine_config(plan, rank=comm.rank, local_ranks=local_ranks, calls=calls))
    except PipeinferError as reason:
        error, code = f"rank {comm.rank} on {socket.gethostname()}: {reason}", reason.exit_code
    watchdog.enter(Phase.RUNNING)
    LOG.info("%s", error or f"loaded in {time.monotonic() - begin_s:.2f} s")
    errors = [each for each in comm.allgather(error) if each]
    codes = {each for each in comm.allgather(code) if each}
    placements = comm.gather(_placement(plan, opened, comm.rank, resident_before))
    if errors:
        if comm.rank > 0:
            time.sleep(SHUTDOWN_S)  # rank 0 says it and ends all
        raise (UserError if codes == {UserError.exit_code} else RunError)("; ".join(errors))
    placement.note(placements or [], config)
    assert opened is not None
    return opened


def _engine_config(
    plan: Plan,
    *,
    rank: int,
    local_ranks: int,
    calls: MpiCalls | None = None,
) -> EngineConfig:
    stage = rank - plan.stage_rank0
    resources = plan.all_resources[rank]
    profile = plan.profile
    draft = plan.draft_cores
    is_beside_draft = rank == 0 and plan.uses_draft_model and not draft.shares_cores
    cpus = resources.stage_cpus(draft.n_threads if is_beside_draft else 0)
    if profile and local_ranks < len(plan.layers):
        raise UserError("--emulate: links are timed by one host's clock: start all ranks on it")
    return EngineConfig(
        model_path=plan.files.path_for(rank, stage if len(plan.layers[rank]) else None),
        rank=rank,
        n_ranks=len(plan.layers),
        stage_rank0=plan.stage_rank0,
        layer_first=plan.layers[rank].first,
        layer_last=plan.layers[rank].last,
        n_ctx=plan.n_ctx,
        n_cells=plan.n_cells,
        cache_types=plan.cache_types,
        n_batch=N_BATCH,
        states=plan.states or ONE_TEXT,
        n_threads=resources.n_threads,
        has_own_cores=not profile and resources.has_own_cores,
        cpus=cpus,
        nodes=resources.memory_nodes(cpus),
        shares_cores=rank == 0 and draft.shares_cores,
        reads_weights=plan.reads_weights,
        locks_memory=plan.locks_memory,
        mpi=calls,
        sample=plan.sample,
        emulation=rank_emulation(profile, rank, N_BATCH) if profile else None,
        adapters=tuple(each.here() for each in plan.adapters) if len(plan.layers[rank]) else (),
        rope=plan.rope,
        devices=plan.devices[rank],
        exact_shape=plan.exact_shape,
    )


def _placement(plan: Plan, engine: Engine | None, rank: int, resident_before: int) -> Placement:
    return Placement.of(
        plan.model,
        plan.layers,
        rank,
        resident_before,
        nodes=plan.all_resources[rank].memory_nodes(),
        path=engine.config.model_path if engine else None,
        on_devices=engine.device_bytes() if engine else DeviceBytes(),
    )


def serve(engine: Engine, drain_s: float | None = None) -> int:
    """A rank that is not the head: its threads do the work until the head ends the job.

    `drain_s`: see JobConfig.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all ranks; the head answers it
    signals.raise_on_signals()
    try:
        while (code := engine.serve(timeout_s=0.2)) is None:
            pass
        return code
    except Interrupted as interrupted:
        # mostly the head has the same signal, and says so itself
        code = engine.serve(timeout_s=HEAD_FIRST_S + (drain_s or 0.0))
        if code == 0 and drain_s is not None:
            return code  # the head has ended its work as it was asked to
        if code is None:
            engine.report_failure(f"interrupted by {signal.Signals(interrupted.signum).name}")
            code = engine.serve(timeout_s=SHUTDOWN_S)
        if code is None:
            raise
        return code or interrupted.exit_code
