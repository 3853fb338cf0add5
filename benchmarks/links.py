"""Network namespaces of this machine, each behind a link of its own that can be cut."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

#: Of this process, as somebody else may have such links on the same machine.
NET, _BRIDGE = f"10.78.{os.getpid() % 250}", f"sg{os.getpid()}"
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


class Namespaces:
    """Each behind its link, numbered from 0."""

    def address(self, link: int) -> str:
        return f"{NET}.{10 + link}"

    def within(self, link: int) -> tuple[str, ...]:
        """The words before a command that is to run behind a link."""
        return (_IP, "netns", "exec", name_of(link))


class Links(Namespaces):
    """Links to one bridge.

    Attributes:
        host: this machine's address on the bridge.
    """

    host = f"{NET}.1"

    def cut(self, link: int) -> None:
        """Nothing goes in or out there any more, and nobody is told."""
        ip("link", "set", name_of(link), "down")

    def mend(self, link: int) -> None:
        ip("link", "set", name_of(link), "up")


@contextlib.contextmanager
def links(count: int) -> Iterator[Links]:
    """So many, for as long as they are needed."""
    with contextlib.ExitStack() as undo:
        undo.callback(subprocess.run, [_IP, "link", "del", _BRIDGE], capture_output=True, check=False)
        ip("link", "add", _BRIDGE, "type", "bridge")
        ip("addr", "add", f"{Links.host}/24", "dev", _BRIDGE)
        ip("link", "set", _BRIDGE, "up")
        made = Links()
        for link in range(count):
            for kind in ("netns", "link"):
                undo.callback(subprocess.run, [_IP, kind, "del", name_of(link)], capture_output=True, check=False)
            _add(link, made.address(link))
        yield made


def name_of(link: int) -> str:
    """Of a namespace, and of this machine's end of its link."""
    return f"{_BRIDGE}n{link}"


def ip(*words: str) -> None:
    """Run `ip` with these words. Raises CalledProcessError."""
    subprocess.run([_IP, *words], check=True, capture_output=True)


def _add(link: int, address: str) -> None:
    name = name_of(link)
    ip("netns", "add", name)
    ip("link", "add", name, "type", "veth", "peer", "name", INSIDE, "netns", name)
    ip("link", "set", name, "master", _BRIDGE, "up")
    ip("-n", name, "addr", "add", f"{address}/24", "dev", INSIDE)
    for device in (INSIDE, "lo"):
        ip("-n", name, "link", "set", device, "up")
