"""Weights of others: published files read into networks that hold them, and made into runs like any other.

    python -m diffjax.pretrained                                             # the families, a line each
    python -m diffjax.pretrained ddpm-cifar10 FILE --out=runs/ddpm --seeds=0-15
    python -m diffjax.main --mode=eval --workdir=runs/ddpm

    run = diffjax.pretrained.opened("ddpm-cifar10", "diffusion_pytorch_model.safetensors", "runs/ddpm")
    run = diffjax.pretrained("hf:owner/name")                # a weights file of a run of ours (`diffjax.published`)

`files` reads .safetensors and Flax's msgpack and executes nothing; `maps` holds a file against a network and says all
that is wrong at once; a file for each family has its names, its shapes and its recipe; `folder` writes the run.
"""

import sys
from types import ModuleType
from typing import Any

from diffjax.pretrained.family import Family as Family
from diffjax.pretrained.folder import convert as convert
from diffjax.pretrained.folder import opened as opened
from diffjax.pretrained.index import FAMILIES as FAMILIES
from diffjax.pretrained.maps import WeightsError as WeightsError

__all__ = ["FAMILIES", "Family", "WeightsError", "convert", "opened"]


class _Callable(ModuleType):
    """This package, which is also called as the function that it had its name from: `diffjax.pretrained("hf:...")`."""

    def __call__(self, *args: Any, **options: Any) -> Any:
        from diffjax import published

        return published.pretrained(*args, **options)


sys.modules[__name__].__class__ = _Callable
