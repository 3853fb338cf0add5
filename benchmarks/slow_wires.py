"""A network of namespaces that is as slow as it is told to be: its packets wait in this process.

The kernel's own tool for that, netem, is a module that many machines lack; a TUN device is not.
"""

from __future__ import annotations

import contextlib
import fcntl
import heapq
import itertools
import os
import select
import struct
import subprocess
import threading
import time
from collections.abc import Iterator

from benchmarks.links import INSIDE, Namespaces, ip, name_of

#: linux/if_tun.h: a device of IP packets, without a header of its own before them.
_TUNSETIFF, _TUN, _BARE = 0x400454CA, 0x0001, 0x1000
#: The largest packet of such a device: what passes here costs by the packet.
_MOST_BYTES = 65_000
#: Seconds after which a wire looks whether it is to end.
_LOOK = 0.05


class SlowWires:
    """One wire from each of these devices to every other.

    Args:
        devices: open, by the last number of the address that each has.
    """

    def __init__(self, devices: dict[int, int]) -> None:
        self._devices = devices
        self._delay, self._rate = 0.0, float("inf")
        self._free = dict.fromkeys(devices, 0.0)
        self._waiting: list[tuple[float, int, int, bytes]] = []
        self._numbers = itertools.count()

    def become(self, delay_ms: float = 0.0, megabits: float = float("inf")) -> None:
        """What leaves a device from now on does so at this rate, and is there after this delay."""
        self._delay, self._rate = delay_ms * 1e-3, megabits * 125e3

    def carry(self, ended: threading.Event) -> None:
        """Carry packets until then."""
        senders = {device: number for number, device in self._devices.items()}
        while not ended.is_set():
            due = self._waiting[0][0] - time.perf_counter() if self._waiting else _LOOK
            ready, _, _ = select.select(senders, [], [], min(max(due, 0.0), _LOOK))
            for device in ready:
                self._take(senders[device], os.read(device, _MOST_BYTES + 100))
            now = time.perf_counter()
            while self._waiting and self._waiting[0][0] <= now:
                _, _, receiver, packet = heapq.heappop(self._waiting)
                os.write(self._devices[receiver], packet)

    def _take(self, sender: int, packet: bytes) -> None:
        receiver = packet[19]  # The last byte of an IPv4 header's destination.
        if packet[0] >> 4 != 4 or receiver not in self._devices:
            return
        self._free[sender] = max(self._free[sender], time.perf_counter()) + len(packet) / self._rate
        heapq.heappush(self._waiting, (self._free[sender] + self._delay, next(self._numbers), receiver, packet))


class SlowLinks(Namespaces):
    """Namespaces on such wires. `become` is the wires'."""

    def __init__(self, wires: SlowWires) -> None:
        self.become = wires.become


@contextlib.contextmanager
def slow_links(count: int) -> Iterator[SlowLinks]:
    """So many, for as long as they are needed; as fast as they can be, at first."""
    numbered = Namespaces()
    with contextlib.ExitStack() as undo:
        devices = {}
        for link in range(count):
            undo.callback(subprocess.run, ["ip", "netns", "del", name_of(link)], capture_output=True, check=False)
            device = _device(link, numbered.address(link))
            undo.callback(os.close, device)
            devices[int(numbered.address(link).rsplit(".", 1)[1])] = device
        wires, ended = SlowWires(devices), threading.Event()
        carrier = threading.Thread(target=wires.carry, args=[ended], daemon=True)
        carrier.start()
        undo.callback(carrier.join)
        undo.callback(ended.set)
        yield SlowLinks(wires)


def _device(link: int, address: str) -> int:
    """The open file of a new device, which is in a new namespace and has this address."""
    name = name_of(link)
    ip("netns", "add", name)
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _TUN | _BARE))
    ip("link", "set", name, "netns", name, "name", INSIDE)
    ip("-n", name, "addr", "add", f"{address}/24", "dev", INSIDE)
    ip("-n", name, "link", "set", INSIDE, "mtu", str(_MOST_BYTES), "up")
    ip("-n", name, "link", "set", "lo", "up")
    return device
