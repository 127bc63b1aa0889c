"""Who moves in a training step: a method's players, each with an optimizer and an entry of the parameters of its own.

Most methods have one, which is called None: all parameters, moved by the one optimizer. A player whose turn says by
what it is moved (`Turn.by`) asks a run for none.
"""

import jax
import jax.numpy as jnp
import optax

from diffjax.method import Method
from diffjax.types import PyTree

Optimizers = optax.GradientTransformation | dict[str, optax.GradientTransformation]  # one, or one for each who moves
Who = str | tuple[str, ...] | None  # whom a turn moves: one by name, several at once, or all there is


def names(method: Method) -> tuple[str, ...]:
    """Names the players of a method's turns, each once; none where turns move all parameters by one optimizer."""
    return tuple(dict.fromkeys(name for turn in method.turns for name in movers(turn.moves)))


def movers(who: Who) -> tuple[str, ...]:
    """Names the players that one turn moves; none where it moves all parameters."""
    return () if who is None else (who,) if isinstance(who, str) else tuple(who)


def called(who: Who) -> str:
    """Writes the players of a turn as a word of logs: "critic", or "fake+real" of one that moves both."""
    return "+".join(movers(who))


def optimizer_of(optimizer: Optimizers, who: Who) -> optax.GradientTransformation:
    """Picks the optimizer of a player; of several, makes the one that moves each by its own."""
    if not isinstance(optimizer, dict):
        return optimizer
    return _side_by_side({name: optimizer[name] for name in who}) if isinstance(who, tuple) else optimizer[who]  # pyright: ignore[reportArgumentType]


def own_optimizers(method: Method) -> dict[str, optax.GradientTransformation]:
    """Names the players that a turn moves by an optimizer of its own, with that."""
    return {name: turn.by for turn in method.turns if turn.by is not None for name in movers(turn.moves)}


def with_own(method: Method, optimizer: Optimizers) -> Optimizers:
    """Joins a run's optimizers and those that turns have of their own; one alone is that of the only player left."""
    own = own_optimizers(method)
    if not own:
        return optimizer
    left = [name for name in names(method) if name not in own]
    return {**(optimizer if isinstance(optimizer, dict) else dict.fromkeys(left, optimizer)), **own}


def part(tree: PyTree, who: Who) -> PyTree:
    """Picks the entry of a player, or those of several by name; None is the whole tree."""
    if isinstance(who, tuple):
        return {name: tree[name] for name in who}
    return tree if who is None else tree[who]


def put(tree: PyTree, who: Who, part: PyTree) -> PyTree:
    """Puts what `part` picks in its place; None takes that of the whole tree."""
    if isinstance(who, tuple):
        return {**tree, **part}
    return part if who is None else {**tree, who: part}


def _side_by_side(each: dict[str, optax.GradientTransformation]) -> optax.GradientTransformation:
    """The optimizer of a tree with an entry for each player: entry by entry, so that each clips its own gradient."""

    def init(params: PyTree) -> PyTree:
        return {name: one.init(params[name]) for name, one in each.items()}

    def update(grads: PyTree, state: PyTree, params: PyTree = None) -> tuple[PyTree, PyTree]:
        of = lambda name: None if params is None else params[name]
        done = {}
        for name, one in each.items():
            with jax.named_scope(name):  # rates that two players have in common are two numbers (`constants`)
                done[name] = one.update(grads[name], state[name], of(name))
        return tuple({name: pair[i] for name, pair in done.items()} for i in (0, 1))  # pyright: ignore

    return optax.GradientTransformation(init, update)  # pyright: ignore[reportArgumentType]


def check_optimizers(method: Method, optimizer: Optimizers) -> None:
    """Holds the optimizers against the players of a method's turns.

    Raises:
        ValueError: unless there is one for all, where nobody is named, or one for each name, and no other; a player
            that its turn moves by an optimizer of its own has none of the run's, and where that leaves one player, one
            optimizer is its, where it leaves none, none is: {}. As `check_turns`.
    """
    check_turns(method)
    own = own_optimizers(method)
    players = sorted(name for name in names(method) if name not in own)
    each = f"optimizer={{{', '.join(f'{name!r}: optax.adam(...)' for name in players)}}}"
    if isinstance(optimizer, dict):
        if taken := [name for name in optimizer if name in own]:
            raise ValueError(f"Got an optimizer for {taken[0]}, which the method moves by its own: leave it out.")
        if not players and (optimizer or not own):
            raise ValueError(f"Got optimizers for {', '.join(optimizer)}, expected one: this method names no players.")
        if set(optimizer) != set(players):
            raise ValueError(f"Got optimizers for {', '.join(optimizer)}, expected one for each player: {each}.")
    elif own and not players:
        raise ValueError("Got an optimizer, but every player is moved by one of its turn's own: give {}, no optimizer.")
    elif players and not (own and len(players) == 1):
        raise ValueError(f"Got one optimizer, expected one for each player: {each}.")
    for one in optimizer.values() if isinstance(optimizer, dict) else (optimizer,):
        if not (hasattr(one, "init") and hasattr(one, "update")):
            raise ValueError(f"Got {type(one).__name__} as an optimizer, expected optax's, such as optax.adam(1e-3).")


def check_turns(method: Method) -> None:
    """Refuses turns of a method that move one player by several optimizers: it has that of its turns, or of the run.

    Raises:
        ValueError: for a player that two turns move by two optimizers, a turn that moves all parameters beside one that
            moves some, an optimizer of its own that is none of optax's or moves all parameters.
    """
    by: dict[str, list] = {}
    for turn in method.turns:
        if turn.by is not None and not movers(turn.moves):
            raise ValueError("A turn has an optimizer of its own, but moves all parameters: name the player it moves.")
        if turn.by is not None and not (hasattr(turn.by, "init") and hasattr(turn.by, "update")):
            raise ValueError(
                f"A turn of {called(turn.moves)} has {turn.by!r} as its own optimizer, expected optax's, such as "
                "optax.sgd(1.0)."
            )
        for name in movers(turn.moves):
            by.setdefault(name, []).append(turn.by)
    for name, each in by.items():
        if any(one is not each[0] for one in each):
            of = "by the run's and by its own" if None in each else "by different ones of their own"
            raise ValueError(f"Turns move {name} {of} optimizer, expected one: its state would be of two.")
    if by and any(not movers(turn.moves) for turn in method.turns):
        raise ValueError(f"One turn moves all parameters, another {next(iter(by))}: name the players of every turn.")


def check_players(method: Method, params: PyTree) -> None:
    """Holds the first parameters against what a method's turns move.

    Raises:
        ValueError: for a turn that moves what there is not, or a parameter that no gradient moves, such as an integer;
            as `check_turns`.
    """
    check_turns(method)
    for turn in method.turns:
        for name in movers(turn.moves):
            if not (isinstance(params, dict) and name in params):
                made = ", ".join(params) if isinstance(params, dict) else type(params).__name__
                raise ValueError(f"A turn moves {name!r}, but init makes parameters of {made}.")
        for path, leaf in jax.tree_util.tree_leaves_with_path(part(params, turn.moves)):
            if not jnp.issubdtype(leaf.dtype, jnp.inexact):
                name = jax.tree_util.keystr(path)
                raise ValueError(f"The parameter {name} is {leaf.dtype}, expected floating-point numbers.")
