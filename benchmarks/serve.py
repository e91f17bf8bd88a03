"""Servers with OpenAI's API: `pipeinfer serve`, on one rank and on two, and llama.cpp's own.

python benchmarks/serve.py --model MODEL.gguf --pipeinfer .venv/bin/pipeinfer --llama-server PATH

Each round starts each server in turn. Clients ask for streams, as many at a time as --clients says,
with prompts that begin differently; figures are tokens/s of all of them, and the time to the first
token (TTFT). Then a client with a long prompt leaves before its first token, and another one asks:
its TTFT, and from our own server's metrics, how long stages still worked for the one that left.
Times are medians over the rounds, but for maxima; those so far are on stderr.

With --url instead of --pipeinfer and --llama-server a server that runs already is measured.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import re
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median
from urllib.parse import urlsplit

from beside.process import BenchmarkError, background, free_port, wait_until_healthy

TIMEOUT_S = 600.0
START_S = 60.0
N_CTX = 2048  # of each client
LEAVE_S = 0.3  # after the question; then another client asks
N_LEAVE = 3  # in a round
N_LONG = 1000  # words of the prompt whose client leaves
WORDS = (
    *("the", "of", "river", "mountain", "under", "old", "by", "stone", "bright", "seven", "walks"),
    *("house", "toward", "letter", "never", "cold", "ship", "blue", "morning", "because", "table"),
    *("sings", "forgotten", "green", "road", "and", "window", "after", "small", "king"),
)


@dataclass
class Seen:
    """What clients have seen."""

    ttft_s: list[float] = field(default_factory=list)
    n_tokens: int = 0


def prompt(number: int, n_words: int) -> str:
    """Words in an order of their own."""
    draw = random.Random(number)
    return f"{number} " + " ".join(draw.choices(WORDS, k=n_words))


def begin(url: str, text: str, n_tokens: int) -> http.client.HTTPConnection:
    """Asks for a stream."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=TIMEOUT_S)
    body = {
        "prompt": text,
        "max_tokens": n_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    key = os.environ.get("PIPEINFER_API_KEY", "none")
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
    connection.request("POST", "/v1/completions", json.dumps(body), headers)
    return connection


def ask(url: str, text: str, n_tokens: int, seen: Seen) -> None:
    """One answer; `seen` grows by it."""
    begin_s = time.monotonic()
    connection = begin(url, text, n_tokens)
    answer = connection.getresponse()
    if answer.status != 200:
        sys.exit(f"status {answer.status}: {answer.read().decode()}")
    is_first = True
    last = b""
    for line in answer:
        if line.startswith(b"data: {"):
            if is_first and b'"text":""' not in line:
                seen.ttft_s.append(time.monotonic() - begin_s)
                is_first = False
            last = line
    connection.close()
    seen.n_tokens += json.loads(last[6:])["usage"]["completion_tokens"]


@dataclass(kw_only=True)
class Case:
    """A server, and what was measured; lists have a value for each round."""

    name: str
    command: Sequence[str]  # without its port
    speeds: dict[int, list[float]] = field(default_factory=dict)  # tokens/s, by clients
    ttft_s: dict[int, list[float]] = field(default_factory=dict)
    after_s: list[float] = field(default_factory=list)  # TTFT after a client has left
    alone_s: list[float] = field(default_factory=list)  # the same, when none has
    free_s: list[float] = field(default_factory=list)  # from leaving to stages that are free
    run_s: list[float] = field(default_factory=list)  # compute of a run of a long prompt, a stage

    def rows(self) -> Iterator[str]:
        """Lines of the first table."""
        for n_clients, speeds in self.speeds.items():
            ttft_ms = [1000 * each for each in self.ttft_s[n_clients]]
            yield (
                f"| {self.name} | {n_clients} | {median(speeds):.1f} | "
                f"{median(ttft_ms):.0f} | {max(ttft_ms):.0f} |"
            )

    def leave_row(self) -> str:
        """A line of the second one."""
        free = f"{ms(self.free_s)} | {ms(self.run_s)}" if self.free_s else "- | -"
        return f"| {self.name} | {ms(self.alone_s)} | {ms(self.after_s)} | {free} |"


def ms(times_s: Sequence[float]) -> str:
    """Median and maximum."""
    return f"{1000 * median(times_s):.1f} ({1000 * max(times_s):.1f})"


@contextmanager
def running(case: Case) -> Iterator[str]:
    """Its URL once it is ready."""
    port = free_port()
    with background([*case.command, "--port", f"{port}"], port):
        wait_until_healthy(port)
        yield f"http://127.0.0.1:{port}"


def load(url: str, numbers: Iterator[int], n_clients: int, asked: argparse.Namespace) -> Seen:
    """That many clients at a time; tokens/s is over all of it."""
    seen = [Seen() for _ in range(n_clients)]

    def client(each: Seen) -> None:
        for _ in range(asked.requests):
            ask(url, prompt(next(numbers), asked.words), asked.tokens, each)

    threads = [threading.Thread(target=client, args=(each,)) for each in seen]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    return Seen(
        ttft_s=[value for each in seen for value in each.ttft_s],
        n_tokens=sum(each.n_tokens for each in seen),
    )


def metrics(url: str) -> dict[str, float]:
    """Those of our server; of another one, nothing that has our names."""
    try:
        with urllib.request.urlopen(url + "/metrics", timeout=START_S) as answer:
            lines = answer.read().decode().splitlines()
    except OSError:
        return {}
    found = (re.fullmatch(r"pipeinfer_(\S+) (\S+)", line) for line in lines)
    return {each[1]: float(each[2]) for each in found if each}


def leave(case: Case, url: str, numbers: Iterator[int]) -> None:
    """Clients leave before the first token of long prompts."""
    for _ in range(N_LEAVE):
        alone, after = Seen(), Seen()
        ask(url, prompt(next(numbers), 5), 1, alone)
        before = metrics(url)
        connection = begin(url, prompt(next(numbers), N_LONG), 1)
        time.sleep(LEAVE_S)
        connection.close()
        ask(url, prompt(next(numbers), 5), 1, after)
        case.alone_s += alone.ttft_s
        case.after_s += after.ttft_s
        give_up_s = time.monotonic() + START_S
        name = "cancel_seconds_count"
        while name in before and (now := metrics(url))[name] == before[name]:
            if time.monotonic() > give_up_s:
                sys.exit("the client that left is still served")
        if name in before:
            spent = {key: value - before.get(key, 0) for key, value in now.items()}
            case.free_s.append(spent["cancel_seconds_sum"])
            n_runs = spent['runs_total{end="completed"}']
            case.run_s.append(spent['stage_busy_seconds_total{stage="0"}'] / n_runs)


def measure(case: Case, url: str, numbers: Iterator[int], asked: argparse.Namespace) -> None:
    """A round with a server that is ready."""
    ask(url, prompt(next(numbers), asked.words), 8, Seen())  # warm
    for n_clients in map(int, asked.clients.split(",")):
        begin_s = time.monotonic()
        seen = load(url, numbers, n_clients, asked)
        speed = seen.n_tokens / (time.monotonic() - begin_s)
        case.speeds.setdefault(n_clients, []).append(speed)
        case.ttft_s.setdefault(n_clients, []).extend(seen.ttft_s)
    leave(case, url, numbers)


def cases(asked: argparse.Namespace, n_parallel: int) -> Iterator[Case]:
    """The servers."""
    threads = asked.threads
    if asked.llama_server:
        command = [asked.llama_server, "-m", asked.model, "-t", f"{threads}", "-tb", f"{threads}"]
        slots = ["-np", f"{n_parallel}", "-c", f"{N_CTX * n_parallel}"]
        yield Case(name="llama-server", command=[*command, *slots])
    for ranks in (1, 2) if asked.pipeinfer else ():
        command = [asked.pipeinfer, "serve", "-m", asked.model, "--ranks", f"{ranks}"]
        shares = ["-t", f"{threads // ranks}", "--parallel", f"{n_parallel}", "-c", f"{N_CTX}"]
        yield Case(name=f"pipeinfer, {ranks} rank(s)", command=[*command, *shares])


def main() -> None:
    """Prints two tables in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url")
    parser.add_argument("--model")
    parser.add_argument("--pipeinfer")
    parser.add_argument("--llama-server")
    parser.add_argument("--only", default="", help="servers with this in their name")
    parser.add_argument("--threads", type=int, default=2, help="of each server, in all")
    parser.add_argument("--clients", default="1,4,8")
    parser.add_argument("--tokens", type=int, default=64, help="of each answer")
    parser.add_argument("--words", type=int, default=80, help="of each prompt")
    parser.add_argument("--requests", type=int, default=2, help="of each client")
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    numbers = iter(range(10**9))
    if asked.url:
        measured = [Case(name=asked.url, command=[])]
        measure(measured[0], asked.url, numbers, asked)
    else:
        found = cases(asked, max(map(int, asked.clients.split(","))))
        measured = [each for each in found if asked.only in each.name]
        for number in range(asked.rounds):
            turn = number % len(measured)
            for case in [*measured[turn:], *measured[:turn]]:
                try:
                    with running(case) as url:
                        measure(case, url, numbers, asked)
                except BenchmarkError as error:
                    sys.exit(str(error))
                print(*case.rows(), case.leave_row(), sep="\n", file=sys.stderr, flush=True)
    print("| server | clients | tokens/s | TTFT p50 ms | TTFT max ms |\n|---|---|---|---|---|")
    for case in measured:
        print(*case.rows(), sep="\n")
    print("\n| server | TTFT ms | after a client left | stages free after | a run takes a stage |")
    print("|---|---|---|---|---|")
    for case in measured:
        print(case.leave_row())


if __name__ == "__main__":
    main()
