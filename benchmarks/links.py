"""Network namespaces of this machine, each behind a link of its own that can be slow, or be cut."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

#: Of this process, as somebody else may have such links on the same machine.
_NET, _BRIDGE = f"10.78.{os.getpid() % 250}", f"sg{os.getpid()}"
#: The name of a link within its namespace.
INSIDE = "sg-link"
_IP = shutil.which("ip") or "ip"


def can_be_made() -> bool:
    """Whether this user may make namespaces here."""
    if not Path(_IP).is_absolute():
        return False
    made = subprocess.run([_IP, "netns", "add", f"{_BRIDGE}p"], capture_output=True, check=False).returncode == 0
    subprocess.run([_IP, "netns", "del", f"{_BRIDGE}p"], capture_output=True, check=False)
    return made


class Links:
    """Links to one bridge, numbered from 0.

    Attributes:
        host: this machine's address on the bridge.
    """

    host = f"{_NET}.1"

    def address(self, link: int) -> str:
        return f"{_NET}.{10 + link}"

    def within(self, link: int) -> tuple[str, ...]:
        """The words before a command that is to run behind a link."""
        return (_IP, "netns", "exec", _name(link))

    def cut(self, link: int) -> None:
        """Nothing goes in or out there any more, and nobody is told."""
        _ip("link", "set", _name(link), "down")

    def mend(self, link: int) -> None:
        _ip("link", "set", _name(link), "up")

    def slow(self, link: int, delay_ms: float, megabits: float) -> bool:
        """Whatever leaves there does so after a while, and at this rate; False if this kernel has no netem."""
        shape = ("netem", "delay", f"{delay_ms}ms", "rate", f"{megabits}mbit", "limit", "100000")
        command = [*self.within(link), "tc", "qdisc", "replace", "dev", INSIDE, "root", *shape]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0


@contextlib.contextmanager
def links(count: int) -> Iterator[Links]:
    """So many, for as long as they are needed."""
    with contextlib.ExitStack() as undo:
        undo.callback(subprocess.run, [_IP, "link", "del", _BRIDGE], capture_output=True, check=False)
        _ip("link", "add", _BRIDGE, "type", "bridge")
        _ip("addr", "add", f"{Links.host}/24", "dev", _BRIDGE)
        _ip("link", "set", _BRIDGE, "up")
        made = Links()
        for link in range(count):
            for kind in ("netns", "link"):
                undo.callback(subprocess.run, [_IP, kind, "del", _name(link)], capture_output=True, check=False)
            _add(link, made.address(link))
        yield made


def _name(link: int) -> str:
    """Of a namespace, and of this machine's end of its link."""
    return f"{_BRIDGE}n{link}"


def _ip(*words: str) -> None:
    subprocess.run([_IP, *words], check=True, capture_output=True)


def _add(link: int, address: str) -> None:
    name = _name(link)
    _ip("netns", "add", name)
    _ip("link", "add", name, "type", "veth", "peer", "name", INSIDE, "netns", name)
    _ip("link", "set", name, "master", _BRIDGE, "up")
    _ip("-n", name, "addr", "add", f"{address}/24", "dev", INSIDE)
    for device in (INSIDE, "lo"):
        _ip("-n", name, "link", "set", device, "up")
