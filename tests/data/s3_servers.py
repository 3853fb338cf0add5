"""S3 servers over real HTTP, and a proxy that makes them as unreliable as the real one is on a bad day."""

from __future__ import annotations

import contextlib
import http.client
import os
import random
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

from tests.patience import PATIENCE, wait_until

KEY, SECRET, BUCKET = "test-key", "test-secret-that-nobody-may-see", "bucket"
_SLOW_DOWN = b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Reduce your request rate.</Message></Error>"
_NOT_IMPLEMENTED = b"<?xml version='1.0'?><Error><Code>NotImplemented</Code><Message>A header...</Message></Error>"
STALL_SECONDS = 2.0


def environment(endpoint: str) -> dict[str, str]:
    """What a user sets to reach a server of his own."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        # Checksums in trailers are news that not every server has heard.
        "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
    }


@contextlib.contextmanager
def moto(port: int) -> Iterator[str]:
    """moto's server; its endpoint."""
    command = [str(Path(sys.executable).with_name("moto_server")), "-H", "127.0.0.1", "-p", str(port)]
    with _serving(command, port):
        yield f"http://127.0.0.1:{port}"


@contextlib.contextmanager
def rclone(port: int, folder: Path) -> Iterator[str]:
    """rclone, serving a folder whose folders are buckets; its endpoint."""
    program = str(Path(sys.executable).with_name("rclone"))
    address = ["--addr", f"127.0.0.1:{port}", "--auth-key", f"{KEY},{SECRET}", "--vfs-cache-mode", "off"]
    with _serving([program, "serve", "s3", *address, "--config", os.devnull, str(folder)], port):
        yield f"http://127.0.0.1:{port}"


@contextlib.contextmanager
def _serving(command: list[str], port: int) -> Iterator[None]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True)

    def answers() -> bool:
        with socket.socket() as caller:
            return caller.connect_ex(("127.0.0.1", port)) == 0

    try:
        wait_until(answers, f"{command[0]} answers", process)
        yield
    finally:
        process.kill()
        process.wait()


class FaultyProxy:
    """Hands requests on to a server, but for those that meet a fault.

    Args:
        backend: endpoint of the server.
        refused: share of requests that are answered with 503.
        cut: share of answers with a body that end in the middle of it.
        stalled: share of answers that come two seconds late.
        conditional: whether it knows conditional puts.
    """

    def __init__(
        self, backend: str, refused: float = 0.0, cut: float = 0.0, stalled: float = 0.0, conditional: bool = True
    ) -> None:
        self._conditional = conditional
        self.faults: Counter[str] = Counter()
        self.requests = 0
        self._backend = urlsplit(backend).netloc
        self._chances = {"refused": refused, "cut": cut, "stalled": stalled}
        self._random, self._lock = random.Random(0), threading.Lock()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                proxy.handle(self)

            do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = handle_any  # noqa: N815

            def log_message(self, *_: object) -> None:
                """Says nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def handle(self, request: BaseHTTPRequestHandler) -> None:
        body = _body(request)
        if request.headers.get("If-None-Match") and not self._conditional:
            _answer(request, 501, {"Content-Type": "application/xml"}, _NOT_IMPLEMENTED)
            return
        fault = self._draw()
        if fault == "refused":
            self.faults[fault] += 1
            _answer(request, 503, {"Content-Type": "application/xml"}, _SLOW_DOWN)
            return
        if fault == "stalled":
            self.faults[fault] += 1
            time.sleep(STALL_SECONDS)
        connection = http.client.HTTPConnection(self._backend, timeout=PATIENCE)
        connection.request(request.command, request.path, body, dict(request.headers))
        answer = connection.getresponse()
        content = answer.read()
        headers = {name: value for name, value in answer.getheaders() if name.lower() not in _OWN_HEADERS}
        if request.command == "HEAD":
            headers["Content-Length"] = answer.headers.get("Content-Length", "0")
        connection.close()
        if fault == "cut" and len(content) > 1000:
            self.faults[fault] += 1
            _answer(request, answer.status, headers, content, sent=len(content) // 2)
            request.close_connection = True
            request.connection.shutdown(socket.SHUT_RDWR)
            return
        _answer(request, answer.status, headers, content)

    def _draw(self) -> str | None:
        with self._lock:
            self.requests += 1
            drawn = self._random.random()
        for fault, chance in self._chances.items():
            if drawn < chance:
                return fault
            drawn -= chance
        return None


_OWN_HEADERS = {"content-length", "transfer-encoding", "connection", "server", "date"}


def _body(request: BaseHTTPRequestHandler) -> bytes:
    if request.headers.get("Expect", "").lower() == "100-continue":
        del request.headers["Expect"]
    if request.headers.get("Transfer-Encoding", "").lower() == "chunked":
        parts = []
        while size := int(request.rfile.readline().split(b";")[0], 16):
            parts.append(request.rfile.read(size))
            request.rfile.readline()
        request.rfile.readline()
        del request.headers["Transfer-Encoding"]
        return b"".join(parts)
    return request.rfile.read(int(request.headers.get("Content-Length", 0)))


def _answer(
    request: BaseHTTPRequestHandler, status: int, headers: dict[str, str], content: bytes, sent: int | None = None
) -> None:
    request.send_response_only(status)
    for name, value in headers.items():
        request.send_header(name, value)
    if "Content-Length" not in headers:
        request.send_header("Content-Length", str(len(content)))
    request.end_headers()
    if request.command != "HEAD":
        request.wfile.write(content[:sent])
