"""`pipeinfer serve` as a process, and what tests ask it for."""

from __future__ import annotations

import http.client
import json
import re
import signal
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pipeinfer_cli.commands.serve.page.endpoints import REFRESH_S
from support import pipeinfer

START_S = 60.0
ANSWER_S = 60.0
END_S = 30.0
TEMPLATE = (
    "{% if tools %}{{ tools | tojson }}{% endif %}"
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}"
    "{% for c in m.tool_calls or [] %}<tool_call>\n{{ c.function | tojson }}\n</tool_call>"
    "{% endfor %}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


class Server:
    """Runs while the block does; its stderr is kept."""

    def __init__(self, model: Path | str, *more: str, env: dict[str, str] | None = None) -> None:
        command = pipeinfer("serve", "-m", str(model), "--port", "0", *more)
        self.process = subprocess.Popen(
            command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=env
        )
        self.said: list[str] = []
        self._new = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.url = self.await_line(r"(http://\S+): loading").group(1)
        self.host, _, port = self.url.removeprefix("http://").rpartition(":")
        self.port = int(port)
        self.headers: dict[str, str] = {}  # with which metrics are asked for

    def __enter__(self) -> Server:
        self.await_line(": ready")
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(END_S)
        self._reader.join(END_S)
        assert self.process.stderr is not None
        self.process.stderr.close()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._new:
                self.said.append(line)
                self._new.notify_all()
        with self._new:
            self.said.append("(the end)")
            self._new.notify_all()

    def await_line(self, pattern: str) -> re.Match[str]:
        """A line of stderr that has this in it, once it comes."""
        give_up_s = time.monotonic() + START_S
        with self._new:
            while True:
                for line in self.said:
                    if found := re.search(pattern, line):
                        return found
                assert "(the end)" not in self.said, self.said
                assert self._new.wait(give_up_s - time.monotonic()), self.said

    def stop(self, signum: int = signal.SIGTERM) -> int:
        """The exit code after a signal."""
        self.process.send_signal(signum)
        return self.process.wait(END_S)

    # requests

    def ask(self, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        """Status and JSON of a request: POST with a body, else GET."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data)
        for name, value in {"content-type": "application/json", **headers}.items():
            request.add_header(name.replace("_", "-"), value)
        try:
            with urllib.request.urlopen(request, timeout=ANSWER_S) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    def text(self, **body: Any) -> str:
        """The text of a completion."""
        status, answer = self.ask("/v1/completions", body)
        assert status == 200, answer
        return str(answer["choices"][0]["text"])

    def events(self, path: str, body: Any) -> Iterator[tuple[str, str]]:
        """The names and data of a stream's events as they come."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=ANSWER_S)
        try:
            connection.request("POST", path, json.dumps(body))
            answer = connection.getresponse()
            assert answer.status == 200, answer.read()
            name = ""
            for raw in answer:
                line = raw.decode().rstrip("\n")
                if line.startswith("event: "):
                    name = line.removeprefix("event: ")
                elif line.startswith("data: "):
                    yield name, line.removeprefix("data: ")
                    name = ""
        finally:
            connection.close()

    def metric(self, name: str, **labels: str) -> float:
        """The value of a metric now; 0 if it was never counted."""
        request = urllib.request.Request(self.url + "/metrics", headers=self.headers)
        with urllib.request.urlopen(request, timeout=ANSWER_S) as answer:
            lines = answer.read().decode().splitlines()
        inside = ",".join(f'{key}="{value}"' for key, value in labels.items())
        start = f"pipeinfer_{name}" + (f"{{{inside}}}" if inside else "") + " "
        return sum(float(line.removeprefix(start)) for line in lines if line.startswith(start))

    def await_metric(self, name: str, value: float, **labels: str) -> None:
        """Until a metric has this value."""
        give_up_s = time.monotonic() + ANSWER_S
        while (found := self.metric(name, **labels)) != value:
            assert time.monotonic() < give_up_s, (name, labels, found, value)
            time.sleep(0.01)

    def await_live(self, is_enough: Callable[[dict[str, Any]], bool]) -> None:
        """Until what the page is shown is as wanted."""
        with urllib.request.urlopen(self.url + "/live", timeout=ANSWER_S) as events:
            for _ in range(int(ANSWER_S / REFRESH_S)):
                while not (line := events.readline()).startswith(b"data: "):
                    assert line
                if is_enough(json.loads(line[6:])):
                    return
        raise AssertionError("it is never so")

    def memory_bytes(self) -> int:
        """Resident, of this process: with one rank it is the whole server."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert found is not None
        return int(found.group(1)) * 1024
