"""A draft model that cannot be loaded: said once, and a bad file is told from a lack of memory."""

import subprocess
import sys

import pytest

import raw_gguf
from pipeinfer_cli.drafters.model import ModelDrafter
from pipeinfer_cli.errors import UserError

pytestmark = pytest.mark.native

TIMEOUT_S = 60
# Loads a draft model in an address space that has room for the model, not for its KV cache.
LOAD = """
import resource, sys
from pathlib import Path
from pipeinfer_cli.drafters.model import ModelDrafter
from pipeinfer_cli.errors import PipeinferError

ModelDrafter(Path(sys.argv[1]), n_ctx=256).close()
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 28), -1))
try:
    ModelDrafter(Path(sys.argv[1]), n_ctx=1 << 24)
except PipeinferError as error:
    print(type(error).__name__, error)
"""


def test_a_file_that_is_missing_is_the_users_whatever_its_name(tmp_path):
    path = tmp_path / "allocations" / "alloc.gguf"
    with pytest.raises(UserError, match="No such file") as raised:
        ModelDrafter(path, n_ctx=256)
    assert str(raised.value).count("cannot load the draft model") == 1


def test_a_lack_of_memory_is_not_the_files_fault(tmp_path):
    path = raw_gguf.model(raw_gguf.bpe_vocab()).write(tmp_path / "tiny.gguf")
    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(path)],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        cwd=tmp_path,  # the installed package, not the source folder
    )
    assert done.stdout.startswith(f"RunError cannot load the draft model {str(path)!r}: "), done
    assert done.stdout.count("cannot load") == 1
