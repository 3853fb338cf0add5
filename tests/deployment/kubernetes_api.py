"""A server that acts as the Kubernetes API, and as KubeRay behind it, for RayJobs of one namespace."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

RayJob = dict[str, Any]

#: What Ray says of an entry point that exits with a code; KubeRay copies it into a RayJob's status.
MESSAGE = "Job entrypoint command failed with exit code {}, last available logs (truncated to 20,000 chars):\n{}"


def status(state: str, code: int | None = None, log: str = "") -> RayJob:
    """A RayJob's status, as KubeRay 1.7 writes it."""
    found: RayJob = {"jobDeploymentStatus": state}
    if code is not None:
        found |= {"jobStatus": "FAILED" if code else "SUCCEEDED", "reason": "AppFailed" if code else ""}
        found["message"] = MESSAGE.format(code, log) if code else "Job finished successfully."
    return found


class KubernetesApi:
    """The RayJobs `stored`, by name.

    Args:
        course: the statuses that a RayJob goes through, one for each look at it; then it stays. None deletes it.
    """

    namespace = "selfgan"

    def __init__(self, course: list[RayJob | None] | None = None) -> None:
        self.stored: dict[str, RayJob] = {}
        self.created: list[str] = []
        self.requests: list[str] = []
        #: What RayClusters were asked to change, by name.
        self.patches: list[tuple[str, str, list[dict[str, Any]]]] = []
        self.course = course or []
        #: Statuses that the next requests are answered with; an answer may be lost behind the deed.
        self.failures: list[int] = []
        self.lost_answers = 0
        #: The status that changes of RayClusters are answered with, if not 200.
        self.refused: int | None = None
        self._lock = threading.Lock()
        api = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                api.handle(self)

            do_GET = do_POST = do_DELETE = do_PATCH = handle_any  # noqa: N815

            def log_message(self, *_: object) -> None:
                """Says nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def kubeconfig(self, file: Path) -> Path:
        """What a client needs to find the server."""
        named = {"name": "test"}
        file.write_text(
            yaml.safe_dump(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "current-context": "test",
                    "clusters": [named | {"cluster": {"server": self.address}}],
                    "users": [named | {"user": {"token": "a-token"}}],
                    "contexts": [named | {"context": {"cluster": "test", "user": "test", "namespace": self.namespace}}],
                }
            )
        )
        return file

    def handle(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers.get("Content-Length", 0)))
        with self._lock:
            self.requests.append(f"{request.command} {request.path}")
            if self.failures:
                code, answer = self.failures.pop(0), {"message": "etcdserver: request timed out"}
            else:
                code, answer = self._answer(request, json.loads(body) if body else {})
                if request.command == "POST" and self.lost_answers:
                    self.lost_answers -= 1
                    code, answer = 504, {"message": "the answer was lost"}
        content = json.dumps(answer).encode()
        request.send_response(code)
        request.send_header("Content-Type", "application/json")
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        request.wfile.write(content)

    def _answer(self, request: BaseHTTPRequestHandler, body: Any) -> tuple[int, RayJob]:
        method, url = request.command, urlsplit(request.path)
        collection = f"/apis/ray.io/v1/namespaces/{self.namespace}/rayjobs"
        clusters = collection.replace("rayjobs", "rayclusters")
        if method == "PATCH" and url.path.startswith(clusters):
            cluster = url.path.removeprefix(clusters).strip("/")
            self.patches.append((cluster, request.headers["Content-Type"], body))
            return (self.refused, {"message": "refused"}) if self.refused else (200, {"metadata": {"name": cluster}})
        name = url.path.removeprefix(collection).strip("/")
        if not url.path.startswith(collection):
            return 404, {"message": "the server could not find the requested resource"}
        if method == "POST":
            return self._create(body)
        if method != "GET":
            return 403, {"message": f"the launcher cannot {method} resource rayjobs"}
        if name:
            self._go_on(name)
            found = self.stored.get(name)
            return (200, found) if found else (404, {"message": f'rayjobs.ray.io "{name}" not found'})
        wanted = dict(part.split("=") for part in parse_qs(url.query).get("labelSelector", []))
        return 200, {
            "items": [
                job for job in self.stored.values() if wanted.items() <= (job["metadata"].get("labels") or {}).items()
            ]
        }

    def _create(self, body: RayJob) -> tuple[int, RayJob]:
        name = body["metadata"]["name"]
        if name in self.stored:
            return 409, {"message": f'rayjobs.ray.io "{name}" already exists'}
        if "resourceVersion" in body["metadata"]:
            return 400, {"message": "resourceVersion should not be set on objects to be created"}
        self.stored[name] = body | {"metadata": body["metadata"] | {"uid": "u-1", "resourceVersion": "7"}}
        self.created.append(name)
        return 201, self.stored[name]

    def _go_on(self, name: str) -> None:
        """What KubeRay does between two looks."""
        job = self.stored.get(name)
        if job is None or not self.course or job["spec"].get("suspend"):
            return
        following = self.course[0] if len(self.course) == 1 else self.course.pop(0)
        if following is None:
            del self.stored[name]
        else:
            job["status"] = following
