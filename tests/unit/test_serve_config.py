"""What `pipeinfer serve` can be asked for, who may ask it, and the file that says where it is."""

from __future__ import annotations

import pytest
from starlette.datastructures import Headers

from pipeinfer_cli.commands.serve.address import address, written
from pipeinfer_cli.commands.serve.config import ServerOptions, read_api_key
from pipeinfer_cli.commands.serve.http.guard import given_key, is_this_machine
from pipeinfer_cli.commands.serve.http.server import listen
from pipeinfer_cli.errors import UserError


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"port": 65536}, "--port 65536"),
        ({"parallel": 65}, "--parallel 65"),
        ({"queue": 0}, "--queue 0"),
        ({"drain_s": -1.0}, "--drain -1"),
        ({"time_limit_s": float("inf")}, "--time-limit inf"),
        ({"host": ""}, "--host is empty"),
        ({"alias": "a\nb"}, "--alias"),
        ({"write_url": "/nowhere/file"}, "no such folder"),
    ],
)
def test_options_that_are_invalid(changes, said):
    with pytest.raises(UserError, match=said):
        ServerOptions(**changes)


def test_an_address_of_another_machine():
    with pytest.raises(UserError, match=r"cannot listen on 203\.0\.113\.1 port 0"):
        listen("203.0.113.1", 0)


def test_the_key_comes_from_a_file_or_the_environment(tmp_path):
    file = tmp_path / "key"
    file.write_text("abc\n")
    assert read_api_key(file, {"PIPEINFER_API_KEY": "other"}) == "abc"
    assert read_api_key(None, {"PIPEINFER_API_KEY": "other"}) == "other"
    assert read_api_key(None, {"PIPEINFER_API_KEY": ""}) is None
    for text in ("", "a b", "é"):
        file.write_text(text)
        with pytest.raises(UserError, match="printable ASCII"):
            read_api_key(file, {})
    with pytest.raises(UserError, match="name a file"):
        read_api_key(tmp_path, {})


@pytest.mark.parametrize(
    ("headers", "key"),
    [
        ({"authorization": "Bearer abc"}, b"abc"),
        ({"authorization": "bearer abc"}, b"abc"),
        ({"x-api-key": "abc"}, b"abc"),
        ({"authorization": "Basic abc"}, b""),
        ({}, b""),
    ],
)
def test_the_key_of_a_request(headers, key):
    assert given_key(Headers(headers)) == key


@pytest.mark.parametrize("host", ["localhost:80", "127.0.0.1", "127.8.0.1:1", "[::1]:8080"])
def test_names_of_this_machine(host):
    assert is_this_machine(host)


@pytest.mark.parametrize("host", ["", "evil.example:80", "10.0.0.1", "[::1", "localhost.evil"])
def test_other_names(host):
    assert not is_this_machine(host)


def test_the_way_to_a_node():
    job = {"SLURMD_NODENAME": "n7"}
    found = address(ServerOptions(host="0.0.0.0", api_key="k"), 80, job)
    assert (found["base_url"], found["api_key"]) == ("http://n7:80/v1", "k")
    assert found["tunnel"] == "ssh -N -L 80:n7:80 LOGIN_NODE"
    found = address(ServerOptions(), 80, job)
    assert found["tunnel"] == "ssh -N -J LOGIN_NODE -L 80:127.0.0.1:80 n7"
    assert "api_key" not in found


def test_another_jobs_file_stays(tmp_path):
    path = tmp_path / "url"
    with written(str(path), {"url": "http://a b"}):
        assert path.read_text() == "url='http://a b'\n"
        assert [each.name for each in tmp_path.iterdir()] == ["url"]
    assert not path.exists()
    with written(str(path), {"url": "a"}):
        path.write_text("url=b\n")
    assert path.read_text() == "url=b\n"
