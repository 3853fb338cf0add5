"""SelfGAN from Python: load a recipe, train it, open a checkpoint, make images.

    from service import load, train, open_checkpoint, open_generator

`docs/python.md` shows them at work. They are imported when they are first asked for: a registered model, which
imports this package too, needs none of Ray.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from service.interface.python import load, open_checkpoint, open_generator, train

__all__ = ["load", "open_checkpoint", "open_generator", "train"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from service.interface import python as api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
