"""diffjax: generative diffusion in JAX, every method in one small, exact, fast core.

    import diffjax
    diffjax.doctor()                                     # the device, jax, memory, where runs go
    run = diffjax.Trainer(method, data, optimizer=optax.adam(1e-3), workdir="runs/mine").train(2000)
    diffjax.open("runs/mine").draw(16)

Packages and these names are imported when they are first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffjax import analytic as analytic
    from diffjax import calculus as calculus
    from diffjax import chains as chains
    from diffjax import clock as clock
    from diffjax import codecs as codecs
    from diffjax import config as config
    from diffjax import couplings as couplings
    from diffjax import data as data
    from diffjax import denoisers as denoisers
    from diffjax import divergence as divergence
    from diffjax import ema as ema
    from diffjax import grids as grids
    from diffjax import gumbel as gumbel
    from diffjax import likelihood as likelihood
    from diffjax import losses as losses
    from diffjax import method as method
    from diffjax import methods as methods
    from diffjax import metrics as metrics
    from diffjax import models as models
    from diffjax import optimizers as optimizers
    from diffjax import parallel as parallel
    from diffjax import plots as plots
    from diffjax import pretrained as pretrained
    from diffjax import processes as processes
    from diffjax import runs as runs
    from diffjax import samplers as samplers
    from diffjax import schedules as schedules
    from diffjax import sweeps as sweeps
    from diffjax import theory as theory
    from diffjax import training as training
    from diffjax import types as types
    from diffjax.diagnosis import doctor as doctor
    from diffjax.runs import Trainer as Trainer
    from diffjax.runs import open as open
    from diffjax.specs import trust as trust
    from diffjax.sweeps import Sweep as Sweep

__version__ = "0.2.0"

__all__ = [
    "Sweep",
    "Trainer",
    "analytic",
    "calculus",
    "chains",
    "clock",
    "codecs",
    "config",
    "couplings",
    "data",
    "denoisers",
    "divergence",
    "doctor",
    "ema",
    "grids",
    "gumbel",
    "likelihood",
    "losses",
    "method",
    "methods",
    "metrics",
    "models",
    "open",
    "optimizers",
    "parallel",
    "plots",
    "pretrained",
    "processes",
    "runs",
    "samplers",
    "schedules",
    "sweeps",
    "theory",
    "training",
    "trust",
    "types",
]
_HOMES = {
    "Sweep": "sweeps",
    "Trainer": "runs",
    "doctor": "diagnosis",
    "open": "runs",
    "trust": "specs",
}  # of the names that are no packages


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"diffjax.{_HOMES[name]}"), name)
    if name in __all__:
        return importlib.import_module(f"diffjax.{name}")
    if name.startswith("_"):  # asked by Python itself
        raise AttributeError(name)
    from diffjax.host import nearest

    raise AttributeError(f"diffjax has no {name!r}: {nearest(name, __all__)}.")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
