"""What each part of a denoising method has to be, said in one line before any of them is called."""

import inspect
from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Any

from diffjax.methods.conditions import Condition

OBJECTS = (  # part, what it has, what to give instead
    ("network", ("init", "apply", "reads"), "models.of(module) makes one of a linen or nnx module"),
    ("process", ("schedule", "noise", "corrupt", "prior"), "such as processes.Gaussian(schedules.VP())"),
    ("target", ("__call__", "skip_out", "given"), "such as denoisers.V()"),
)
FUNCTIONS = {  # part: what it is called with, and one that is
    "loss": ("net, process, target, x0, z, t, weight", "losses.regression"),
    "weight": ("schedule, target, t", "losses.weights.unit()"),
    "times": ("schedule", "losses.times.stratified"),
    "prepare": ("schedule", "losses.prepare.nothing"),
    "augment": ("key, x", "data.augment.none()"),
    "denoiser": ("net, schedule, target, chain", "denoisers.variance.mean"),
    "guidance": ("branch, given, hidden", "functools.partial(denoisers.guidance.classifier_free, w=2.0)"),
    "sampler": ("schedule", "samplers.ancestral.ddim"),
    "grid": ("schedule", "functools.partial(grids.uniform, n=20)"),
}


def check_kinds(of: Any) -> None:
    """Raises a ValueError for a part of the wrong kind: a class for its object, a function of other arguments.

    Args:
        of: the parts of a denoising method.
    """
    for name, members, instead in OBJECTS:
        _check_object(name, getattr(of, name), members, instead)
    check_network("network", of.network)
    for name in ("loss", "denoiser"):
        part = getattr(of, name)
        if getattr(getattr(part, "func", part), "of_energies", False):
            check_energy(name, of.network)
    if isinstance(schedule := of.process.schedule, type):
        name = schedule.__name__
        raise ValueError(f"The process has the class {name} as its schedule, expected an object of it: {name}().")
    if not isinstance(of.condition, Condition):
        raise ValueError(
            f"Got {_shown(of.condition)} as the condition, expected methods.Condition({{'label': 8}}, share=0.1), or "
            "methods.Condition({}) where nothing is hidden."
        )
    for name, (arguments, such) in FUNCTIONS.items():
        check_function(name, getattr(of, name), arguments, such)


def check_network(name: str, got: Any) -> None:
    """Raises a ValueError for what is no network: a class, or a module that `models.of` has not made one of.

    Args:
        name: whose network it is.
    """
    _check_object(name, got, OBJECTS[0][1], OBJECTS[0][2])
    if isinstance(got.reads, Mapping):  # a linen module has init and apply too; its own `reads` is a table
        raise ValueError(f"Got {_shown(got)} as the {name}, a module alone; {OBJECTS[0][2]}.")


def check_energy(name: str, network: Any) -> None:
    """Raises a ValueError for a network whose maps are not an energy's gradient and the energy.

    Args:
        name: what reads it as one.
    """
    if not getattr(network, "energy", False):
        raise ValueError(
            f"The {name} reads its network as an energy's, but the network's maps are no gradient of one: set "
            "name=scalar.energy, of=MLP for its model, or make it by models.scalar.gradient of a "
            "models.scalar.scalar(network, 'inner')."
        )


def _check_object(name: str, got: Any, members: Iterable[str], instead: str) -> None:
    if isinstance(got, type) or (missing := [member for member in members if not hasattr(got, member)]):
        lacks = "a class, not an object of it" if isinstance(got, type) else f"without {', '.join(missing)}"
        raise ValueError(f"Got {_shown(got)} as the {name}, {lacks}; {instead}.")


def check_function(name: str, got: Any, arguments: str, such: str) -> None:
    """Raises a ValueError for what is no function of these arguments, named with commas between them."""
    wanted = f"expected a function of ({arguments}), such as {such}"
    if not callable(got) or isinstance(got, ModuleType):
        raise ValueError(f"Got {_shown(got)} as the {name}, {wanted}.")
    try:
        signature = inspect.signature(got)
    except (ValueError, TypeError):  # of one that is not written in Python
        return
    try:
        signature.bind(*arguments.split(", "))
    except TypeError as error:
        title = getattr(got, "__qualname__", type(got).__name__).rpartition(".")[2]
        own = f"{title}({', '.join(signature.parameters)})"
        raise ValueError(f"Got {own} as the {name}, {wanted}: {error}.") from error


def _shown(got: Any) -> str:
    text = " ".join(repr(got).split())
    return text if len(text) <= 60 else f"{text[:57]}..."
