"""Pulls over HTTP and from the hub: resumed, refused, unreachable; the user's own catalogue."""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pipeinfer_cli.cli import main
from pipeinfer_cli.commands import start as job_start
from pipeinfer_cli.commands.generate_config import GenerateConfig, Prompt
from pipeinfer_cli.errors import PipeinferError, RunError, UserError
from pipeinfer_cli.models import cache, catalogue, download, download_hub, download_url, resolve
from pipeinfer_cli.scheduler.policy import DraftConfig

GGUF = b"GGUF" + bytes(range(256)) * 400
OTHER = GGUF[::-1]
SHA256 = hashlib.sha256(GGUF).hexdigest()
COMMIT = "a" * 40


@dataclass
class Server:
    """A file server that can break off, and remembers what it was asked for."""

    data: bytes = GGUF
    breaks_after: list[int] = field(default_factory=list)  # bytes sent, for each request in turn
    knows_ranges: bool = True
    status: int = 200
    error_code: str = ""  # as the hub tells why
    ranges: list[str] = field(default_factory=list)
    files: tuple[str, ...] = ()  # of the hub's repository
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


def handler(server: Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        # HTTP/1.0: a connection that was kept would be answered by the server of a test before, if
        # this one had been given its port

        def log_message(self, *_: object) -> None:
            pass

        def do_HEAD(self) -> None:
            if server.status == 200:
                self.answer(len(server.data), 0)
                return
            self.send_response(server.status)
            self.send_header("X-Error-Code", server.error_code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def do_GET(self) -> None:
            if self.path.startswith("/api/models/") and server.status == 200:
                self.send_list()
                return
            tag = self.headers.get("If-Range")
            asked = self.headers.get("Range", "") if tag in (None, self.tag) else ""
            server.ranges.append(asked)
            if server.status != 200:
                self.send_error(server.status)
                return
            start = int(match[1]) if (match := re.match(r"bytes=(\d+)-", asked)) else 0
            if not server.knows_ranges:
                start = 0
            if start >= len(server.data):
                self.send_error(416)
                return
            self.answer(len(server.data) - start, start)
            end = len(server.data)
            if server.breaks_after:
                end = min(end, start + server.breaks_after.pop(0))
                self.close_connection = True
            self.wfile.write(server.data[start:end])

        def send_list(self) -> None:
            entries = [
                {"type": "file", "path": file, "size": 1, "oid": "0" * 40} for file in server.files
            ]
            body = json.dumps(entries).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        @property
        def tag(self) -> str:
            return f'"{hashlib.sha256(server.data).hexdigest()}"'

        def answer(self, n_bytes: int, start: int) -> None:
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(n_bytes))
            self.send_header("ETag", self.tag)
            self.send_header("X-Repo-Commit", COMMIT)
            total = len(server.data)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
            self.end_headers()

    return Handler


@pytest.fixture
def server() -> Iterator[Server]:
    served = Server()
    with ThreadingHTTPServer(("127.0.0.1", 0), handler(served)) as http:
        served.port = http.server_address[1]
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield served
        http.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIPEINFER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(download_url, "PAUSE_S", 0)


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's models.toml."""
    path = tmp_path / "own.toml"
    monkeypatch.setenv("PIPEINFER_MODELS", str(path))
    return path


def describe(own: Path, source: str, more: str = f'sha256 = "{SHA256}"') -> None:
    own.write_text(
        '[models.tiny]\ndescription = "a test"\narchitecture = "llama"\nlayers = 2\n'
        f"{more}\nsource = {source}\n"
    )


def by_url(server: Server) -> str:
    return f'{{ type = "url", url = "{server.url}/tiny.gguf" }}'


def kept(tmp_path: Path) -> dict[str, int]:
    folder = tmp_path / "cache" / "models"
    return {p.name: p.stat().st_size for p in folder.glob("*") if not p.name.startswith(".lock")}


def test_a_file_from_an_address(server: Server, own: Path, tmp_path: Path) -> None:
    describe(own, by_url(server))
    path = resolve.resolve("tiny")
    assert path.read_bytes() == GGUF
    assert list(kept(tmp_path)) == [path.name] == [f"tiny-{SHA256[:12]}.gguf"]
    assert resolve.resolve("tiny") == path
    assert server.ranges == [""]  # once


def test_a_connection_that_breaks_goes_on(server: Server, own: Path) -> None:
    describe(own, by_url(server))
    server.breaks_after = [1000, 50_000]
    assert resolve.resolve("tiny").read_bytes() == GGUF
    assert server.ranges == ["", "bytes=1000-", "bytes=51000-"]


def test_a_later_pull_goes_on(server: Server, own: Path, tmp_path: Path) -> None:
    describe(own, by_url(server))
    server.breaks_after = [1000] + [0] * download_url.TRIES
    with pytest.raises(RunError, match=r"cannot pull tiny: .* the 1000 bytes received are kept"):
        resolve.resolve("tiny")
    assert f".part-tiny-{SHA256[:12]}.gguf" in kept(tmp_path)
    assert cache.cached_path(resolve.find("tiny")) is None
    server.ranges.clear()
    assert resolve.resolve("tiny").read_bytes() == GGUF
    assert server.ranges == ["bytes=1000-"]


def test_another_version_is_taken_from_its_beginning(server: Server, own: Path) -> None:
    describe(own, by_url(server))
    server.data, server.breaks_after = OTHER, [1000] + [0] * download_url.TRIES
    with pytest.raises(RunError):
        resolve.resolve("tiny")
    server.data, server.breaks_after = GGUF, []
    assert resolve.resolve("tiny").read_bytes() == GGUF


def test_a_server_without_ranges(server: Server, own: Path) -> None:
    describe(own, by_url(server))
    server.knows_ranges, server.breaks_after = False, [1000]
    assert resolve.resolve("tiny").read_bytes() == GGUF


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (f'sha256 = "{"0" * 64}"', "is not the one that models.toml names"),
        (f"size_bytes = {len(GGUF) + 1}", "the file has .* bytes, models.toml says"),
    ],
)
def test_a_wrong_file(server: Server, own: Path, tmp_path: Path, more: str, said: str) -> None:
    describe(own, by_url(server), more)
    with pytest.raises(RunError, match=said):
        resolve.resolve("tiny")
    assert not [name for name in kept(tmp_path) if name.endswith(".gguf")]


