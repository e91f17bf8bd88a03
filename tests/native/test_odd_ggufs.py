"""A corpus of odd GGUFs: each is loaded, or refused in one line; none ends or stops the process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import take_ggufs
from odd_ggufs import corpus

pytestmark = pytest.mark.native

PROGRAM = Path(take_ggufs.__file__)
NAMES = list(corpus())
N_SHARES = 4
AT_LEAST = 500


def test_the_corpus_is_large():
    assert len(NAMES) >= AT_LEAST


@pytest.mark.timeout(600)
@pytest.mark.parametrize("share", range(N_SHARES))
def test_odd_ggufs(share, tmp_path):
    names = NAMES[share::N_SHARES]
    done = subprocess.run(
        [sys.executable, str(PROGRAM), *names],
        capture_output=True,
        text=True,
        timeout=550,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    outcomes = [json.loads(line) for line in done.stdout.splitlines()]
    assert {each["name"] for each in outcomes} == set(names)
    assert [each for each in outcomes if each["fault"]] == []
    assert {each["code"] for each in outcomes} == {0, 2}
