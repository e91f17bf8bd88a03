"""The commands about models: `pipeinfer shard` and `pipeinfer models ...`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from pipeinfer_cli.cli import options
from pipeinfer_cli.cli.parsing.values import integer
from pipeinfer_cli.engine.config import F16_CACHE, CacheTypes
from pipeinfer_cli.errors import UserError
from pipeinfer_cli.runtime import config as cfg

Action = Callable[[], int]

models_app = typer.Typer(
    help="Models: list, fetch and find named ones, look into GGUFs, derive others.",
    rich_markup_mode=None,
)

Name = Annotated[str, typer.Argument(help="A name of `models list`.")]
PathOrName = Annotated[str, typer.Argument(metavar="MODEL", help="A GGUF path, or a model's name.")]


def shard(
    model: PathOrName,
    stages: Annotated[
        int,
        typer.Option("--stages", parser=integer, metavar="N", help="How many stages, and files."),
    ],
    folder: Annotated[
        Path, typer.Option("-o", "--output", metavar="DIR", help="The folder for the files.")
    ],
    layer_split: Annotated[
        str,
        typer.Option(
            "--layer-split",
            metavar="WEIGHTS",
            help="A weight per stage (2,1,1), or auto: even by bytes.",
        ),
    ] = "auto",
) -> Action:
    """Cut a GGUF into one file per stage, for nodes without shared storage."""
    return partial(_shard, model, stages, folder, cfg.parse_layer_split(layer_split))


def _shard(model: str, stages: int, folder: Path, layer_split: tuple[float, ...] | None) -> int:
    from pipeinfer_cli.models import make_shards as shard_
    from pipeinfer_cli.models import resolve

    config = shard_.ShardConfig(
        model=resolve.resolve(model), n_stages=stages, layer_split=layer_split, folder=folder
    )
    for path in shard_.shard(config):
        print(path)
    return 0


@models_app.command("show")
def models_show(
    model: PathOrName,
    stages: Annotated[
        int | None,
        typer.Option("--stages", parser=integer, metavar="N", help="What each of N stages needs."),
    ] = None,
    ctx_size: Annotated[
        int,
        typer.Option("-c", "--ctx-size", parser=integer, metavar="N", help="For the KV cache."),
    ] = cfg.DEFAULT_N_CTX,
    cache_type_k: options.CacheTypeK = F16_CACHE.k,
    cache_type_v: options.CacheTypeV = F16_CACHE.v,
) -> Action:
    """What is in a GGUF: layers, their bytes, and the memory that stages would need."""
    types = CacheTypes(cache_type_k, cache_type_v)
    return partial(_show, model, stages, ctx_size, types)


def _show(model: str, stages: int | None, ctx_size: int, types: CacheTypes) -> int:
    from pipeinfer_cli.models import resolve, show

    path = resolve.resolve(model)
    return show.show(
        show.ShowConfig(model=path, n_stages=stages, n_ctx=ctx_size, cache_types=types)
    )


@models_app.command("derive")
def models_derive(
    model: PathOrName,
    target: Annotated[Path, typer.Option("-o", "--output", metavar="GGUF", help="The new file.")],
    file_type: Annotated[
        str | None, typer.Option("--type", metavar="TYPE", help="F32, F16, Q8_0, Q4_K_M, Q4_0, ...")
    ] = None,
    without: Annotated[
        str, typer.Option("--without", metavar="LAYERS", help="Layers to leave out: 9,14,20-22.")
    ] = "",
    threads: Annotated[
        int | None, typer.Option("-t", "--threads", parser=integer, metavar="N", help="Threads.")
    ] = None,
) -> Action:
    """Make another model of the same vocabulary: a draft, or a costlier target."""
    return partial(_derive, model, target, file_type, without, threads)


def _derive(
    model: str, target: Path, file_type: str | None, without: str, threads: int | None
) -> int:
    from pipeinfer_cli.engine import config as engine_config
    from pipeinfer_cli.launch import environment
    from pipeinfer_cli.models import derive, resolve

    if threads is None:
        threads = min(environment.usable_cores(), engine_config.MAX_THREADS)
    config = derive.DeriveConfig(
        model=resolve.resolve(model),
        target=target,
        file_type=file_type,
        left_out=derive.parse_layers(without),
        n_threads=threads,
    )
    print(derive.derive(config))
    return 0


@models_app.command("list")
def models_list() -> Action:
    """The known models, and which are in the cache."""
    return _list


def _list() -> int:
    from pipeinfer_cli import console
    from pipeinfer_cli.models import cache, resolve

    rows = [
        (
            each.name,
            console.size(size) if (size := each.size_bytes or each.about_bytes) else "unknown",
            "yes" if cache.cached_path(each) else "no",
            "yes" if each.file_hashes else "unverified",
            each.description,
        )
        for each in resolve.catalogue().models.values()
    ]
    console.table(
        ("name", "size", "cached", "SHA-256", "description"),
        rows,
        first=("name", "size", "cached", "description"),
        wrapped=("description",),
    )
    return 0


@models_app.command("pairs")
def models_pairs() -> Action:
    """Targets with drafts of the same vocabulary; the first of a target is what -md auto takes."""
    return _pairs


def _pairs() -> int:
    from pipeinfer_cli import console
    from pipeinfer_cli.models import resolve

    known = resolve.catalogue()
    rows = [
        (
            pair.target,
            pair.draft,
            f"{known.models[pair.target].layers} and {known.models[pair.draft].layers}",
            known.models[pair.target].architecture,
            pair.settings,
            pair.origin or "-",
        )
        for pair in known.pairs
    ]
    console.table(
        ("target", "draft", "layers", "architecture", "settings", "from"),
        rows,
        first=("target", "draft", "settings"),
        wrapped=("settings", "from"),
    )
    return 0


@models_app.command("pull")
def models_pull(name: Name) -> Action:
    """Bring a model into the cache, and print its path."""
    return partial(_pull, name)


def _pull(name: str) -> int:
    from pipeinfer_cli.models import download, resolve

    print(download.pull(resolve.find(name)))
    return 0


@models_app.command("path")
def models_path(name: Name) -> Action:
    """Print the path of a model in the cache."""
    return partial(_path, name)


def _path(name: str) -> int:
    from pipeinfer_cli.models import cache, resolve

    path = cache.cached_path(resolve.find(name))
    if path is None:
        raise UserError(f"the model {name} is not in the cache: run pipeinfer models pull {name}")
    print(path)
    return 0
