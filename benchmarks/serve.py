"""Speed of a server with OpenAI's API: tokens/s of all clients, and time to the first token.

`serve.py URL [--clients 1,4,8] [--tokens 64] [--requests 3]`: each client asks that often, as a
stream, with prompts that begin differently. For `pipeinfer serve` and llama.cpp's llama-server.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import threading
import time
from dataclasses import dataclass, field
from statistics import median
from urllib.parse import urlsplit

TIMEOUT_S = 600.0
PROMPT = "{} stories were told by the fire that night. The first one, by the oldest of them, began"


@dataclass
class Seen:
    """What the clients have seen."""

    ttft_s: list[float] = field(default_factory=list)
    n_tokens: int = 0


def ask(url: str, index: int, n_tokens: int, seen: Seen) -> None:
    """One answer; `seen` grows by it."""
    place = urlsplit(url)
    connection = http.client.HTTPConnection(place.netloc, timeout=TIMEOUT_S)
    body = {
        "prompt": PROMPT.format(index),
        "max_tokens": n_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    key = os.environ.get("PIPEINFER_API_KEY", "none")
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
    begin_s = time.monotonic()
    connection.request("POST", "/v1/completions", json.dumps(body), headers)
    answer = connection.getresponse()
    if answer.status != 200:
        raise SystemExit(f"status {answer.status}: {answer.read().decode()}")
    first_s = 0.0
    for line in answer:
        if not line.startswith(b"data: {"):
            continue
        fields = json.loads(line[6:])
        if not first_s and fields["choices"] and fields["choices"][0]["text"]:
            first_s = time.monotonic()
            seen.ttft_s.append(first_s - begin_s)
        seen.n_tokens += (fields.get("usage") or {}).get("completion_tokens", 0)
    connection.close()


def measure(url: str, n_clients: int, n_tokens: int, n_requests: int) -> str:
    """A line of the table."""
    seen = [Seen() for _ in range(n_clients)]

    def client(number: int) -> None:
        for turn in range(n_requests):
            ask(url, 1 + number + 100 * turn + 10000 * n_clients, n_tokens, seen[number])

    threads = [threading.Thread(target=client, args=(each,)) for each in range(n_clients)]
    begin_s = time.monotonic()
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    took_s = time.monotonic() - begin_s
    ttft_s = [value for each in seen for value in each.ttft_s]
    speed = sum(each.n_tokens for each in seen) / took_s
    return f"{n_clients}\t{speed:.1f}\t{1000 * median(ttft_s):.0f}\t{1000 * max(ttft_s):.0f}"


def main() -> None:
    """Prints a table, tab-separated."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--clients", default="1,4,8")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--requests", type=int, default=3)
    asked = parser.parse_args()
    ask(asked.url, 0, 8, Seen())  # warm
    print("clients\ttokens/s\tTTFT p50 ms\tTTFT max ms")
    for n_clients in map(int, asked.clients.split(",")):
        print(measure(asked.url, n_clients, asked.tokens, asked.requests), flush=True)


if __name__ == "__main__":
    main()
