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
    from diffjax.diagnosis import doctor as doctor
    from diffjax.runs import Trainer as Trainer
    from diffjax.runs import open as open

__version__ = "0.1.0"

__all__ = [
    "Trainer",
    "analytic",
    "calculus",
    "chains",
    "clock",
    "config",
    "couplings",
    "data",
    "denoisers",
    "divergence",
    "doctor",
    "ema",
    "grids",
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
    "processes",
    "runs",
    "samplers",
    "schedules",
    "theory",
    "training",
    "types",
]
_HOMES = {"Trainer": "runs", "doctor": "diagnosis", "open": "runs"}  # of the names that are no packages


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
