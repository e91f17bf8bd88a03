"""Profiles as TOML files: those that ship, those people write, those that calibration writes."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pipeinfer_cli import files
from pipeinfer_cli.cluster.profile import MAX_STAGES, Link, Profile, StageCurve, assumed_draft
from pipeinfer_cli.errors import RunError, UserError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SHIPPED_DIR = Path(__file__).parent / "profiles"
Part = TypeVar("Part", StageCurve, Link)

TOP_KEYS = ("description", "n_stages", "hidden_bytes", "draft_ms")
TOP_TABLES = ("stage", "draft", "link", "result_link", "stage_at", "link_at")
ABOUT_TABLE = "calibration"  # what was measured, on what; see cluster.calibration
CURVE_KEYS = ("ms", "base_ms", "token_ms")
LINK_KEYS = ("latency_us", "gbit_per_s")


def names() -> list[str]:
    """The profiles that ship, sorted by model, stages and network."""
    found = (path.stem for path in SHIPPED_DIR.glob("*.toml"))
    return sorted(found, key=lambda name: [(len(part), part) for part in name.split("-")])


def load(name_or_path: str) -> Profile:
    """A shipped profile by its name, or one from a TOML file. Raises UserError."""
    path = _path_of(name_or_path)
    try:
        fields = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(
            f"cannot read the profile {str(path)!r}: {error.strerror}: give a TOML file or one of "
            f"{', '.join(names())}"
        ) from None
    except ValueError as error:  # also text that is not UTF-8
        raise UserError(f"the profile {str(path)!r} is not TOML: {error}") from None
    except RecursionError:
        raise UserError(f"the profile {str(path)!r} is nested too deeply") from None
    try:
        return _profile(path.stem, fields)
    except (OverflowError, ValueError):
        raise UserError(f"the profile {str(path)!r} has a number that is too large") from None
    except UserError as error:
        raise UserError(f"the profile {str(path)!r}: {error}") from None


def read_about(path: Path) -> dict[str, Any]:
    """What `save` has written as `about`. OSError, ValueError or KeyError if there is none."""
    about: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))[ABOUT_TABLE]
    return about


def _path_of(name_or_path: str) -> Path:
    if "/" in name_or_path or name_or_path.endswith(".toml"):
        return files.expanded(name_or_path)
    if name_or_path in names():
        return SHIPPED_DIR / f"{name_or_path}.toml"
    raise UserError(
        f"there is no profile named {name_or_path!r}: give a TOML file or one of "
        f"{', '.join(names())}"
    )


def _profile(name: str, fields: Mapping[str, Any]) -> Profile:
    _check_keys("", fields, (*TOP_KEYS, *TOP_TABLES, ABOUT_TABLE))
    n_stages = _integer("n_stages", fields)
    if not 1 <= n_stages <= MAX_STAGES:
        raise UserError(f"n_stages {n_stages}: give a number from 1 to {MAX_STAGES}")
    stage = _stage(_table("stage", fields))
    stages = _with_others([stage] * n_stages, "stage_at", fields, CURVE_KEYS)
    link = _link(_table("link", fields))
    return Profile(
        name=name,
        description=_text("description", fields),
        stages=stages,
        links=_with_others([link] * n_stages, "link_at", fields, LINK_KEYS),
        result_link=_link(_table("result_link", fields)) if "result_link" in fields else link,
        hidden_bytes=_integer("hidden_bytes", fields),
        draft=_draft(fields, stages[0]),
    )


def _with_others(
    parts: list[Part], key: str, fields: Mapping[str, Any], keys: Sequence[str]
) -> tuple[Part, ...]:
    """The parts, some of them replaced by those that `[[stage_at]]` or `[[link_at]]` name."""
    others = fields.get(key, [])
    if not isinstance(others, list) or not all(isinstance(other, dict) for other in others):
        raise UserError(f"{key} is not a list of tables: write [[{key}]]")
    make: Any = _stage if key == "stage_at" else _link
    for other in others:
        _check_keys(f"{key}.", other, ("index", *keys))
        index = _integer("index", other, where=f"{key}.")
        if not 0 <= index < len(parts):
            raise UserError(f"{key}.index {index}: give a stage from 0 to {len(parts) - 1}")
        parts[index] = make({k: v for k, v in other.items() if k != "index"})
    return tuple(parts)


def _stage(table: Mapping[str, Any]) -> StageCurve:
    return _curve("stage", table)


def _draft(fields: Mapping[str, Any], first_stage: StageCurve) -> StageCurve:
    if "draft" not in fields:
        if "draft_ms" not in fields:
            raise UserError("draft_ms is missing: add it, or a table [draft]")
        return assumed_draft(first_stage, _number("draft_ms", fields))
    if "draft_ms" in fields:
        raise UserError("draft_ms and a table [draft]: give one of the two")
    return _curve("draft", _table("draft", fields))


def _curve(name: str, table: Mapping[str, Any]) -> StageCurve:
    where = f"{name}."
    _check_keys(where, table, CURVE_KEYS)
    points = []
    if "ms" in table:
        if len(table) > 1:
            raise UserError(f"{name}.ms and {name}.base_ms or token_ms: give one of the two")
        if not isinstance(times := table["ms"], dict):
            raise UserError(f"{name}.ms is not a table: write ms = {{ 1 = 25.0, 2 = 27.5 }}")
        for key in times:
            if not key.isdecimal():
                raise UserError(f"{name}.ms.{key}: give a number of tokens for a key")
            points.append((int(key), _number(key, times, where=f"{name}.ms.")))
        points.sort()
    else:
        base_ms, token_ms = (_number(key, table, where) for key in ("base_ms", "token_ms"))
    try:
        if "ms" in table:
            return StageCurve(points=tuple(points))
        return StageCurve.line(base_ms=base_ms, token_ms=token_ms)
    except UserError as error:
        raise UserError(f"{name}: {error}") from None


def _link(table: Mapping[str, Any]) -> Link:
    _check_keys("link.", table, LINK_KEYS)
    return Link(
        latency_us=_number("latency_us", table, where="link."),
        gbit_per_s=_number("gbit_per_s", table, where="link."),
    )


def _check_keys(where: str, table: Mapping[str, Any], known: Sequence[str]) -> None:
    for key in table:
        if key not in known:
            raise UserError(f"unknown key {where}{key}: known are {', '.join(known)}")


def _value(key: str, table: Mapping[str, Any], where: str) -> Any:
    if key not in table:
        raise UserError(f"{where}{key} is missing: add it")
    return table[key]


def _table(key: str, table: Mapping[str, Any]) -> Mapping[str, Any]:
    if not isinstance(value := _value(key, table, ""), dict):
        raise UserError(f"{key} is not a table: write [{key}]")
    return value


def _number(key: str, table: Mapping[str, Any], where: str = "") -> float:
    value = _value(key, table, where)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UserError(f"{where}{key} {value!r}: give a number")
    return float(value)


def _integer(key: str, table: Mapping[str, Any], where: str = "") -> int:
    value = _value(key, table, where)
    if isinstance(value, bool) or not isinstance(value, int):
        raise UserError(f"{where}{key} {value!r}: give a whole number")
    return value


def _text(key: str, table: Mapping[str, Any]) -> str:
    if not isinstance(value := table.get(key, ""), str):
        raise UserError(f"{key} {value!r}: give a string")
    return value


def save(profile: Profile, path: Path, about: Mapping[str, Any] | None = None) -> None:
    """Writes what `load` reads: the first stage and link, and those that differ from them.

    `about`, for others to read, holds texts, numbers, and lists of them.
    """
    draft_ms, first_stage = profile.draft_ms, profile.stages[0]
    is_assumed = profile.draft == assumed_draft(first_stage, draft_ms)
    lines = [
        f"description = {_literal(profile.description)}",
        f"n_stages = {profile.n_stages}",
        f"hidden_bytes = {profile.hidden_bytes}",
        *((f"draft_ms = {draft_ms!r}",) if is_assumed else ()),
        *(() if is_assumed else ("", "[draft]", _curve_line(profile.draft))),
        *("", "[stage]", _curve_line(first_stage)),
        *("", "[link]", *_link_lines(profile.links[0])),
        *("", "[result_link]", *_link_lines(profile.result_link)),
    ]
    for index, stage in enumerate(profile.stages):
        if stage != first_stage:
            lines += ["", "[[stage_at]]", f"index = {index}", _curve_line(stage)]
    for index, link in enumerate(profile.links):
        if link != profile.links[0]:
            lines += ["", "[[link_at]]", f"index = {index}", *_link_lines(link)]
    if about is not None:
        lines += ["", f"[{ABOUT_TABLE}]", *(f"{k} = {_literal(v)}" for k, v in about.items())]
    try:
        files.write_text(path, "\n".join(lines) + "\n")
    except OSError as error:
        raise RunError(f"cannot write the profile {str(path)!r}: {error.strerror}") from None


def _literal(value: Any) -> str:
    """A JSON text, number or list is one of TOML, too; its escapes for other planes are not."""
    return json.dumps(value, ensure_ascii=False)


def _curve_line(curve: StageCurve) -> str:
    return f"ms = {{ {', '.join(f'{n} = {ms!r}' for n, ms in curve.points)} }}"


def _link_lines(link: Link) -> list[str]:
    return [f"latency_us = {link.latency_us!r}", f"gbit_per_s = {link.gbit_per_s!r}"]
