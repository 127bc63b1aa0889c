"""Who moves in a training step: a method's players, each with an optimizer and an entry of the parameters of its own.

Most methods have one, which is called None: all parameters, moved by the one optimizer.
"""

import jax
import jax.numpy as jnp
import optax

from diffjax.method import Method
from diffjax.types import PyTree

Optimizers = optax.GradientTransformation | dict[str, optax.GradientTransformation]  # one, or one for each who moves


def optimizer_of(optimizer: Optimizers, who: str | None) -> optax.GradientTransformation:
    """Picks the optimizer of a player."""
    return optimizer[who] if isinstance(optimizer, dict) else optimizer  # pyright: ignore[reportArgumentType]


def part(tree: PyTree, who: str | None) -> PyTree:
    """Picks the entry of a player; None is the whole tree."""
    return tree if who is None else tree[who]


def put(tree: PyTree, who: str | None, part: PyTree) -> PyTree:
    """Puts a player's entry in its place; None takes that of the whole tree."""
    return part if who is None else {**tree, who: part}


def check_optimizers(method: Method, optimizer: Optimizers) -> None:
    """Holds the optimizers against the players of a method's turns.

    Raises:
        ValueError: unless there is one for all, where nobody is named, or one for each name, and no other.
    """
    players = sorted({turn.moves for turn in method.turns if turn.moves is not None})
    each = f"optimizer={{{', '.join(f'{name!r}: optax.adam(...)' for name in players)}}}"
    if isinstance(optimizer, dict):
        if not players:
            raise ValueError(f"Got optimizers for {', '.join(optimizer)}, expected one: this method names no players.")
        if set(optimizer) != set(players):
            raise ValueError(f"Got optimizers for {', '.join(optimizer)}, expected one for each player: {each}.")
    elif players:
        raise ValueError(f"Got one optimizer, expected one for each player: {each}.")
    for one in optimizer.values() if isinstance(optimizer, dict) else (optimizer,):
        if not (hasattr(one, "init") and hasattr(one, "update")):
            raise ValueError(f"Got {type(one).__name__} as an optimizer, expected optax's, such as optax.adam(1e-3).")


def check_players(method: Method, params: PyTree) -> None:
    """Holds the first parameters against what a method's turns move.

    Raises:
        ValueError: for a turn that moves what there is not, or a parameter that no gradient moves, such as an integer.
    """
    for turn in method.turns:
        if turn.moves is not None and not (isinstance(params, dict) and turn.moves in params):
            made = ", ".join(params) if isinstance(params, dict) else type(params).__name__
            raise ValueError(f"A turn moves {turn.moves!r}, but init makes parameters of {made}.")
        for path, leaf in jax.tree_util.tree_leaves_with_path(part(params, turn.moves)):
            if not jnp.issubdtype(leaf.dtype, jnp.inexact):
                name = jax.tree_util.keystr(path)
                raise ValueError(f"The parameter {name} is {leaf.dtype}, expected floating-point numbers.")
