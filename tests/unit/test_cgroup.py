"""Limits of control groups, from files as kernels and container engines lay them out."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeinfer_cli.launch.host import cgroup
from pipeinfer_cli.launch.host.cgroup import Limits


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    (tmp_path / "proc").mkdir()
    return tmp_path / "proc"


def lay_out(proc: Path, groups: str, mounts: dict[str, tuple[str, str]]) -> None:
    """`mounts`: by folder, what is mounted there: root, and type with options."""
    (proc / "cgroup").write_text(groups)
    lines = [
        f"30 25 0:26 {root} {proc.parent / folder} rw,nosuid - {kind}\n"
        for folder, (root, kind) in mounts.items()
    ]
    (proc / "mountinfo").write_text("22 1 8:1 / / rw - ext4 /dev/sda1 rw\n" + "".join(lines))


def write(proc: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = proc.parent / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")


V2 = "cgroup2 cgroup2 rw,nsdelegate"


@pytest.mark.parametrize(
    ("files", "limits"),
    [
        ({"fs/a/b/cpu.max": "150000 100000"}, Limits(cpus=1.5)),
        ({"fs/a/b/cpu.max": "max 100000", "fs/a/cpu.max": "200000 50000"}, Limits(cpus=4.0)),
        ({"fs/a/b/cpu.max": "300000 100000", "fs/a/cpu.max": "50000 100000"}, Limits(cpus=0.5)),
        ({"fs/a/b/memory.max": "1048576", "fs/a/memory.max": "max"}, Limits(memory_bytes=1 << 20)),
        ({"fs/a/b/memory.max": "max"}, Limits()),
        ({"fs/a/b/cpu.max": ""}, Limits()),
        ({"fs/a/b/other": "1"}, Limits()),
    ],
)
def test_version_2(proc: Path, files: dict[str, str], limits: Limits) -> None:
    lay_out(proc, "0::/a/b\n", {"fs": ("/", V2)})
    write(proc, files)
    assert cgroup.limits(proc) == limits


@pytest.mark.parametrize(
    ("quota", "memory", "limits"),
    [
        ("250000", "1048576", Limits(cpus=2.5, memory_bytes=1 << 20)),
        ("-1", "9223372036854771712", Limits()),
    ],
)
def test_version_1(proc: Path, quota: str, memory: str, limits: Limits) -> None:
    mounts = {
        "cpu": ("/", "cgroup cgroup rw,cpu,cpuacct"),
        "memory": ("/", "cgroup cgroup rw,memory"),
    }
    lay_out(proc, "5:cpu,cpuacct:/job\n4:memory:/job\n0::/\n", mounts)
    write(
        proc,
        {
            "cpu/job/cpu.cfs_quota_us": quota,
            "cpu/job/cpu.cfs_period_us": "100000",
            "memory/job/memory.limit_in_bytes": memory,
            "memory/memory.limit_in_bytes": "9223372036854771712",
        },
    )
    assert cgroup.limits(proc) == limits


@pytest.mark.parametrize("root", ["/docker/f00", "/other"])
def test_a_container_sees_its_own_part_of_the_tree(proc: Path, root: str) -> None:
    lay_out(proc, "0::/docker/f00\n", {"fs": (root, V2)})
    write(proc, {"fs/cpu.max": "200000 100000", "cpu.max": "100 100000"})
    assert cgroup.limits(proc) == Limits(cpus=2.0)


def test_a_group_above_what_is_mounted_counts_as_the_mounted_one(proc: Path) -> None:
    lay_out(proc, "0::/../../elsewhere\n", {"fs": ("/", V2)})
    write(proc, {"fs/cpu.max": "200000 100000", "elsewhere/cpu.max": "100000 100000"})
    assert cgroup.limits(proc) == Limits(cpus=2.0)


@pytest.mark.parametrize(
    ("other", "limits"),
    [
        pytest.param(b"31 25 0:27 / /mnt/x rw - fuse.x  rw\n", Limits(cpus=2.0), id="no source"),
        pytest.param(b"31 25 0:27 / /mnt/\xff rw - fuse x rw\n", Limits(cpus=2.0), id="no text"),
        pytest.param(b"31 25 0:27 / /mnt/\xc2\x85 - x rw - a b c\n", Limits(cpus=2.0), id="breaks"),
        pytest.param(b"31 25 - fuse\n", Limits(), id="cut off"),
    ],
)
def test_an_odd_mount_raises_nothing(proc: Path, other: bytes, limits: Limits) -> None:
    lay_out(proc, "0::/a\n", {"fs": ("/", V2)})
    write(proc, {"fs/a/cpu.max": "200000 100000"})
    mounts = proc / "mountinfo"
    mounts.write_bytes(other + mounts.read_bytes())
    assert cgroup.limits(proc) == limits


def test_no_control_groups(proc: Path) -> None:
    assert cgroup.limits(proc) == Limits()


def test_this_process_can_be_asked() -> None:
    found = cgroup.limits()
    assert found.cpus is None or found.cpus > 0
    assert found.memory_bytes is None or found.memory_bytes > 0
