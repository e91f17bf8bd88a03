"""Names stay in the cache; the private folder is private."""

import os
import stat
import tempfile

import pytest

from pipeinfer_cli.cli import main
from pipeinfer_cli.errors import UserError
from pipeinfer_cli.launch import local
from pipeinfer_cli.launch.environment import Launcher
from pipeinfer_cli.models import catalogue, resolve

ESCAPES = [
    "../../x",
    "..",
    "/etc/passwd",
    "a/b",
    "a\\..\\b",
    ".hidden",
    "a..b",
    "",
    "A",
    "a b",
    "a\n",
    "a\x00b",
    "\x1b[2J",
]


@pytest.mark.parametrize("name", ESCAPES)
def test_names_stay_in_the_cache(name):
    with pytest.raises(UserError, match="not a model name"):
        resolve.find(name)


@pytest.mark.parametrize("name", ESCAPES)
def test_names_of_a_users_own_file_stay_in_the_cache(name, tmp_path):
    quoted = name.encode("unicode_escape").decode().replace("\\x", "\\u00").replace('"', '\\"')
    own = tmp_path / "models.toml"
    own.write_text(
        f'[models."{quoted}"]\ndescription = "d"\narchitecture = "llama"\nlayers = 1\n'
        'source = { type = "url", url = "https://nobody.invalid/x.gguf" }\n'
    )
    with pytest.raises(UserError) as caught:
        catalogue.load(catalogue.shipped_file(), own)
    assert str(own) in str(caught.value)


def test_all_known_models_are_cached_in_the_cache():
    for model in resolve.catalogue().models.values():
        assert model.cache_path.parent == catalogue.models_dir()


@pytest.mark.parametrize("file", ["../x.gguf", "a/../../x.gguf", "/x.gguf", "x\x1b.gguf"])
def test_names_on_the_hub_stay_in_its_cache(file):
    for repository, files in (("o/r", (file,)), (file, ("x.gguf",))):
        with pytest.raises(ValueError, match="not a file name on the hub"):
            catalogue.HubSource(repository=repository, files=files, revision="main")


@pytest.mark.parametrize("name", ["../../x", "/etc/passwd"])
def test_pull_refuses_a_path(name, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("PIPEINFER_CACHE", str(tmp_path))
    assert main.main(["models", "pull", name]) == 2
    assert "not a model name" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_private_folder_is_private(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    seen = []

    def look(job, place, signals, forwarders):
        seen.append(stat.S_IMODE(place.stat().st_mode))
        return 0

    monkeypatch.setattr(local, "_run", look)
    before = os.umask(0)  # the laxest one
    try:
        job = local.Job(launcher=Launcher(mpiexec="none", family="mpich"), ranks=1, program=[])
        assert local.spawn(job) == 0
    finally:
        os.umask(before)
    assert seen == [0o700]
    assert list(tmp_path.iterdir()) == []
