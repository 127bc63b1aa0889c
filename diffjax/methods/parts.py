"""What the parts of a method that draws by a sampler's walk say of themselves, whatever is destroyed.

Each function takes the parts, a named tuple with `network`, `process`, `condition`, `guidance`, `sampler` and `grid`;
`methods.Denoising` and `methods.Discrete` have them as their methods.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from diffjax import calculus, chains, denoisers, samplers
from diffjax.types import Array, Key, Network, PyTree, Schedule, pytree, static

MEANT = {  # words of a draw by which others say it: the word that it has here
    "w": "guidance=3.0, a scale",
    "scale": "guidance=3.0, a scale",
    "cfg": "guidance=3.0, a scale",
    "n": "nfe=10, the grid's steps; the samples are the first argument",
    "steps": "nfe=10, the grid's steps",
    "eta": "sampler={'name': ..., 'eta': ...}",
}


@pytree
class Request:
    """A planned walk: its rows and first time; a pytree, so that another of its length is no retrace.

    Attributes:
        fitted_to: the fingerprint of the one model that the rows are for, or None (`Sampler.fitted_to`).
    """

    walk: Partial
    start: Array
    chain: chains.Chain | None
    shape: tuple[int, ...] = static()
    fitted_to: Any = None

    @property
    def nfe(self) -> int | None:
        """The network's evaluations in one draw; None of an ODE solver, which takes as many as it needs."""
        return None if hasattr(self.walk.args[0], "rtol") else samplers.nfe(self.walk)


def schedule(of: Any) -> Schedule:
    """Gives the schedule of the process, said once, there."""
    return of.process.schedule


def needs(of: Any) -> tuple[str, ...]:
    """Lists names of `given` that data has to bring, as far as process and network say what they read."""
    drawn = {*of.process.conditions, "augment"}  # by the process and by the augmentation, not by data
    return (*of.process.asks, *(name for name in of.network.reads or () if name not in drawn))


def net(of: Any, params: PyTree, given: dict, **options: Any) -> Network:
    """Closes the network over its parameters and what is given: (x_in, c) -> F, of x as the process shows it."""
    apply = lambda params, given, x, c: of.network.apply(params, x, c, given, **options)
    return of.process.seen(Partial(apply, params, shown(of, given)))


def shown(of: Any, given: dict) -> dict:
    """Leaves out of what is given what the process hides from a network."""
    return {name: value for name, value in given.items() if name not in of.process.hidden}


def check_model(of: Any, params: PyTree, request: Request, given: dict) -> None:
    """Refuses parameters that are not those that the rows of a draw are fitted to; given: of one example, by kind."""
    if request.fitted_to is not None:
        blank = completed(of, jax.random.key(0), jax.tree.map(jnp.zeros_like, given), request.shape)
        request.fitted_to.check(of.guided_denoiser(params, blank, request.chain))


def completed(of: Any, key: Key, given: dict, shape: tuple[int, ...]) -> dict:
    """Completes what the draw of this key is given with what the process draws for it, such as an endpoint."""
    return of.process.given(jax.random.fold_in(jax.random.split(key)[0], 1), given, shape)


def worded(of: Any, words: dict[str, Any], make: Callable[[str, Any], Any]) -> dict[str, Any]:
    """Makes parts of the words of a draw: "nfe" is the grid's number of steps, a number a scale of guidance.

    A number guides by one scale, of all conditions together (`guidance.classifier_free`), whatever guidance the method
    has: of one with two scales both are replaced. Two are given by a spec, {"name": "two_scales", "w": ...}.

    Args:
        make: (name, word) -> part, of any other word.

    Raises:
        ValueError: for guidance by a network that was never trained without its condition.
    """
    words, weight = dict(words), words.get("guidance")
    if isinstance(weight, int | float):
        if not of.condition.share:
            raise ValueError(f"guidance={weight} {denoisers.guidance.NEVER}")
        words["guidance"] = partial(denoisers.guidance.classifier_free, w=float(weight))
    steps = words.pop("nfe", None)  # a maker of grids takes its number as n
    parts = {name: make(name, word) for name, word in words.items()}
    return parts if steps is None else {**parts, "grid": partial(parts.get("grid", of.grid), n=steps)}


def specs(of: Any, names: tuple[str, ...] = ("sampler", "grid")) -> dict[str, dict[str, Any]]:
    """Names the sampler, the grid, ...: {"sampler": {"name", options}, ...}."""
    return {name: spec_of(getattr(of, name)) for name in names}


def how(of: Any) -> str:
    """Says in words, for a report, how samples are made."""
    named = specs(of)
    steps = f" of {named['grid']['n']} steps" if "n" in named["grid"] else ""
    return f"{named['sampler']['name']} on the {named['grid']['name']} grid{steps}"


def spec_of(make: Callable) -> dict[str, Any]:
    """Names what `config.maker` or `functools.partial` made, or a plain function: {"name", options}."""
    if isinstance(make, partial):
        return getattr(make, "spec", None) or {**spec_of(make.func), **make.keywords}
    return {"name": f"{make.__module__.rpartition('.')[2]}.{getattr(make, '__qualname__', repr(make))}"}


def need_alike(theirs: Any, own: Any) -> None:
    """Compares the parts of two methods, of which parameters of the first serve in the second as they are.

    Raises:
        ValueError: for a process, a schedule or a target that is another one.
    """
    said = lambda part: f"{type(part).__name__} on {part.schedule}" if hasattr(part, "schedule") else f"{part}"
    for name in ("process", "target"):
        its, this = (getattr(of, name, None) for of in (theirs, own))
        if its is None and this is not None:
            raise ValueError(
                f"Its parameters stay as they are, but it has no {name} ({type(theirs).__name__}: it is trained for "
                f"something else, such as a codec): give a run whose {name} is {said(this)}."
            )
        if not calculus.same(its, this):
            words = said(this) if said(this) != said(its) else "that with other options"
            raise ValueError(f"Its parameters stay as they are, whose {name} is {said(its)}; this one's is {words}.")
