"""Group by group: start it, watch it, and report what it has measured, however it ends."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeinfer_cli import console
from pipeinfer_cli.commands import start
from pipeinfer_cli.commands.bench import plots, prompts, record, rows
from pipeinfer_cli.commands.bench.config import BenchConfig, BenchGroup
from pipeinfer_cli.commands.bench.report import report
from pipeinfer_cli.commands.bench.summary import summarise
from pipeinfer_cli.commands.bench.turns import n_turns
from pipeinfer_cli.files import temporary_folder
from pipeinfer_cli.launch import environment, mpi
from pipeinfer_cli.launch.host import machine
from pipeinfer_cli.tables import Writer

WATCH_S = 0.3  # how often the progress bar looks


def bench(config: BenchConfig) -> int:
    """Measures everything and returns the exit code. In a launcher's job, on every rank."""
    launch_env = environment.detect(os.environ)
    if not launch_env.alone:
        for ranks in config.ranks:
            start.check_launched_ranks(ranks, launch_env)
        mpi.start()  # first: what only rank 0 finds wrong then ends all ranks
    if launch_env.rank > 0:
        return _follow(config)
    config.outputs.check()
    plots.check_x(config.outputs.plot_x, config.synth_acceptance)
    texts = prompts.load(config.prompts)
    with temporary_folder("pipeinfer-bench-") as folder:
        groups = list(config.groups(texts, str(folder / "record")))
        if launch_env.alone:
            groups = [group.resolved() for group in groups]  # what is missing is said first
        with report(config.output, optional=_differing(config)) as table:
            for index, group in enumerate(groups):
                place = f"group {index + 1} of {len(groups)}"
                if (code := _lead(group, table, place)) != 0:
                    return code
        if config.outputs.plot is not None:
            plots.draw(table.records, Path(config.outputs.plot), config.outputs.plot_x)
    return 0


def _follow(config: BenchConfig) -> int:
    """A rank of a launcher's job that is not the head: it serves each pipeline."""
    for group in config.groups((), ""):
        if (code := start.start(group)) != 0:
            return code
    return 0


def _lead(group: BenchGroup, table: Writer, place: str) -> int:
    Path(group.record).unlink(missing_ok=True)
    print(f"pipeinfer: {place}: {_description(group)}", file=sys.stderr)
    try:
        with _watched(group):
            return start.start(group)
    finally:
        _report(group, table)


def _report(group: BenchGroup, table: Writer) -> None:
    measured = record.read(group.record)
    if measured.pipeline is None:
        return
    summaries = summarise(group, measured)
    this_machine = machine.describe()
    table.add([rows.row(group, measured.pipeline, each, this_machine) for each in summaries])
    for each in summaries:
        if each.identical is False:
            print(
                f"pipeinfer: warning: {each.variant.name} with --drafter {each.variant.drafter} "
                "has written another text than plain decoding: please report this",
                file=sys.stderr,
            )


def _description(group: BenchGroup) -> str:
    parts = [
        Path(group.model).name,
        f"{group.ranks} ranks" if group.ranks else "",
        f"emulated {group.emulate}" if group.emulate else "",
        f"synthetic acceptance {group.synth_acceptance}" if group.synth_acceptance else "",
        (
            f"{len(group.variants)} variants x {len(group.prompts)} prompts x "
            f"{group.repetitions} repetitions"
        ),
    ]
    return ", ".join(filter(None, parts))


@contextmanager
def _watched(group: BenchGroup) -> Iterator[None]:
    """A progress bar on a terminal while the block runs. The record is all that it looks at."""
    with console.counting("requests", n_turns(group)) as show:
        if show is None:
            yield
            return
        is_over = threading.Event()
        watcher = threading.Thread(target=_watch, args=(group.record, show, is_over), daemon=True)
        watcher.start()
        try:
            yield
        finally:
            is_over.set()
            watcher.join()


def _watch(path: str, show: Callable[[int], None], is_over: threading.Event) -> None:
    while not is_over.wait(WATCH_S):
        show(record.count_samples(path))
    show(record.count_samples(path))


def _differing(config: BenchConfig) -> list[str]:
    """Columns that only some benches need."""
    lists = {
        "n_threads": config.threads,
        "draft_model": config.draft_models,
        **{
            rows.draft_column(name): values
            for name, values in config.draft.items()
            if name != "n_max"
        },
    }
    emulated = {"emulate": config.emulate, "synth_acceptance": config.synth_acceptance}
    return [
        *(name for name, values in emulated.items() if values != (None,)),
        *(name for name, values in lists.items() if len(values) > 1),
    ]
