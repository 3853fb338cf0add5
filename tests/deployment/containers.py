"""What a container gives a process, without a container engine: a root that cannot be written to, and user 1000."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

#: Within a mount namespace of its own: $1 is an empty folder for the root, $2 and on are folders that are seen in it.
_BUILD = r"""
set -euo pipefail
root=$1; shift
mount -t tmpfs -o mode=755 tmpfs "$root"
cd "$root"
seen() { mkdir -p ".$1"; mount --rbind "$1" ".$1"; mount -o remount,bind,ro ".$1"; }
for name in /bin /sbin /lib /lib32 /lib64; do
    if [ -L $name ]; then cp --no-dereference $name .; elif [ -d $name ]; then seen $name; fi
done
mkdir -p dev/shm proc tmp home/selfgan
mount -t tmpfs -o mode=1777 tmpfs tmp
for folder in /usr /etc "$@"; do case $folder in /usr/?*) ;; *) seen "$folder" ;; esac; done
mount -t proc proc proc
for device in null zero full random urandom; do touch dev/$device; mount --bind /dev/$device dev/$device; done
mount -t tmpfs -o mode=1777 tmpfs dev/shm
mount -t tmpfs -o mode=700,uid=1000,gid=1000 tmpfs home/selfgan
mount -o remount,ro "$root"
exec chroot . setpriv --reuid=1000 --regid=1000 --clear-groups --no-new-privs --bounding-set=-all --inh-caps=-all \
    env --ignore-environment --chdir="$WORKDIR" "${GIVEN[@]}" bash -euo pipefail -c "$SCRIPT"
"""


class NoContainersError(RuntimeError):
    """This machine lets nobody make namespaces."""


def run(script: str, folders: list[Path], workdir: Path, given: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Runs a bash script as a pod runs it: as user 1000 without any right, with an empty home, /tmp and /dev/shm.

    Args:
        folders: that are seen, read-only, beside the system's; the interpreter's among them.
        given: the whole environment.

    Raises:
        NoContainersError: it cannot be done here.
    """
    unshare = ["unshare", "--mount", "--pid", "--fork", "--kill-child"]
    if subprocess.run([*unshare, "true"], check=False, capture_output=True).returncode:
        raise NoContainersError("unshare makes no namespaces here; it needs root")
    words = " ".join(f"'{name}={value}'" for name, value in {"HOME": "/home/selfgan", **given}.items())
    with tempfile.TemporaryDirectory() as root:
        return subprocess.run(
            [*unshare, "bash", "-c", f"GIVEN=({words})\n{_BUILD}", "bash", root, *map(str, folders)],
            env={**os.environ, "SCRIPT": script, "WORKDIR": str(workdir)},
            capture_output=True, text=True, check=False,
        )  # fmt: skip


def interpreter() -> Path:
    """The folder of the Python that virtual environments point to."""
    return Path(sys.base_prefix)
