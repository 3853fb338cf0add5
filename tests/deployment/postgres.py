"""A PostgreSQL server of Debian's, set up as its image does it, and the driver that MLflow reaches it with."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import ROOT, free_port
from tests.patience import wait_until

PASSWORD = "a-password"
_DRIVER = "psycopg2-binary"


class NoPostgresError(RuntimeError):
    """There is none, or no driver for it could be fetched."""


@dataclass(frozen=True)
class Server:
    """A server that runs.

    Attributes:
        address: for clients that log in with the password.
        environment: for those that stand beside it, as in its container: they are trusted.
    """

    address: str
    environment: dict[str, str]

    def plain(self, database: str) -> str:
        """All that a database holds, as SQL; less the formulas of its checks, which the server writes anew."""
        done = subprocess.run(
            ["pg_dump", "--username=mlflow", f"--dbname={database}"],
            env=self.environment, capture_output=True, text=True, check=True,
        )  # fmt: skip
        lines = [line for line in done.stdout.splitlines() if "restrict" not in line]  # A token, drawn anew.
        return "\n".join(re.sub(" CHECK .*", " CHECK", line) for line in lines)


def programs() -> Path:
    """The folder of the server's programs. Raises NoPostgresError if there is none."""
    found = [Path(path) for path in [shutil.which("initdb")] if path]
    found += sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[4]), reverse=True)
    if not found:
        raise NoPostgresError("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    return found[0].resolve().parent


@contextmanager
def server() -> Iterator[Server]:
    """One with an empty database `mlflow` of a superuser `mlflow`."""
    port = free_port()
    # Short, as the path of a socket has to be, and open to the user that the server runs as.
    folder = Path(tempfile.mkdtemp(prefix="postgres-", dir="/tmp"))
    user = _user()
    if user is not None:
        os.chown(folder, *pwd.getpwnam(user)[2:4])
    path = f"{programs()}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PGHOST": str(folder), "PGPORT": str(port)}
    password = folder / "password"
    password.write_text(PASSWORD)
    setup = ["initdb", f"--pgdata={folder / 'data'}", "--username=mlflow", f"--pwfile={password}", "--no-sync"]
    setup += ["--auth-local=trust", "--auth-host=scram-sha-256"]
    start = ["postgres", "-D", str(folder / "data"), "-k", str(folder), "-p", str(port), "-c", "fsync=off"]
    try:
        subprocess.run(setup, env=environment, user=user, cwd="/", stdout=subprocess.DEVNULL, check=True)
        process = subprocess.Popen(start, env=environment, user=user, cwd="/", stderr=subprocess.DEVNULL, text=True)
        try:
            ready = ["pg_isready", "--quiet"]
            wait_until(
                lambda: not subprocess.run(ready, env=environment, check=False).returncode, "Postgres answers", process
            )
            subprocess.run(["createdb", "--username=mlflow", "mlflow"], env=environment, check=True)
            yield Server(f"127.0.0.1:{port}", environment)
        finally:
            process.send_signal(signal.SIGINT)  # Without waiting for its clients.
            process.wait()
    finally:
        shutil.rmtree(folder)


def _user() -> str | None:
    """Whom to run as: the server refuses root."""
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in known else "nobody"


def driver(folder: Path) -> None:
    """Installs into a folder what the image has, and the project does not need.

    Raises:
        NoPostgresError: pip cannot bring it.
    """
    lines = (ROOT / "infra" / "requirements-cpu.txt").read_text().splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith(f"{_DRIVER}=="))
    last = next(number for number in range(first, len(lines)) if not lines[number].endswith("\\"))
    wanted = folder.with_suffix(".txt")
    wanted.write_text("\n".join(lines[first : last + 1]))
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--require-hashes"]
    done = subprocess.run(
        [*install, "--only-binary=:all:", f"--target={folder}", f"--requirement={wanted}"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise NoPostgresError(f"pip cannot bring {_DRIVER}: {done.stderr.strip().splitlines()[-1]}")
