"""What libpipeinfer is told of the MPI: the values of its header, though nothing was compiled."""

from __future__ import annotations

import ctypes
import re
from pathlib import Path

import pytest

from pipeinfer_cli.launch.host import mpi_choice
from support import run_ranks

pytestmark = pytest.mark.mpi

C_TYPES = {"int": 4, "size_t": 8}


def header() -> str:
    """The mpi.h of the MPI that is used; where there is none, the test is skipped."""
    chosen = mpi_choice.choose()
    for prefix in Path(chosen.path).parents[1:4]:
        for folder in ("include", f"include/{chosen.family}", f"lib/*/{chosen.family}/include"):
            for path in sorted(prefix.glob(f"{folder}/mpi.h")):
                if {"mpich": "MPICH_VERSION", "openmpi": "OMPI_"}[chosen.abi] in path.read_text():
                    return path.read_text()
    pytest.skip(f"{chosen} has no mpi.h here")


def defined(text: str, name: str) -> int:
    found = re.search(rf"#define {name}\s+\(?(?:\(\w+\))?\s*(-?\w+)\)?", text)
    assert found, name
    return int(found[1], 0)


def status_bytes(text: str) -> int:
    found = re.search(r"struct \w*(?:MPI_Status|ompi_status_public_t)\s*\{(.*?)\}", text, re.DOTALL)
    assert found
    body = re.sub(r"/\*.*?\*/", "", found[1], flags=re.DOTALL)
    fields = re.findall(r"(\w+) \w+;", body)
    size = sum(C_TYPES[each] for each in fields)
    return -(-size // max(C_TYPES[each] for each in fields)) * max(C_TYPES[each] for each in fields)


def test_values_are_those_of_the_header() -> None:
    text = header()
    told = run_ranks(1, "mpi_values.py", {})
    assert told["any_source"] == defined(text, "MPI_ANY_SOURCE")
    assert told["status_bytes"] == status_bytes(text)
    if told["abi"] == "mpich":
        assert re.search(r"typedef int MPI_Comm;", text)
        assert told["handle_bytes"] == 4
        assert told["byte_type"] == defined(text, "MPI_BYTE")
        assert told["null_request"] == defined(text, "MPI_REQUEST_NULL")
    else:
        assert re.search(r"typedef struct ompi_communicator_t \*MPI_Comm;", text)
        assert told["handle_bytes"] == ctypes.sizeof(ctypes.c_void_p)
        # addresses of objects in the library: as far apart as here
        library = ctypes.CDLL(told["library"])
        here = [
            ctypes.addressof(ctypes.c_byte.in_dll(library, name))
            for name in ("ompi_mpi_byte", "ompi_request_null")
        ]
        assert told["byte_type"] - told["null_request"] == here[0] - here[1]
