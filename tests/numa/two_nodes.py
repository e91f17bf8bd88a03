"""A virtual machine of two NUMA nodes, with this machine's files: what it prints.

Needs the programs (Debian 12: qemu-system-x86 qemu-system-common busybox-static cpio) and a kernel
with its modules: linux-image-cloud-amd64, installed, or unpacked into a folder that NUMA_KERNEL
names. Its processors are emulated, so that times mean nothing.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import time
from pathlib import Path

VIRTIOFSD = Path("/usr/lib/qemu/virtiofsd")
BUSYBOX = Path("/bin/busybox")
PROGRAMS = ("qemu-system-x86_64", "cpio", "taskset")
# In the order in which they need each other.
MODULES = (
    *("virtio/virtio_ring", "virtio/virtio"),
    *("virtio/virtio_pci_legacy_dev", "virtio/virtio_pci_modern_dev", "virtio/virtio_pci"),
)
FILE_SYSTEMS = ("fuse/fuse", "fuse/virtiofs")
BOOT_S = 60.0
END = "THE-GUEST-IS-THROUGH"

INIT = """\
#!/bin/busybox sh
PATH=/bin
busybox mount -t proc none /proc
busybox mount -t sysfs none /sys
busybox mount -t devtmpfs none /dev
for module in {modules}; do busybox insmod /modules/$module.ko; done
busybox mount -t virtiofs root /root
for folder in proc sys dev; do busybox mount --move /$folder /root/$folder; done
busybox mkdir -p /root/dev/shm
busybox mount -t tmpfs none /root/dev/shm
busybox chroot /root /bin/sh -c {command}
echo {end}
echo o > /root/proc/sysrq-trigger
busybox sleep 60
"""


def kernel_folder() -> Path:
    return Path(os.environ.get("NUMA_KERNEL", "/"))


def kernels() -> list[Path]:
    return sorted(kernel_folder().glob("boot/vmlinuz-*"))


def missing() -> list[str]:
    """What this machine lacks."""
    lacks = [name for name in PROGRAMS if not shutil.which(name)]
    lacks += [str(path) for path in (VIRTIOFSD, BUSYBOX) if not path.exists()]
    return lacks + ([] if kernels() else [f"a kernel in {kernel_folder() / 'boot'}"])


def run(command: str, folder: Path, timeout_s: float) -> str:
    """What a shell command prints in the machine, whose CPUs 0 and 1 are node 0, 2 and 3 node 1."""
    kernel = kernels()[-1]
    initrd = _initrd(command, kernel.name.partition("-")[2], folder)
    socket = folder / "files"
    # always: what is cached stays so when a file is opened again
    options = "source=/,cache=always,sandbox=chroot"
    files = [VIRTIOFSD, f"--socket-path={socket}", "-o", options]
    machine = [
        *("qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", "-machine", "q35"),
        *("-m", "4G", "-smp", "4", "-nographic", "-no-reboot"),
        *("-kernel", kernel, "-initrd", initrd, "-append", "console=ttyS0 panic=-1 quiet"),
        *("-chardev", f"socket,id=files,path={socket}"),
        *("-device", "vhost-user-fs-pci,chardev=files,tag=root"),
    ]
    for node, cpus in enumerate(("0-1", "2-3")):
        memory = f"memory-backend-memfd,id=m{node},size=2G,share=on"
        machine += ["-object", memory, "-numa", f"node,memdev=m{node},cpus={cpus},nodeid={node}"]
    log = folder / "files.log"
    with log.open("w") as said, subprocess.Popen(files, stderr=said) as server:
        try:
            deadline_s = time.monotonic() + BOOT_S
            while not socket.exists():
                assert server.poll() is None and time.monotonic() < deadline_s
                time.sleep(0.05)
            done = subprocess.run(
                machine, capture_output=True, text=True, errors="replace", timeout=timeout_s
            )
        finally:
            server.terminate()
    assert END in done.stdout, done.stdout[-3000:] + done.stderr + log.read_text()
    return done.stdout


def _initrd(command: str, release: str, folder: Path) -> Path:
    """The first file system: busybox, modules, and a script that changes over to our files."""
    top = folder / "first"
    for name in ("bin", "dev", "modules", "proc", "root", "sys"):
        (top / name).mkdir(parents=True)
    shutil.copy(BUSYBOX, top / "bin")
    kernel = kernel_folder() / "lib/modules" / release / "kernel"
    paths = [f"drivers/{each}.ko" for each in MODULES] + [f"fs/{each}.ko" for each in FILE_SYSTEMS]
    for path in paths:
        shutil.copy(kernel / path, top / "modules")
    names = " ".join(Path(path).stem for path in paths)
    (top / "init").write_text(INIT.format(modules=names, command=shlex.quote(command), end=END))
    (top / "init").chmod(0o755)
    pack = f"cd {shlex.quote(str(top))} && find . | cpio --quiet -o -H newc > ../first.cpio"
    subprocess.run(["sh", "-c", pack], check=True, timeout=60)
    return folder / "first.cpio"
