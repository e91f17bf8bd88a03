#!/usr/bin/env python3
"""Move the patch queue to another llama.cpp: a three-way rebase of every patch.

One git repository gets the pinned source, the queue as commits on top of it, and the new source as
another child of the pinned one; the queue is then rebased onto that. Git therefore sees what
upstream changed and what we changed, and stops only where both touch the same lines.

Without conflicts, `make patches-regenerate` writes the rebased queue. Otherwise git waits in the
repository for the conflicts to be resolved there.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import upstream
from upstream import Pin, UpstreamError

BASE, QUEUE = "upstream", "queue"  # the tag that patches-regenerate starts from; our branch
IDENTITY = ("-c", "user.name=upstream", "-c", "user.email=upstream@localhost")


@dataclass(frozen=True)
class Conflict:
    """A patch that git could not rebase."""

    subject: str
    paths: tuple[str, ...]


def git(folder: Path, *args: str) -> str:
    """What git prints to stdout. Raises UpstreamError if it fails."""
    done = subprocess.run(
        ["git", "-C", str(folder), *IDENTITY, *args], check=False, capture_output=True, text=True
    )
    if done.returncode != 0:
        reason = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise UpstreamError(f"git {args[0]} failed: {reason[-1] if reason else 'no message'}")
    return done.stdout


def fetch(pin: Pin, version: str) -> Pin:
    """The pin of another version of the same package; its sdist is then in the cache."""
    folder = upstream.cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    wanted = replace(pin, version=version)
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        sdist = upstream.download(wanted, Path(temporary))
        wanted = replace(wanted, sha256=upstream.sha256_of(sdist))
        sdist.replace(folder / wanted.filename)
    return wanted


def commit(folder: Path, sources: dict[str, bytes], pin: Pin) -> None:
    """Makes a commit of exactly these files."""
    for path in folder.iterdir():
        if path.name != ".git":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for name, content in sources.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    git(folder, "add", "--force", "--all", ".")
    git(folder, "commit", "--quiet", "--allow-empty", "-m", f"{pin.package} {pin.version}")


def rebase(old: Pin, new: Pin, patches: list[Path], folder: Path) -> Conflict | None:
    """Rebases the queue in a new repository; None if every patch could be."""
    folder.mkdir(parents=True)
    git(folder, "init", "--quiet", f"--initial-branch={QUEUE}")
    commit(folder, upstream.read_sources(upstream.find_sdist(old)), old)
    git(folder, "branch", "old")
    if patches:
        git(folder, "am", "--quiet", *(str(path.resolve()) for path in patches))
    git(folder, "checkout", "--quiet", "-b", "new", "old")
    commit(folder, upstream.read_sources(upstream.find_sdist(new)), new)
    git(folder, "tag", BASE)
    try:
        git(folder, "rebase", "--quiet", "--onto", BASE, "old", QUEUE)
    except UpstreamError:
        paths = git(folder, "diff", "--name-only", "--diff-filter=U").split()
        subject = git(folder, "log", "-1", "--format=%s", "REBASE_HEAD").strip()
        return Conflict(subject, tuple(paths))
    return None


def write_pin(path: Path, pin: Pin) -> None:
    """Changes version and SHA-256 in native/UPSTREAM, and nothing else."""
    values = {"version": pin.version, "sha256": pin.sha256}
    lines = path.read_text(encoding="utf-8").splitlines()
    for index, line in enumerate(lines):
        key = line.partition("=")[0]
        if key.strip() in values:
            lines[index] = f"{key}= {values[key.strip()]}"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--pin", type=Path, required=True, help="native/UPSTREAM")
    parser.add_argument("--patches", type=Path, required=True, help="folder of *.patch files")
    parser.add_argument("--to", required=True, metavar="VERSION", help="of the same package")
    parser.add_argument("--into", type=Path, required=True, help="repository to make")
    args = parser.parse_args(argv)
    patches = sorted(args.patches.glob("*.patch"))
    try:
        old = upstream.read_pin(args.pin)
        if args.into.exists():
            raise UpstreamError(f"{args.into} exists: remove it first")
        new = fetch(old, args.to)
        conflict = rebase(old, new, patches, args.into)
    except (UpstreamError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    write_pin(args.pin, new)
    if conflict is None:
        print(
            f"{len(patches)} patches rebased to {new.version}: run make patches-regenerate, and "
            f"require {new.package} {new.version} in pyproject.toml"
        )
        return 0
    print(
        f"patch {conflict.subject!r} conflicts in {', '.join(conflict.paths)}: resolve it in "
        f"{args.into}, run git add and git rebase --continue there until it is done, then make "
        "patches-regenerate",
        file=sys.stderr,
    )
    return 1


if __name__ == "__main__":
    sys.exit(main())
