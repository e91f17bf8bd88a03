"""Where the kernel says that a model's memory is, on a machine of two NUMA nodes."""

from __future__ import annotations

import json
import os
import shlex
import sys
from pathlib import Path

import pytest

import two_nodes
from support import smollm2

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif("TEST_NUMA" not in os.environ, reason="needs root: make test-numa"),
]

TIMEOUT_S = 540


@pytest.mark.timeout(TIMEOUT_S + 30)
def test_memory_is_where_it_was_asked_for(tmp_path: Path) -> None:
    lacks = two_nodes.missing()
    assert not lacks, f"this machine lacks: {', '.join(lacks)} (see tests/numa/two_nodes.py)"
    program = Path(__file__).with_name("memory_places.py")
    command = shlex.join([sys.executable, "-B", str(program), str(smollm2().resolve())])
    out = two_nodes.run(f"HOME=/root {command} 2>&1", tmp_path, TIMEOUT_S)
    print(out[out.find("{") :])
    # the firmware leaves control characters before the first line
    found = [json.loads(line[line.index("{") :]) for line in out.splitlines() if "{" in line]
    assert found[0]["nodes"] == [0, 0, 1, 1]
    ways = {each["way"]: each for each in found[1:]}
    size = smollm2().stat().st_size
    assert len({str(each["row"]) for each in ways.values()}) == 1, "the same token"

    def share(way: str, kind: str) -> float:
        """Of node 0."""
        left, right = ways[way][kind]
        assert left + right > 0.8 * size
        return left / (left + right)

    assert share("as cached", "files") < 0.05
    assert share("moved", "files") > 0.95
    assert 0.45 < share("in turn", "files") < 0.55
    assert share("read on node 1", "memory") < 0.1
    assert 0.45 < share("read in turn", "memory") < 0.55
