"""Training that starts from the parameters of another run: which are taken over, and which are trained.

A leaf is named by its path, as `show` lists it: "conv_out/kernel". A network with more outputs than the one it starts
from (`models.UNet.outputs`) takes over the first of them; the others begin as they were initialised. A network that is
told more, a second time (`gap`), an augmentation or a label, begins with zeros there: what it is told changes nothing
yet. The base of a network with a side (`models.side`) is the whole network of the run it starts from, and is told what
that was told: it is frozen, and what begins at zeros would stay there.
"""

import inspect
import os
import re
from typing import Any

import jax
import jax.numpy as jnp
import optax

from diffjax.specs import ConfigError, nearest
from diffjax.types import PyTree

CARRIED = ("parameters", "state")  # what train.carry takes of the run at train.start

# Linear, without a bias, and a table that is added: zeros say nothing.
TOLD = re.compile(r"(^|/)embedding/((gap|augment)/kernel|label/embedding)$")


def take_over(params: PyTree, given: PyTree) -> PyTree:
    """Puts the leaves of `given` in the place of those of `params`; layers of what only these are told are zeros.

    Of players of one network each, every one whose leaves are named as those of `given` takes them over; the others
    begin as they were initialised. So does the base of a network with a side, whose parameters are {"base", "side"}.

    Raises:
        ValueError: for a leaf that only one of them has, or whose shapes differ otherwise than by a longer last axis;
            for a frozen base that is told what the one it starts from was not.
    """
    old = {_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(given)}
    names = _names(params)
    alike = lambda own: own >= set(old) and all(map(TOLD.search, own - set(old)))
    sided = isinstance(params, dict) and set(params) == {"base", "side"}  # `models.side`
    if sided and (alike(_names(params["base"])) or alike(names)):
        _check_told(_names(params["base"]) - {name.removeprefix("base/") for name in old})
    players = [who for who, own in params.items() if alike(_names(own))] if isinstance(params, dict) else []
    if players:
        return {**params, **{who: take_over(params[who], given) for who in players}}
    sided = sided and not alike(names)
    names = _names(params["base"]) if sided else names
    if not alike(names) and (alone := sorted(set(old) ^ {n for n in names if n in old or not TOLD.search(n)})):
        own = "this network's base" if sided else "this network"
        where = own if alone[0] in names else "the one it starts from"
        raise ValueError(f"Only {where} has the parameter {alone[0]}; their models must be alike.")

    def place(path: Any, leaf: Any) -> Any:
        if _name(path) not in old:
            return jnp.zeros_like(leaf)
        taken = old[_name(path)]
        *lead, last = (*leaf.shape,) or (1,)
        if taken.shape == leaf.shape:
            return jnp.asarray(taken, leaf.dtype)
        if not leaf.shape or taken.shape[:-1] != tuple(lead) or taken.shape[-1] > last:
            raise ValueError(
                f"The parameter {_name(path)} has shape {leaf.shape}, in the network it starts from {taken.shape}; "
                "only the outputs of the last layer may grow."
            )
        return jnp.asarray(leaf).at[..., : taken.shape[-1]].set(jnp.asarray(taken, leaf.dtype))

    return jax.tree_util.tree_map_with_path(place, params)


def trained(params: PyTree, only: str | None) -> PyTree:
    """Marks the leaves that are trained: those whose path has a match of the regular expression `only`; None: all.

    Raises:
        ValueError: for a pattern that is none, or that no path has.
    """
    try:
        pattern = re.compile(only or "")
    except re.error as error:
        raise ValueError(f"train.only is {only!r}, expected a regular expression: {error}.") from error
    mask = jax.tree_util.tree_map_with_path(lambda path, _: bool(pattern.search(_name(path))), params)  # (finetune.2)
    if not any(jax.tree.leaves(mask)):
        names = sorted({_name(path).split("/")[0] for path, _ in jax.tree_util.tree_leaves_with_path(params)})
        raise ValueError(f"train.only is {only!r}, which no parameter's path has; they begin with {', '.join(names)}.")
    return mask


def freeze(params: PyTree, only: str | None) -> PyTree:
    """Stops the gradient of `params` but for leaves that are trained, so that nothing is computed for the others."""
    if only is None:
        return params
    return jax.tree.map(
        lambda leaf, train: leaf if train else jax.lax.stop_gradient(leaf), params, trained(params, only)
    )


