"""llama.cpp's own bindings, by llama-cpp-python, and its log."""

from __future__ import annotations

import ctypes
import os
import re
import sys
from functools import cache
from importlib.util import find_spec, module_from_spec
from typing import Any

from pipeinfer_cli.engine import abi
from pipeinfer_cli.engine.abi import decoded

WARNINGS_BYTES = 1 << 16
FUNCTION = re.compile(r"^\w+:( |$)")  # that begins a line of its log


def capture_log(*, verbose: bool = False) -> None:
    """Takes over llama.cpp's log (silence, or its warnings and errors on stderr) and assertions."""
    abi.load().pi_log_capture(verbose)


def log_to_file(fd: int, name: str) -> None:
    """Has llama.cpp's warnings and errors appended to an open file, in lines by `name`."""
    abi.load().pi_log_file(fd, name.encode())


def take_warnings() -> list[str]:
    """What llama.cpp has warned of since the last call, without the names of its functions."""
    data = ctypes.create_string_buffer(WARNINGS_BYTES)
    abi.load().pi_log_warnings(data, WARNINGS_BYTES)
    lines = (FUNCTION.sub("", decoded(line)) for line in data.value.split(b"\n"))
    return list(filter(None, lines))


@cache
def bindings() -> Any:
    """llama_cpp's low-level module, bound to our libllama.

    The package around it is not run: it would import numpy, Jinja2 and more, which take a tenth of
    a second, and take over llama.cpp's log.
    """
    os.environ["LLAMA_CPP_LIB_PATH"] = str(abi.lib_dir())
    spec = find_spec("llama_cpp")
    if spec is None or "llama_cpp" in sys.modules:
        import llama_cpp.llama_cpp as llama

        return llama
    sys.modules["llama_cpp"] = module_from_spec(spec)
    try:
        import llama_cpp.llama_cpp as llama
    finally:
        del sys.modules["llama_cpp"]
    return llama
