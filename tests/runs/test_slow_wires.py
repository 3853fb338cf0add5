"""Links that are as slow as they are told to be."""

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.links import can_be_made
from benchmarks.slow_wires import slow_links

_ECHO = """
import socket
with socket.create_server(("", 4000)) as server:
    print("open", flush=True)
    connection, _ = server.accept()
    while data := connection.recv(1 << 20):
        connection.sendall(data)
"""
#: Prints the seconds of a round trip of one byte, and of a megabyte.
_ASK = """
import socket, sys, time
with socket.create_connection((sys.argv[1], 4000)) as connection:
    for size in (1, 1_000_000):
        began, left = time.perf_counter(), size
        connection.sendall(bytes(size))
        while left:
            left -= len(connection.recv(left))
        print(time.perf_counter() - began)
"""


@pytest.mark.skipif(
    not (can_be_made() and Path("/dev/net/tun").exists()),
    reason="LINKS NOT SLOWED: this user may not make network namespaces here, or there is no TUN device",
)
def test_what_goes_over_a_slow_link_is_late() -> None:
    with slow_links(2) as net:
        net.become(delay_ms=200, megabits=8)
        server = subprocess.Popen([*net.within(0), sys.executable, "-c", _ECHO], stdout=subprocess.PIPE, text=True)
        assert server.stdout and server.stdout.readline() == "open\n"
        asked = [*net.within(1), sys.executable, "-c", _ASK, net.address(0)]
        byte, megabyte = map(float, subprocess.run(asked, capture_output=True, text=True, check=True).stdout.split())
        assert server.wait() == 0
    assert byte >= 0.4
    assert megabyte >= 0.4 + 1  # 8 megabits are a megabyte a second, on the way there at least.
