"""The installed command with shards and with models in several files: the same text."""

import subprocess
from functools import cache

import pytest

from small_models import in_parts
from support import PROMPTS, check_output, mpiexec, pipeinfer, smollm2

pytestmark = pytest.mark.e2e

N_STAGES = 3
ARGS = ("-n", "32", "-c", "256", "-t", "1", PROMPTS[0])


@cache
def whole_text():
    return check_output(pipeinfer("generate", "-m", str(smollm2()), "--ranks", "1", *ARGS))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("shards")
    said = check_output(pipeinfer("shard", "smollm2", "--stages", str(N_STAGES), "-o", str(out)))
    assert sorted(map(str, out.iterdir())) == said.splitlines()
    return out


@pytest.fixture
def nodes(folder, tmp_path):
    """Each rank's own disk, with its shard only: a path with {rank}."""
    for rank, shard in enumerate(sorted(folder.iterdir())):
        (tmp_path / f"node{rank}").mkdir()
        (tmp_path / f"node{rank}" / shard.name).symlink_to(shard)
    return tmp_path / "node{rank}"


def test_a_folder_says_how_many_ranks(folder):
    assert check_output(pipeinfer("generate", "-m", str(folder), *ARGS)) == whole_text()


def test_under_a_launcher_from_the_nodes_own_disks(nodes):
    # a folder, or a file with {stage} in its name
    for name in (nodes, nodes / f"{smollm2().stem}-stage-{{stage}}-of-3.gguf"):
        assert check_output(mpiexec(N_STAGES, "generate", "-m", str(name), *ARGS)) == whole_text()


def test_a_head_without_layers_and_a_draft_model(folder):
    args = ("-md", str(smollm2()), "--strategy", "pipeinfer", "--ranks", str(N_STAGES + 1))
    assert check_output(pipeinfer("generate", "-m", str(folder), *args, *ARGS)) == whole_text()


def refused(*args):
    done = subprocess.run(args, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    return line


def test_a_missing_shard_names_the_rank(nodes):
    shard = next((nodes.parent / "node2").iterdir())
    shard.unlink()
    line = refused(*pipeinfer("generate", "-m", str(nodes), *ARGS))
    assert "rank 2 on " in line
    assert "is a folder without shards" in line or "stage 2 is missing" in line


def test_a_wrong_number_of_ranks(folder):
    line = refused(*pipeinfer("generate", "-m", str(folder), "--ranks", "2", *ARGS))
    assert "is split into 3 shards" in line


def test_a_model_in_several_files(tmp_path):
    parts = in_parts(smollm2(), tmp_path / "parts", 3)
    command = pipeinfer("generate", "-m", str(parts[0]), "--ranks", "2", *ARGS)
    assert check_output(command) == whole_text()
    parts[2].unlink()
    assert "part 3 of 3" in refused(*command)
