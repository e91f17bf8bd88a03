"""Which devices each rank computes with: those asked for, or its share of its host's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from pipeinfer_cli.engine.cpu.devices import (
    ALL_LAYERS,
    DEFAULT_EXACT_SHAPE,
    NO_DEVICES,
    Device,
    DeviceLayers,
    preferred,
)
from pipeinfer_cli.errors import UserError
from pipeinfer_cli.launch.environment import RankResources, format_cpulist
from pipeinfer_cli.models.layer_split import LayerRange
from pipeinfer_cli.runtime.config import (
    AUTO_DEVICE,
    DEVICE_OPTION,
    LAYERS_OPTION,
    NO_DEVICE,
    JobConfig,
)

T = TypeVar("T")


def check_lists(config: JobConfig, n_ranks: int) -> None:
    """UserError unless lists by rank have an entry for each."""
    for option, values in (
        (LAYERS_OPTION, config.gpu_layers),
        (DEVICE_OPTION, config.devices),
    ):
        if len(values) > 1 and len(values) != n_ranks:
            raise UserError(
                f"{option} has {len(values)} values for {n_ranks} ranks: "
                "give one per rank, or one for all"
            )


def of_ranks(
    config: JobConfig, all_resources: Sequence[RankResources], layers: Sequence[LayerRange]
) -> tuple[DeviceLayers, ...]:
    """By rank. UserError if a device was asked for that the rank does not have."""
    check_lists(config, len(layers))
    return tuple(
        _of_rank(config, rank, all_resources, layers) for rank in range(len(all_resources))
    )


def _of_rank(
    config: JobConfig,
    rank: int,
    all_resources: Sequence[RankResources],
    layers: Sequence[LayerRange],
) -> DeviceLayers:
    n_layers = _at(config.gpu_layers, rank, ALL_LAYERS)
    asked = _at(config.devices, rank, AUTO_DEVICE)
    names: tuple[str, ...]
    if asked not in (AUTO_DEVICE, NO_DEVICE):
        names = tuple(asked.split("+"))
        _check_names(names, rank, all_resources[rank])
    elif asked == NO_DEVICE or (config.emulate is not None and not config.gpu_layers):
        names = ()
    else:
        names = _share(rank, all_resources, layers)
    if not names or n_layers == 0 or not len(layers[rank]):
        return NO_DEVICES
    return DeviceLayers(names=names, n_layers=n_layers)


def _at(values: Sequence[T], rank: int, otherwise: T) -> T:
    if not values:
        return otherwise
    return values[rank] if len(values) > 1 else values[0]


def _check_names(
    names: Sequence[str], rank: int, resources: RankResources, option: str = DEVICE_OPTION
) -> None:
    known = [device.name for device in resources.devices]
    for name in names:
        if name not in known:
            having = f"has {', '.join(known)}" if known else "has none (see pipeinfer doctor)"
            raise UserError(
                f"{option} {name}: rank {rank} on {resources.host} {having}; or give {NO_DEVICE}"
            )


def _share(
    rank: int, all_resources: Sequence[RankResources], layers: Sequence[LayerRange]
) -> tuple[str, ...]:
    """Its part of its host's devices: some each, or one that several ranks share."""
    names = [device.name for device in preferred(all_resources[rank].devices)]
    on_host = [
        each
        for each, resources in enumerate(all_resources)
        if resources.host == all_resources[rank].host and len(layers[each])
    ]
    if not names or rank not in on_host:
        return ()
    index, n_ranks = on_host.index(rank), len(on_host)
    if n_ranks >= len(names):
        return (names[index * len(names) // n_ranks],)
    return tuple(names[index * len(names) // n_ranks : (index + 1) * len(names) // n_ranks])


def exact_shape(config: JobConfig, placed: Sequence[DeviceLayers], *, can_be_exact: bool) -> int:
    """Tokens of each computation: as asked for, or with devices so that texts are exact."""
    if config.exact_shape is not None:
        return config.exact_shape
    uses_devices = any(each.names for each in placed)
    return DEFAULT_EXACT_SHAPE if uses_devices and can_be_exact else 0


def in_use(
    placed: Sequence[DeviceLayers], all_resources: Sequence[RankResources]
) -> tuple[Device, ...]:
    """The devices that compute layers."""
    return tuple(
        device
        for rank, each in enumerate(placed)
        for name in each.names
        if (device := _device(all_resources[rank], name)) is not None
    )


def _device(resources: RankResources, name: str) -> Device | None:
    return next((each for each in resources.devices if each.name == name), None)


def kinds_of(placed: DeviceLayers, resources: RankResources) -> str:
    """What the rank's sums depend on, in words; empty: the processor alone."""
    described = {
        device.description
        for name in placed.names
        if (device := _device(resources, name)) is not None
    }
    return ", ".join(sorted(described))


def kinds(
    placed: Sequence[DeviceLayers], all_resources: Sequence[RankResources]
) -> tuple[str, ...]:
    """By rank: see kinds_of, and how many layers that is, if not all."""
    return tuple(
        kinds_of(each, resources) + (f", {each.n_layers} layers" if each.n_layers >= 0 else "")
        if each.names
        else ""
        for each, resources in zip(placed, all_resources, strict=True)
    )


def marks(
    placed: Sequence[DeviceLayers], all_resources: Sequence[RankResources], shape: int
) -> tuple[str, ...]:
    """By rank: what runs' times depend on beside processors; none if on nothing."""
    found = kinds(placed, all_resources)
    if not shape and not any(found):
        return ()
    return tuple(f"{each}; {shape}" if shape else each for each in found)


def of_draft(config: JobConfig, head: RankResources) -> str:
    """The device of draft models; empty: none. UserError if the head does not have it."""
    name = config.draft_device
    if name in (None, NO_DEVICE):
        return ""
    assert name is not None
    _check_names([name], 0, head, option="--draft-device")
    return name


def in_words(placed: Sequence[DeviceLayers], all_resources: Sequence[RankResources]) -> str:
    """A line for people: which ranks compute on which devices; empty: none does."""
    ranks: dict[tuple[str, str], list[int]] = {}
    for rank, each in enumerate(placed):
        if each.names:
            layers = "all layers" if each.n_layers < 0 else f"at most {each.n_layers} layers"
            what = f"{layers} on {' and '.join(each.names)}"
            ranks.setdefault((what, kinds_of(each, all_resources[rank])), []).append(rank)
    return "; ".join(
        f"rank {format_cpulist(who)}: {what} ({kinds})" for (what, kinds), who in ranks.items()
    )
