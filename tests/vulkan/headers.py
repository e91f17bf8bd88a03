"""Prints a folder with headers of Vulkan that are new enough; nothing if the system's are.

python tests/vulkan/headers.py build/vulkan/headers

Debian 12 has 1.3.239, which ggml's Vulkan backend does not compile with. A later release of Debian
has newer ones: they are unpacked into the folder, from the archive that apt uses here. Nothing is
installed, and apt's own settings stay as they are.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

SYSTEM = Path("/usr/include")
NEEDED = (1, 3, 280)  # has vk::LayerSettingEXT
LATER = "trixie"
PACKAGE = "libvulkan-dev"
TIMEOUT_S = 300


def main() -> int:
    folder = Path(sys.argv[1]).resolve()
    own = folder / "root" / "usr" / "include"
    if is_new_enough(SYSTEM):
        return 0
    if not is_new_enough(own):
        try:
            unpack(folder)
        except subprocess.SubprocessError as error:
            print(f"{PACKAGE} of Debian {LATER}: {error}", file=sys.stderr)
            return 1
    if not is_new_enough(own):
        print(f"{own}: older than Vulkan {'.'.join(map(str, NEEDED))}", file=sys.stderr)
        return 1
    print(own)
    return 0


def is_new_enough(include: Path) -> bool:
    core = include / "vulkan" / "vulkan_core.h"
    if not core.exists() or not (include / "vulkan" / "vulkan.hpp").exists():
        return False
    text = core.read_text(encoding="utf-8")
    patch = re.search(r"#define VK_HEADER_VERSION (\d+)", text)
    version = re.search(r"VK_HEADER_VERSION_COMPLETE VK_MAKE_API_VERSION\(0, (\d+), (\d+)", text)
    assert patch and version, core
    return (int(version[1]), int(version[2]), int(patch[1])) >= NEEDED


def unpack(folder: Path) -> None:
    """The package of the later release, with lists and a cache of apt's in the folder."""
    for name in ("lists/partial", "cache/archives/partial", "sources", "preferences", "root"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    source = (
        f"Types: deb\nURIs: {archive()}\nSuites: {LATER}\nComponents: main\n"
        "Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n"
    )
    (folder / "sources" / "later.sources").write_text(source, encoding="utf-8")
    apt = [
        "apt-get",
        *("-o", f"Dir::State::lists={folder}/lists", "-o", f"Dir::Cache={folder}/cache"),
        *("-o", "Dir::Etc::sourcelist=/dev/null", "-o", f"Dir::Etc::sourceparts={folder}/sources"),
        *("-o", f"Dir::Etc::preferencesparts={folder}/preferences", "-o", "APT::Sandbox::User="),
    ]
    call([*apt, "update"], folder)
    call([*apt, "download", PACKAGE], folder)
    for package in folder.glob(f"{PACKAGE}_*.deb"):
        call(["dpkg", "-x", str(package), str(folder / "root")], folder)


def archive() -> str:
    """Where apt has Debian's packages from."""
    listed = subprocess.run(
        [
            *("apt-get", "indextargets", "--format", "$(REPO_URI)"),
            *("Created-By: Packages", "Label: Debian"),
        ],
        check=True,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    if not (found := listed.stdout.split()):
        raise subprocess.SubprocessError("apt has no source with Debian's packages")
    return found[0]


def call(command: list[str], folder: Path) -> None:
    """With its output on stderr: stdout is ours."""
    subprocess.run(command, check=True, cwd=folder, stdout=sys.stderr, timeout=TIMEOUT_S)


if __name__ == "__main__":
    sys.exit(main())