def frozen(optimizer: optax.GradientTransformation, only: str | None) -> optax.GradientTransformation:
    """Wraps the optimizer so that its updates, weight decay too, leave the leaves that are not trained as they are."""
    if only is None:
        return optimizer
    rest = lambda params: jax.tree.map(lambda train: not train, trained(params, only))
    return optax.chain(optimizer, optax.masked(optax.set_to_zero(), rest))  # (finetune.1)


def taken(network: Any, train: Any, players: tuple[str, ...] = ()) -> str | None:
    """Tells what a config takes of the run at train.start, one of `CARRIED`; None: it has no start.

    Args:
        network, train, players: as of `check_side`; train has carry too.

    Raises:
        ConfigError: as `check_side`, for another carry, and for what is of use with a start alone.
    """
    check_side(network, train, players)
    if train.carry not in CARRIED:
        raise ConfigError(f"train.carry is {train.carry!r}: {nearest(train.carry, CARRIED)}.")
    for field, default in (("only", None), ("carry", CARRIED[0])):
        if train.start is None and train[field] != default:
            raise ConfigError(
                f"train.{field} is {train[field]!r}, but there is no run to begin from: "
                "set train.start to the workdir of the run, or to its weights file."
            )
    return None if train.start is None else train.carry


def check_start(start: Any, run: type) -> Any:
    """Gives the `start` of a Trainer: where a run is, a run, or a function of the first parameters, which is checked.

    Args:
        run: the class of a run.

    Raises:
        ConfigError: for anything else; when the function is called, for parameters that are not alike the first.
    """
    ways = "a run, its workdir or weights file, or a function of the first parameters"
    if start is None or isinstance(start, str | os.PathLike | run):
        return start
    if not callable(start):
        raise ConfigError(f"start is of type {type(start).__name__}, expected {ways}.")
    try:
        inspect.signature(start).bind(None)
    except TypeError as error:
        such = "such as lambda params: {**params, 'base': base.params}"
        raise ConfigError(f"start is no function of one argument ({error}), expected {ways}, {such}.") from error
    except ValueError:  # of no signature: it is tried
        pass
    return lambda params: _like(start(params), params)


def _like(made: PyTree, params: PyTree) -> PyTree:
    shapes = lambda tree: {_name(path): jnp.shape(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
    got, own = shapes(made), shapes(params)
    for name in sorted(got.keys() | own.keys()):
        if got.get(name) != own.get(name):
            what = [f"{name} of shape {each[name]}" if name in each else f"no {name}" for each in (got, own)]
            raise ConfigError(
                f"start gives {what[0]}, but the network has {what[1]}: give all of its parameters, as in lambda "
                "params: {**params, 'base': base.params}, or the run itself."
            )
    return made


def check_based(network: Any) -> None:
    """Refuses a network with a side whose base is no run's, in a Trainer of objects.

    Raises:
        ConfigError: saying what to give.
    """
    if kind := getattr(network, "side", ""):
        raise ConfigError(
            f"The network is a base and a side ({kind}), but start is None: give start=, the run of the base or its "
            "workdir or weights file, or the base is random; and finetune.frozen(optimizer, '^side/') as the "
            "optimizer, or weight decay moves the base."
        )


def check_side(network: Any, train: Any, players: tuple[str, ...] = ()) -> None:
    """Holds what a run says of its training against its network: a base at a side is a run's, and stands still.

    Args:
        network: `models.Network`, or None.
        train: the config's, with start and only; players have no `only`.

    Raises:
        ConfigError: for a network with a side without either.
    """
    needs = ("start",) if players else ("start", "only")
    missing = [name for name in needs if train[name] is None]
    if missing and (kind := getattr(network, "side", "")):
        raise ConfigError(
            f"The network is a base and a side ({kind}), but train.{missing[0]} is None: set train.start to the run of "
            "the base, which would be random else, and train.only=^side/, or weight decay moves the base."
        )


def _check_told(more: set[str]) -> None:
    for what, named in (("label", "a table of labels"), ("gap", "a layer of gap"), ("augment", "a layer of augment")):
        if any(f"embedding/{what}/" in name for name in more):
            do = "set model.classes, not model.base.classes" if what == "label" else f"leave model.base.{what} out"
            raise ValueError(
                f"The base has {named}, the run it starts from has none, and a frozen base learns none: {do}."
            )


def _names(params: PyTree) -> set[str]:
    return {_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)}


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")
