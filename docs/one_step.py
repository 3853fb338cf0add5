"""The way of one step of self-dcgan-mnist, from the command to the all-reduce: ``python -m docs.one_step``.

It prints the files in the order in which to read them, with their lines, and what of the layout can be counted.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
#: File, and what it does for a step.
WAY = {
    "service/train.py": "the command: words in, exit code out",
    "service/configuration/recipe.py": "a recipe and what overrides it become a run",
    "service/runs/driver/launch.py": "the run is handed to Ray Train",
    "service/runs/on_replica/worker.py": "Ray Train calls this on every replica",
    "service/runs/on_replica/loop.py": "step, log, sample, checkpoint",
    "service/runs/on_replica/replica.py": "networks, batch and scheme of one replica; `step`",
    "service/training/context.py": "what a scheme is given",
    "service/training/schemes/joint.py": "three looks, one loss, one backward pass, one update",
    "service/training/critics/passes.py": "a critic's passes, and the whole batch's logits",
    "service/losses/objectives/bce.py": "the loss, of the whole batch's logits",
    "service/losses/balances/loss.py": "the weights of its terms",
    "service/replicas/global_batch.py": "this replica's rows in the whole batch's tables",
    "service/replicas/collectives.py": "the all-reduce, and its gradient",
}


def lines_of(file: str) -> int:
    return (ROOT / file).read_text().count("\n")


def entries_of(folder: Path) -> int:
    """What a newcomer scans in a folder: modules and folders, without what starts with an underscore."""
    return sum(
        1 for entry in folder.iterdir() if entry.name[0] not in "_." and (entry.is_dir() or entry.suffix == ".py")
    )


def report() -> str:
    """The table, and the counts."""
    lines = [f"{lines_of(file):5}  {file:<40} {what}" for file, what in WAY.items()]
    lines += [f"{sum(map(lines_of, WAY)):5}  lines in {len(WAY)} files", "", "entries a folder:"]
    folders = [ROOT / top for top in ("service", "pipelines")]
    folders += sorted(folder for top in list(folders) for folder in top.rglob("*") if (folder / "__init__.py").exists())
    lines += [f"{entries_of(folder):5}  {folder.relative_to(ROOT)}" for folder in folders]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.stdout.write(report() + "\n")
