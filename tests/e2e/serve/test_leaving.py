"""Clients that leave `pipeinfer serve`, one after the other or in a storm."""

from __future__ import annotations

import http.client
import json
import random
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from pipeinfer_cli.scheduler.policy import N_BATCH
from serving import ANSWER_S, Server
from serving_requests import COMMON, ENDLESS, LONG_S, N_CTX, N_PARALLEL, asked, generated
from support import smollm2

pytestmark = pytest.mark.e2e

N_CLIENTS = 32


@pytest.mark.parametrize("is_stream", [True, False])
def test_clients_that_leave_free_the_stages(server, is_stream):
    cancelled = server.metric("requests_total", end="cancelled")
    opened = []
    for index in range(N_PARALLEL + 1):
        connection = http.client.HTTPConnection(server.host, server.port, timeout=ANSWER_S)
        body = {**ENDLESS, "stream": is_stream, "prompt": f"{index} {COMMON}"}
        connection.request("POST", "/v1/completions", json.dumps(body))
        opened.append(connection)
    server.await_metric("requests_active", N_PARALLEL)
    server.await_metric("requests_waiting", 1)
    for connection in opened:
        connection.close()
    server.await_metric("requests_waiting", 0)
    server.await_metric("requests_active", 0)
    n_cancelled = server.metric("requests_total", end="cancelled") - cancelled
    # the one that has waited may have begun when another one left
    assert n_cancelled in (N_PARALLEL, N_PARALLEL + 1)
    assert server.metric("kv_sequences") == server.metric("cached_texts")
    assert server.text(prompt="hello", max_tokens=3)


def test_a_client_that_leaves_in_the_middle_of_a_prompt_frees_all_stages():
    """Runs of its prompt that are in flight are cancelled, and the others are never made."""
    prompt = " ".join(str(index * 7919 % 1000) for index in range(900))
    with Server(smollm2(), "-c", str(N_CTX), "-t", "1", "--ranks", "2") as server:
        n_tokens = len(server.ask("/tokenize", {"content": prompt})[1]["tokens"])
        connection = http.client.HTTPConnection(server.host, server.port, timeout=ANSWER_S)
        connection.request("POST", "/v1/completions", json.dumps({"prompt": prompt}))
        server.await_live(lambda state: state["in_flight"]["prompt"] > 1)
        connection.close()
        server.await_metric("cancel_seconds_count", 1)
        n_completed = server.metric("runs_total", end="completed")
        n_cancelled = server.metric("runs_total", end="cancelled")
        assert n_cancelled >= 1
        assert n_completed + n_cancelled < n_tokens / N_BATCH
        assert server.text(prompt="Hello", max_tokens=1)
        assert server.metric("runs_total", end="cancelled") == n_cancelled


def storm(server, seed: int, truths: dict[str, str], n_requests: int) -> None:
    """Clients that ask, and leave now and then, also in the middle of an answer."""
    draw = random.Random(seed)
    for _ in range(n_requests):
        body = json.loads(draw.choice(list(truths)))
        if draw.random() < 0.6:
            assert server.text(**body) == truths[json.dumps(body)], body
            continue
        connection = http.client.HTTPConnection(server.host, server.port, timeout=ANSWER_S)
        connection.request("POST", "/v1/completions", json.dumps({**body, "stream": True}))
        for _ in range(draw.randint(0, 3)):
            connection.sock.recv(draw.choice([1, 100, 1000]))
        connection.close()


def test_a_storm_leaves_nothing_behind(server, folder, options):
    made = asked(12)
    truths = {
        json.dumps(body): choice["text"]
        for body, choice in zip(made, generated(folder, options, made), strict=True)
    }
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda seed: storm(server, seed, truths, 4), range(8)))
    server.await_metric("requests_active", 0)
    server.await_metric("requests_waiting", 0)
    assert server.metric("kv_sequences") == server.metric("cached_texts") > 0
    assert server.metric("cached_tokens") <= N_CTX


@pytest.mark.skipif(not LONG_S, reason="make test-serve")
@pytest.mark.timeout(LONG_S + 300)
def test_a_long_storm_leaves_nothing_behind_and_memory_is_flat(folder, options):
    made = asked(60)
    truths = {
        json.dumps(body): choice["text"]
        for body, choice in zip(made, generated(folder, options, made), strict=True)
    }
    with Server(
        folder / "tiny.gguf", *options, "--ranks", "1", "--parallel", "8", "--queue", "64"
    ) as server:
        seeds = iter(range(10**9))
        sizes = []
        for part_s in (LONG_S / 3, LONG_S / 3, LONG_S / 3):
            until_s = time.monotonic() + part_s

            def client(_: int, until_s: float = until_s) -> None:
                while time.monotonic() < until_s:
                    storm(server, next(seeds), truths, 4)

            with ThreadPoolExecutor(N_CLIENTS) as pool:
                list(pool.map(client, range(N_CLIENTS)))
            server.await_metric("requests_active", 0)
            assert server.metric("kv_sequences") == server.metric("cached_texts")
            assert server.metric("cached_tokens") <= N_CTX
            sizes.append(server.memory_bytes())
        ended = {
            end: server.metric("requests_total", end=end) for end in ("length", "stop", "cancelled")
        }
        print(f"requests {ended}, resident {[size >> 20 for size in sizes]} MiB")
        assert min(ended["length"], ended["cancelled"]) > N_CLIENTS
        assert sizes[2] < sizes[1] * 1.02, sizes
        assert server.stop() == 0