def test_without_a_hash_it_is_unverified(
    server: Server, own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    describe(own, by_url(server), "")
    path = resolve.resolve("tiny")
    assert path.name == "tiny-unverified.gguf"
    assert "tiny: unverified: models.toml has no SHA-256" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("status", "said"), [(404, "404 .* check the address"), (403, "permission")]
)
def test_a_server_that_refuses(server: Server, own: Path, status: int, said: str) -> None:
    describe(own, by_url(server))
    server.status = status
    with pytest.raises(RunError, match=said):
        resolve.resolve("tiny")
    assert len(server.ranges) == 1


def test_nobody_there(own: Path) -> None:
    describe(own, by_url(Server(port=9)))
    with pytest.raises(RunError, match=r"cannot be reached.*refused"):
        resolve.resolve("tiny")


BY_HUB = '{ type = "hub", repository = "someone/tiny-GGUF", files = ["t.gguf"], revision = "main" }'


@pytest.fixture
def hub(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    """The hub's client reads its environment when it is imported: its constants are set instead."""
    from huggingface_hub import constants

    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(
        constants,
        "HUGGINGFACE_CO_URL_TEMPLATE",
        server.url + "/{repo_id}/resolve/{revision}/{filename}",
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return server


def test_a_file_from_the_hub(hub: Server, own: Path) -> None:
    describe(own, BY_HUB)
    assert cache.cached_path(resolve.find("tiny")) is None
    path = resolve.resolve("tiny")
    assert path.read_bytes() == GGUF
    assert COMMIT in str(path)
    assert cache.cached_path(resolve.find("tiny")) == path
    count = len(hub.ranges)
    assert resolve.resolve("tiny") == path
    assert len(hub.ranges) == count


def test_a_wrong_file_from_the_hub(hub: Server, own: Path) -> None:
    describe(own, BY_HUB, f'sha256 = "{"0" * 64}"')
    with pytest.raises(RunError, match="tiny as downloaded is not the one"):
        resolve.resolve("tiny")


TWO_FILES = """{{ type = "hub", repository = "someone/tiny-GGUF", revision = "main",
    files = ["t-00001-of-00002.gguf", "t-00002-of-00002.gguf"], sha256 = ["{}", "{}"] }}"""


def test_several_files_from_the_hub_have_a_hash_each(
    hub: Server, own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    right, wrong = hashlib.sha256(GGUF).hexdigest(), "0" * 64
    describe(own, " ".join(TWO_FILES.format(right, wrong).split()), "")
    with pytest.raises(RunError, match="tiny as downloaded is not the one"):
        download.pull(resolve.find("tiny"))
    describe(own, " ".join(TWO_FILES.format(right, right).split()), "")
    assert resolve.find("tiny").file_hashes == (right, right)
    assert resolve.resolve("tiny").name == "t-00001-of-00002.gguf"
    assert "unverified" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("status", "error_code", "said"),
    [
        (404, "EntryNotFound", r"has no t.gguf at main .* correct the entry"),
        (404, "RevisionNotFound", r"has no t.gguf at main"),
        (404, "RepoNotFound", r"requires a permission: ask for access"),
        (403, "GatedRepo", r"set HF_TOKEN or run hf auth login"),
    ],
)
def test_the_hub_refuses(hub: Server, own: Path, status: int, error_code: str, said: str) -> None:
    describe(own, BY_HUB)
    hub.status, hub.error_code = status, error_code
    with pytest.raises(PipeinferError, match=rf"cannot pull tiny: .*{said}"):
        resolve.resolve("tiny")


def test_the_hub_cannot_be_reached(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    describe(own, BY_HUB)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(RunError, match=r"127.0.0.1:9 cannot be reached.*refused"):
        resolve.resolve("tiny")


def test_without_the_hub_client(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    describe(own, BY_HUB)
    monkeypatch.setattr(download_hub, "is_installed", lambda: False)
    with pytest.raises(UserError, match=r"pip install 'pipeinfer\[hub\]'"):
        resolve.resolve("tiny")


REPO = "someone/tiny-GGUF"
REPO_FILES = (
    "README.md",
    "mmproj-F16.gguf",
    "tiny-Q4_0.gguf",
    "tiny-Q4_K_M.gguf",
    "tiny-Q8_0-00001-of-00002.gguf",
    "tiny-Q8_0-00002-of-00002.gguf",
    "tiny-f16.gguf",
)


def test_a_repository_of_the_hub_is_named_with_a_quantization(hub: Server) -> None:
    hub.files = REPO_FILES
    path = resolve.resolve(f"hf:{REPO}")
    assert (path.name, path.read_bytes()) == ("tiny-Q4_K_M.gguf", GGUF)
    assert resolve.resolve(f"hf:{REPO}:f16").name == "tiny-f16.gguf"
    hub.files = ()  # from the cache, without asking
    assert resolve.resolve(f"hf:{REPO}") == path
    assert resolve.resolve(f"hf:{REPO}:q4_k_m") == path
    assert resolve.resolve(f"hf:{REPO}/tiny-Q4_K_M.gguf") == path


def test_all_parts_of_a_gguf_come_from_the_hub(hub: Server) -> None:
    hub.files = REPO_FILES
    path = resolve.resolve(f"hf:{REPO}:Q8_0")
    assert sorted(each.name for each in path.parent.iterdir()) == list(REPO_FILES[4:6])
    assert path.name == REPO_FILES[4]
    (path.parent / REPO_FILES[5]).unlink()  # as after an interrupted pull
    assert resolve.resolve(f"hf:{REPO}:Q8_0") == path
    assert (path.parent / REPO_FILES[5]).exists()


@pytest.mark.parametrize(
    ("name", "files", "said"),
    [
        (REPO, (), f"{REPO} has no GGUF file: it has none"),
        (f"{REPO}:Q2_K", REPO_FILES, "no GGUF Q2_K: it has Q4_0, Q4_K_M, Q8_0, f16"),
        (f"{REPO}:Q4_K", REPO_FILES, "no GGUF Q4_K: it has"),
        (f"{REPO}:Q8_0", REPO_FILES[:5], "lacks its part tiny-Q8_0-00002-of-00002.gguf"),
        (f"{REPO}/no.gguf", REPO_FILES, "no GGUF no.gguf: it has"),
        ("someone", (), "give hf:USER/REPO"),
        ("a/../b", (), "give hf:USER/REPO"),
        ("a/b/c", (), "give hf:USER/REPO"),
    ],
)
def test_what_a_repository_does_not_have(
    hub: Server, name: str, files: tuple[str, ...], said: str
) -> None:
    hub.files = files
    with pytest.raises(UserError, match=re.escape(said)):
        resolve.resolve(f"hf:{name}")


def test_a_repository_without_the_usual_quantization_has_another(hub: Server) -> None:
    hub.files = ("b-Q8_0.gguf", "a-Q8_0.gguf")
    assert resolve.resolve(f"hf:{REPO}").name == "a-Q8_0.gguf"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("https://huggingface.co/a/b/resolve/main/c.gguf?download=true", "give hf:a/b/c.gguf"),
        ("https://huggingface.co/a/b", "give hf:a/b instead"),
        ("https://example.org/m.gguf", "fetch the file and give its path, or name it in"),
        ("SmolLM2", "(did you mean smollm2?)"),
        ("smollm-2", "(did you mean smollm2?)"),
    ],
)
def test_a_name_that_is_not_one_says_what_to_do(name: str, said: str) -> None:
    with pytest.raises(UserError, match=re.escape(said)):
        resolve.resolve(name)


def test_a_misspelt_path_has_a_neighbour(tmp_path: Path) -> None:
    (tmp_path / "tiny-Q4_0.gguf").touch()
    with pytest.raises(UserError, match=r"\(did you mean .*/tiny-Q4_0.gguf\?\): check -m"):
        resolve.resolve(str(tmp_path / "tiny-Q4-0.gguf"))


def test_a_path(own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHERE", str(tmp_path))
    describe(own, '{ type = "path", path = "$WHERE/there.gguf" }')
    with pytest.raises(UserError, match=r"tiny should be at .*there.gguf.*, and is not"):
        resolve.resolve("tiny")
    (tmp_path / "there.gguf").write_bytes(GGUF)
    assert resolve.resolve("tiny") == tmp_path / "there.gguf"


def test_a_model_without_a_source() -> None:
    with pytest.raises(UserError, match="no source is known for falcon-180b: give"):
        download.pull(resolve.find("falcon-180b"))


SIBLINGS = {  # architectures of one family, whose models have the same vocabulary
    "qwen3moe": "qwen3",
    "qwen3next": "qwen3",
    "qwen35moe": "qwen35",
    "ernie4_5-moe": "ernie4_5",
}


def test_what_we_ship_is_sound() -> None:
    known = resolve.catalogue()
    for pair in known.pairs:
        target, draft = known.models[pair.target], known.models[pair.draft]
        family = SIBLINGS.get(target.architecture, target.architecture)
        assert family == draft.architecture, pair
        assert pair.draft_config
    for name, draft in (
        ("dolphin-70b", "tinyllama-1b"),
        ("goliath-120b", "xwin-7b"),
        ("falcon-180b", "falcon-7b"),
        ("llama3-70b", "llama3-1b"),
    ):
        pair = known.default_pair(name)
        assert pair is not None and pair.draft == draft


def test_the_users_entries_go_before(own: Path) -> None:
    own.write_text(
        '[models.xwin-7b]\ndescription = "mine"\narchitecture = "llama"\nlayers = 32\n'
        'source = { type = "path", path = "/nowhere.gguf" }\n'
        '[[pairs]]\ntarget = "goliath-120b"\ndraft = "xwin-13b"\np_min = 0.7\nn_max = 3\n'
    )
    known = resolve.catalogue()
    assert known.models["xwin-7b"].description == "mine"
    assert "smollm2" in known.models
    pair = known.default_pair("goliath-120b")
    assert pair is not None
    assert (pair.draft, pair.settings) == ("xwin-13b", "-pa 0.7 --draft-max 3")


def config(**changes: object) -> GenerateConfig:
    values = {"model": "goliath-120b", "prompt": Prompt(text="x"), "drafter": "model", **changes}
    return GenerateConfig(**values)  # type: ignore[arg-type]


def parsed(command: str, monkeypatch: pytest.MonkeyPatch) -> GenerateConfig:
    """What the command line makes of it."""
    seen: list[GenerateConfig] = []
    monkeypatch.setattr(job_start, "generate", lambda config: seen.append(config) or 0)
    assert main.main(command.split()) == 0
    return seen[0]


def test_the_default_draft(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own.write_text(
        '[[pairs]]\ntarget = "goliath-120b"\ndraft = "xwin-13b"\np_min = 0.7\nn_max = 3\n'
    )
    filled = job_start.with_default_draft(config(draft_model="auto"))
    assert (filled.draft_model, filled.draft) == ("xwin-13b", DraftConfig(p_min=0.7, n_max=3))
    for options, expected in (
        ("-pa 0.1", DraftConfig(p_min=0.1, n_max=3)),
        ("--draft-max 8", DraftConfig(p_min=0.7, n_max=8)),  # the default is given, too
        ("-pa 0.1 -pd 0.3 --draft-width 2", DraftConfig(p_min=0.1, n_max=3, p_decay=0.3, width=2)),
        (
            "-pr 0.2 --draft-min 1 --draft-p-split 0.2",
            DraftConfig(p_min=0.7, n_max=3, n_min=1, p_recovery=0.2, p_split=0.2),
        ),
    ):
        for command in ("generate", "chat"):
            asked = parsed(f"{command} -m goliath-120b -md auto {options}", monkeypatch)
            assert job_start.with_default_draft(asked).draft == expected
    own.write_text('[[pairs]]\ntarget = "goliath-120b"\ndraft = "xwin-13b"\n')
    for options, is_auto in (("", True), ("-pa 0.4", False), ("--draft-max auto", False)):
        asked = parsed(f"generate -m goliath-120b -md auto {options}", monkeypatch)
        assert job_start.with_default_draft(asked).draft.is_auto is is_auto
    own.write_text('[[pairs]]\ntarget = "goliath-120b"\ndraft = "xwin-13b"\nn_max = 3\n')
    with pytest.raises(UserError, match=r"--draft-min 5: give a number .* --draft-max \(3"):
        job_start.with_default_draft(
            parsed("generate -m goliath-120b -md auto --draft-min 5", monkeypatch)
        )
    plain = config(draft_model="d.gguf")
    assert job_start.with_default_draft(plain) is plain
    with pytest.raises(UserError, match="no draft is known for 'xwin-7b'"):
        job_start.with_default_draft(config(model="xwin-7b", draft_model="auto"))


def entry(line: str) -> str:
    """An entry that is right but for this line."""
    key, value = line.split(" = ", 1)
    lines = {"description": '"d"', "architecture": '"llama"', "layers": "2", key: value}
    return "[models.x]\n" + "".join(f"{key} = {value}\n" for key, value in lines.items())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[models", "cannot be used"),
        ("[models.X]", "is not a model name"),
        ('[models.x]\ndescription = "a"', "cannot be used"),
        (entry('size_bytes = "98 MB"'), "size_bytes '98 MB' is not a whole number"),
        (entry("size_bytes = 9.5"), "size_bytes 9.5 is not a whole number"),
        (entry("layers = true"), "layers True is not a whole number"),
        (entry("description = 5"), "description 5 is not a string"),
        (entry('source = { type = "path", path = 5 }'), "path 5 is not a string"),
        (entry('source = { type = "url", url = [] }'), "url \\[\\] is not a string"),
        (
            entry('source = { type = "hub", repository = "a/b", files = "c", revision = "1" }'),
            "files 'c' is not a list",
        ),
        pytest.param(f"a = {'[' * 100_000}", "nested too deeply", id="deep"),
        (
            '[[pairs]]\ntarget = "smollm2"\ndraft = "smollm2"\np_min = "x"',
            "p_min 'x' is not a number",
        ),
        (
            f'[[pairs]]\ntarget = "smollm2"\ndraft = "smollm2"\np_min = 1{"0" * 400}',
            "cannot be used",
        ),
        (
            '[[pairs]]\ntarget = "smollm2"\ndraft = "smollm2"\nn_max = 2.5',
            "n_max 2.5 is not a whole",
        ),
        ('[[pairs]]\ntarget = "smollm2"\ndraft = "nobody"', "a pair with 'nobody'"),
        ('[[pairs]]\ntarget = "smollm2"\ndraft = "smollm2"\np_min = 7', "own.toml: .* 7: give a"),
    ],
)
def test_a_file_of_the_user_that_is_wrong(own: Path, text: str, said: str) -> None:
    own.write_text(text)
    with pytest.raises(UserError, match=said):
        resolve.catalogue()


HASHED = '{{ type = "hub", repository = "a/b", files = ["{}"], revision = "m", sha256 = [{}] }}'


@pytest.mark.parametrize(
    "source",
    [
        '{ type = "ftp", url = "x" }',
        '{ type = "url", url = "ftp://x" }',
        '{ type = "hub", repository = "a/b", files = [], revision = "main" }',
        '{ type = "hub", repository = "a/b", files = ["c"], revision = "main", sha256 = ["d"] }',
        HASHED.format("c", ", ".join([f'"{"0" * 64}"'] * 2)),
        '{ type = "path" }',
        '{ type = "wheel", package = "a", version = "1", member = "m" }',
    ],
)
def test_a_source_that_is_wrong(own: Path, source: str) -> None:
    describe(own, source, "")
    with pytest.raises(UserError, match="cannot be used"):
        resolve.catalogue()


@pytest.mark.parametrize(
    ("env", "path"),
    [
        ({"PIPEINFER_MODELS": "/m.toml", "XDG_CONFIG_HOME": "/x"}, "/m.toml"),
        ({"XDG_CONFIG_HOME": "/x"}, "/x/pipeinfer/models.toml"),
        ({}, "~/.config/pipeinfer/models.toml"),
    ],
)
def test_the_users_file(env: dict[str, str], path: str) -> None:
    assert catalogue.user_file(env) == Path(path).expanduser()
    assert os.environ["PIPEINFER_MODELS"] == os.devnull  # of the tests
