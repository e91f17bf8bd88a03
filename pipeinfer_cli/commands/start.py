"""The three ways to start a job: in a launcher's job, alone, or as our own local ranks."""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

from pipeinfer_cli import console, log
from pipeinfer_cli.cluster.emulation import count_ranks, load_profile
from pipeinfer_cli.commands import jobs
from pipeinfer_cli.commands.chat.lines import read_line
from pipeinfer_cli.commands.generate_config import GenerateConfig
from pipeinfer_cli.errors import UserError
from pipeinfer_cli.launch import environment, supervisor
from pipeinfer_cli.launch.host import mpi_choice, shared_memory
from pipeinfer_cli.models import shards
from pipeinfer_cli.models.resolve import AUTO, catalogue
from pipeinfer_cli.runtime.config import JobConfig

CONFIG_FILE = "config.pickle"
START_S = 60.0  # Python and MPI get at least this long to start, on busy machines, too
# Imports the package from where the parent has it (sys.argv[1]), and nothing from the current
# folder: `-m` would take a source tree lying there for the installed package.
RANK_PROGRAM = (
    "import sys; sys.path[:] = [p for p in sys.path if p]; sys.path.append(sys.argv[1]); "
    "from pipeinfer_cli.cli.main import main; sys.exit(main())"
)


def generate(config: GenerateConfig) -> int:
    """Runs one request, a batch or a conversation, and returns the exit code."""
    config = with_default_draft(config).on_terminal()
    with console.restored_terminal() if config.terminal else nullcontext():
        return start(config)


def start(config: JobConfig) -> int:
    """Runs a job and returns its exit code: as a launcher's rank, alone, or by local ranks."""
    launch_env = environment.detect(os.environ)
    if not launch_env.alone:
        return join(config, launch_env)
    return alone(with_ranks(config.resolved()))


def join(config: JobConfig, launch_env: environment.LaunchEnvironment) -> int:
    """One rank of a launcher's job. Only rank 0 of it looks at the model and the prompt."""
    check_launched_ranks(config.ranks, launch_env)
    from pipeinfer_cli.launch import mpi

    return jobs.run(config, mpi.start())


def check_launched_ranks(ranks: int | None, launch_env: environment.LaunchEnvironment) -> None:
    """UserError, on all ranks, if the launcher has started another number of them."""
    if ranks is not None and launch_env.size is not None and ranks != launch_env.size:
        raise UserError(
            f"--ranks {ranks}, but {launch_env.launcher} started {launch_env.size}: "
            "leave --ranks out, the launcher decides"
        )


def with_ranks(config: JobConfig) -> JobConfig:
    """The same with a number of ranks for this host: what was asked for, or what fits."""
    profile = load_profile(config.emulate, config.ranks, config.draft_ratio)
    ranks = config.ranks or (count_ranks(profile) if profile else len(config.layer_split or ()))
    if isinstance(config.threads, Sequence):
        ranks = ranks or len(config.threads)
    for by_rank in (config.cpu_variants, config.devices, config.gpu_layers):
        if len(by_rank) > 1:
            ranks = ranks or len(by_rank)
    ranks = ranks or shards.n_stages(config.model) or 0
    if config.ranks is None and (unused := environment.unused_tasks(os.environ)):
        print(f"pipeinfer: warning: {unused}", file=sys.stderr)
    return replace(config, ranks=ranks or environment.default_ranks())


def alone(config: JobConfig) -> int:
    """No launcher: this process alone, or the parent of `config.ranks` local ranks."""
    if config.ranks == 1:
        return jobs.run(config, None)
    if config.emulate is None:
        check_ranks(config.model, config.ranks or 1)
    return _spawn(config)


def check_ranks(model: str, ranks: int) -> None:
    """UserError, before processes are started, if the model does not fit the ranks."""
    from pipeinfer_cli.models.gguf.info import read_model_info
    from pipeinfer_cli.models.layer_split import split_layers

    info = read_model_info(shards.locate(Path(model)).head_path)
    if ranks > info.n_layer + 1:  # the head may have no layers
        split_layers(info, ranks, None)


def _spawn(config: JobConfig) -> int:
    from pipeinfer_cli.launch import local

    assert config.ranks is not None
    log.begin(config.log_file, "parent")
    mpi = mpi_choice.choose()
    shared_memory.prepare(mpi, config.ranks, os.environ, among=False)
    package_parent = str(Path(__file__).resolve().parents[2])
    return local.spawn(
        local.Job(
            launcher=environment.Launcher.of(mpi),
            ranks=config.ranks,
            program=[sys.executable, "-c", RANK_PROGRAM, package_parent],
            # Not through the command line: launchers read things into it (a prompt ":").
            files={CONFIG_FILE: pickle.dumps(config)},
            verbose=config.verbose,
            read_line=read_line if jobs.job_of(config).is_interactive else None,
            forwards_stdin=config.reads_stdin,
            grace_s=config.drain_s,
            start_s=max(config.timeout_s, START_S),
        )
    )


def run_spawned(place: Path) -> int:
    """The life of a rank that `_spawn` started."""
    launch_env = environment.detect(os.environ)
    supervisor.enter_local(place, launch_env.rank)
    # As trustworthy as the program: our parent wrote it, into a folder that is ours alone.
    config: JobConfig = pickle.loads((place / CONFIG_FILE).read_bytes())
    return join(config, launch_env)


def with_default_draft(config: GenerateConfig) -> GenerateConfig:
    """Fills in `-md auto`: the catalogue's draft for the target, and what is known of the pair.

    Each cutoff or length that was given stays. UserError if the catalogue has no draft for it.
    """
    if config.draft_model != AUTO:
        return config
    pair = catalogue().default_pair(config.model)
    if pair is None:
        raise UserError(
            f"-md auto: no draft is known for {config.model!r}: name one (models pairs lists pairs)"
        )
    given = {name: getattr(config.draft, name) for name in config.draft_given}
    draft = replace(pair.draft_config, **given)
    if given:
        draft = replace(draft, is_auto=False)
    if "n_max" in given:
        draft = replace(draft, auto_length=config.draft.auto_length)
    return replace(config, draft_model=pair.draft, draft=draft)
