"""The numbers of a function become its arguments, so that functions which differ in numbers alone share one program.

    lifted, numbers = lift(step, state, batch)      lifted(numbers, state, batch) == step(state, batch)

A learning rate, Adam's betas or the weight of a loss stand in a traced function as literals, and XLA compiles them in:
a sweep of ten rates would compile ten times. Lifted, the ten have one text, which is compiled once and found again by
jax's cache (`programs`). Of what the function calls by `jax.jit`, such as a network, the numbers stay where they are.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal, Var

from diffjax.types import PyTree

KEPT = (0.0, 1.0, -1.0, 0.5, 2.0)  # by which XLA simplifies what it compiles


def lift(function: Callable[..., PyTree], *args: PyTree) -> tuple[Callable[..., PyTree], list[Any]]:
    """Makes `lifted(numbers, *args)` of a function, and its numbers: float literals, and arrays that it closes over.

    Args:
        args: trees of arrays, or their shapes and dtypes; `lifted` takes such.
    """
    closed, shape = jax.make_jaxpr(function, return_shape=True)(*args)
    program, structure = closed.jaxpr, jax.tree.structure(shape)
    found: dict[Any, tuple[Var, np.ndarray]] = {}

    def lifted_of(atom: Any, equation: Any) -> Any:
        kind: Any = atom.aval
        if not isinstance(atom, Literal) or np.ndim(atom.val) or not jnp.issubdtype(kind.dtype, jnp.floating):
            return atom
        value = np.asarray(atom.val, kind.dtype)
        if float(value) in KEPT or np.isnan(value):
            return atom
        return found.setdefault((float(value), value.dtype, _place(equation)), (Var(kind), value))[0]

    equations = [one.replace(invars=[lifted_of(atom, one) for atom in one.invars]) for one in program.eqns]
    results = [lifted_of(atom, None) for atom in program.outvars]
    names, values = [var for var, _ in found.values()], [value for _, value in found.values()]
    program = program.replace(constvars=[*program.constvars, *names], eqns=equations, outvars=results)

    def lifted(numbers: list[Any], *args: PyTree) -> PyTree:
        return jax.tree.unflatten(structure, jax.core.eval_jaxpr(program, numbers, *jax.tree.leaves(args)))

    return lifted, [*closed.consts, *values]


def _place(equation: Any) -> Any:
    """The lines of code that an equation comes from: one number that they use for each of many parameters is one.

    Two that are equal by chance, a rate and a decay, are two: with other rates the program would be another. So are
    those of two players, whom the same lines move under a `jax.named_scope` for each.
    """
    source = getattr(equation, "source_info", None)  # None of what a function gives back as it is
    frames = getattr(getattr(source, "traceback", None), "frames", None) or ()
    scopes = str(getattr(source, "name_stack", ""))
    return scopes, tuple((frame.file_name, frame.line_num) for frame in frames)
