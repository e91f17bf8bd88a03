"""An Ethernet switch whose links are delayed and slow, for kernels without tc's netem.

    python switch.py DELAY_MS GBIT_PER_S DEVICE...

makes a TAP device for each name and says `ready`; then it passes frames on between them, each not
before it has gone through its sender's link, and ends with its stdin.
"""

from __future__ import annotations

import fcntl
import heapq
import os
import select
import struct
import sys
import time
from itertools import count

TUNSETIFF = 0x400454CA
IFF_TAP, IFF_NO_PI = 0x0002, 0x1000
FRAME_BYTES = 65536
GROUP_BIT = 1  # of the first byte of an address that several devices hear


class Switch:
    """The ports by number, and the frames under way."""

    def __init__(self, devices: list[str], delay_s: float, bytes_per_s: float) -> None:
        self._fds = [open_tap(name) for name in devices]
        self._delay_s, self._bytes_per_s = delay_s, bytes_per_s
        self._free_s = [0.0] * len(devices)  # when each link has sent all that it was given
        self._ports: dict[bytes, int] = {}  # by Ethernet address, as learnt
        self._under_way: list[tuple[float, int, int, bytes]] = []
        self._numbers = count()

    def run(self) -> None:
        """Until stdin ends."""
        while True:
            wait_s = max(0.0, self._under_way[0][0] - time.monotonic()) if self._under_way else None
            readable, _, _ = select.select([0, *self._fds], [], [], wait_s)
            for fd in readable:
                if fd == 0:
                    return
                self._take(self._fds.index(fd), os.read(fd, FRAME_BYTES))
            self._deliver()

    def _take(self, port: int, frame: bytes) -> None:
        target, source = frame[:6], frame[6:12]
        self._ports[source] = port
        now_s = time.monotonic()
        self._free_s[port] = max(now_s, self._free_s[port]) + len(frame) / self._bytes_per_s
        due_s = self._free_s[port] + self._delay_s
        known = None if target[0] & GROUP_BIT else self._ports.get(target)
        for other in range(len(self._fds)) if known is None else (known,):
            if other != port:
                heapq.heappush(self._under_way, (due_s, next(self._numbers), other, frame))

    def _deliver(self) -> None:
        while self._under_way and self._under_way[0][0] <= time.monotonic():
            _, _, port, frame = heapq.heappop(self._under_way)
            try:
                os.write(self._fds[port], frame)
            except OSError:
                pass  # the device is down: the frame is lost, as on any cut link


def open_tap(name: str) -> int:
    """A new TAP device; it goes when the file descriptor is closed."""
    fd = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH", name.encode(), IFF_TAP | IFF_NO_PI))
    return fd


if __name__ == "__main__":
    delay_ms, gbit_per_s, *names = sys.argv[1:]
    switch = Switch(names, float(delay_ms) / 1e3, float(gbit_per_s) * 1e9 / 8)
    print("ready", flush=True)
    switch.run()
