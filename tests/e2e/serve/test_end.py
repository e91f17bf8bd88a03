"""How `pipeinfer serve` begins and ends."""

from __future__ import annotations

import http.client
import json
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

import serving
from serving import ANSWER_S, Server
from support import mpiexec, pipeinfer, run

pytestmark = pytest.mark.e2e


def test_what_cannot_be_served_is_said_at_once(folder, server):
    model = str(folder / "tiny.gguf")
    done = run(pipeinfer("serve", "-m", model, "--ranks", "1", "--port", str(server.port)))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "give another --port" in done.stderr


def test_a_key_a_full_queue_and_the_end_of_a_job(folder, options, tmp_path):
    key = tmp_path / "key"
    key.write_text("secret\n")
    more = ("--ranks", "1", "--parallel", "1", "--queue", "1", "--api-key-file", str(key))
    place = tmp_path / "place"
    more = (*more, "--drain", "30", "--alias", "a model", "--write-url", str(place))
    with Server(folder / "tiny.gguf", *options, *more) as server:
        known = server.headers = {"authorization": "Bearer secret"}
        fields = dict(line.split("=", 1) for line in place.read_text().splitlines())
        assert (fields["url"], fields["api_key"]) == (server.url, "secret")
        assert f"-L {server.port}:127.0.0.1:{server.port} " in fields["tunnel"]
        assert place.stat().st_mode & 0o777 == 0o600
        assert server.ask("/health")[0] == 200
        for headers in ({}, {"authorization": "Bearer wrong"}, {"x_api_key": "é"}):
            assert server.ask("/v1/models", **headers)[0] == 401
        assert server.ask("/v1/models", x_api_key="secret")[1]["data"][0]["id"] == "a model"
        bodies = [{"prompt": word, "max_tokens": 150, "ignore_eos": True} for word in "abc"]
        answers: list[tuple[int, dict]] = []

        def ask(body) -> None:
            answers.append(server.ask("/v1/completions", body, **known))

        first, second = (threading.Thread(target=ask, args=(body,)) for body in bodies[:2])
        first.start()
        server.await_metric("requests_active", 1)
        second.start()
        server.await_metric("requests_waiting", 1)
        connection = http.client.HTTPConnection(server.host, server.port, timeout=ANSWER_S)
        connection.request("POST", "/v1/completions", json.dumps(bodies[2]), known)
        refused = connection.getresponse()
        assert (refused.status, refused.getheader("retry-after")) == (429, "2")
        connection.close()
        server.process.send_signal(signal.SIGTERM)
        for each in (first, second):
            each.join(ANSWER_S)
        assert [status for status, _ in answers] == [200, 200]
        assert all(body["usage"]["completion_tokens"] == 150 for _, body in answers)
        assert server.process.wait(ANSWER_S) == 0
        assert not place.exists()


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_ranks_of_a_launcher_end_well_with_a_signal(folder, options, monkeypatch, signum):
    """What is being answered then is answered."""
    monkeypatch.setattr(serving, "pipeinfer", lambda *args: mpiexec(2, *args))
    with Server(folder / "tiny.gguf", *options) as server, ThreadPoolExecutor(1) as pool:
        body = {"prompt": "hello", "max_tokens": 300, "ignore_eos": True}
        asked = pool.submit(server.ask, "/v1/completions", body)
        server.await_metric("requests_active", 1)
        assert server.stop(signum) == 0, server.said
        status, answer = asked.result(ANSWER_S)
        assert (status, answer["usage"]["completion_tokens"]) == (200, 300)
