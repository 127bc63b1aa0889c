"""Optimizer, gradient clipping and learning-rate schedule from one flat specification, by optax's own names.

The rate climbs in a straight line from 0 at update 0 to its peak at update `warmup_steps`, where the schedule's decay
starts; `rsqrt` alone counts from update 0, as published.
"""

import functools
import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from types import FunctionType
from typing import Any

import jax
import jax.numpy as jnp
import optax
import optax.contrib

from diffjax import host
from diffjax.host import closest
from diffjax.types import PyTree

Rate = Callable[[Any], Any]  # number of updates applied so far -> learning rate


def constant(peak: float, warmup_steps: int, total_steps: int) -> Rate:
    """Keeps the peak rate for ever."""
    return optax.constant_schedule(peak)


def linear(peak: float, warmup_steps: int, total_steps: int, final: float = 0.0) -> Rate:
    """Falls from the peak to `final` times the peak in a straight line, at `total_steps`."""
    return optax.linear_schedule(peak, final * peak, total_steps - warmup_steps)


def cosine(peak: float, warmup_steps: int, total_steps: int, final: float = 0.0) -> Rate:
    """Falls from the peak to `final` times the peak along half a cosine (Loshchilov and Hutter 2017, eq. 5)."""
    return optax.cosine_decay_schedule(peak, total_steps - warmup_steps, final)


def exponential(peak: float, warmup_steps: int, total_steps: int, final: float = 0.01) -> Rate:
    """Falls from the peak to `final` times the peak geometrically."""
    return optax.exponential_decay(peak, total_steps - warmup_steps, final, end_value=final * peak)


def rsqrt(peak: float, warmup_steps: int, total_steps: int, decay_start: int | None = None) -> Rate:
    """Falls as peak / sqrt(max(n / decay_start, 1)) after n updates (Karras et al. 2024, section 3.2).

    decay_start: number of updates, warmup_steps by default.
    """
    start = max(warmup_steps, 1) if decay_start is None else decay_start
    if start < max(warmup_steps, 1):
        raise ValueError(f"Got decay_start = {start}, expected at least 1 and the warm-up's {warmup_steps} steps.")
    # `join_schedules` counts from the end of the warm-up.
    return lambda n: peak / jnp.sqrt(jnp.maximum((n + warmup_steps) / start, 1))  # (optimizers.1)


SCHEDULES: dict[str, Callable[..., Rate]] = {f.__name__: f for f in (constant, linear, cosine, exponential, rsqrt)}


def build_optimizer(spec: Mapping[str, Any], total_steps: int) -> tuple[optax.GradientTransformation, Rate]:
    """Builds the optimizer of a specification, and its learning rate as a function of the updates applied so far.

    Args:
        spec: `name`, an optimizer of optax ("adamw", "lion", "contrib.muon", ...) or one's own ("mypkg.rules:mine", a
            function of `learning_rate`), and `learning_rate`, the peak.
            Optional: `schedule`, a name of SCHEDULES ("constant"), with its `final` or `decay_start`; `warmup_steps`
            (0); `plans` of a run whose rate was changed (`resume`), each of them these entries, the updates that it
            `begins` and `ends` at, and the one `until` which it holds, None in the last; `clip_norm`, the global L2
            norm that gradients are scaled down to (None: no clipping); `mask_1d` (False): spare biases and norm scales,
            all parameters of fewer than two axes, from weight decay and from the trust ratio of lamb and lars, as both
            were published. The rest is passed to the optax function.
        total_steps: updates in the whole run, where the decay ends.

    Raises:
        ValueError: for an unknown name or argument, or a value out of range; says what there is.
    """
    spec = dict(spec)
    if missing := [name for name in ("name", "learning_rate") if spec.get(name) is None]:
        raise ValueError(
            f"The optimizer's specification lacks {', '.join(missing)}; it has {', '.join(map(str, spec))}."
        )
    name, clip_norm, mask_1d = spec.pop("name"), spec.pop("clip_norm", None), spec.pop("mask_1d", False)
    make = host.imported(name)[1] if ":" in name else _lookup("optimizer", name, _optimizers())
    schedule = _schedule(spec, total_steps)
    allowed = inspect.signature(make).parameters
    if unknown := [key for key in spec if key not in allowed]:
        names = [n for n in allowed if n != "learning_rate"]
        raise ValueError(
            f"Optimizer {name!r} takes no {unknown[0]!r}{_meant(unknown[0], names)}; it takes {', '.join(names)}."
        )
    if mask_1d:
        spec |= dict.fromkeys(_mask_names(name, allowed), matrices)
    if clip_norm is not None and not clip_norm > 0:
        raise ValueError(f"Got clip_norm = {clip_norm}, expected a positive number, or None for no clipping.")
    optimizer = _dry_run(name, make, {**spec, "learning_rate": schedule})
    if clip_norm is not None:
        optimizer = optax.chain(optax.clip_by_global_norm(clip_norm), optimizer)
    return optax.GradientTransformation(_standard(optimizer.init), _standard(optimizer.update)), schedule


def lamb(
    learning_rate: Any,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-6,
    eps_root: float = 0.0,
    weight_decay: float = 0.0,
    mask: Any = None,
    trust_ratio_mask: Any = True,
) -> optax.GradientTransformation:
    """Makes `optax.lamb` (You et al. 2020, algorithm 2) with a mask for its trust ratio too, as `optax.lars` has one.

    Parameters outside the mask take the step of Adam, without |theta| / |r|: a bias that starts at 0 has no scale yet.
    """
    return optax.chain(
        optax.scale_by_adam(b1, b2, eps, eps_root),
        optax.add_decayed_weights(weight_decay, mask),
        optax.masked(optax.scale_by_trust_ratio(), trust_ratio_mask),  # (optimizers.2)
        optax.scale_by_learning_rate(learning_rate),
    )


def matrices(params: PyTree) -> PyTree:
    """Marks the parameters with two axes or more: those that weight decay and trust ratios are for."""
    return jax.tree.map(lambda p: jnp.ndim(p) > 1, params)


def _schedule(spec: dict[str, Any], total_steps: int) -> Rate:
    """Builds the learning rate's schedule from its entries in `spec`, which are taken out."""
    plans, peak = spec.pop("plans", ()), spec["learning_rate"]
    whole = _one_schedule(spec, total_steps)
    if not plans:
        return whole
    made = [_one_schedule({"learning_rate": peak, **_entries(plan)}, plan["ends"] - plan["begins"]) for plan in plans]

    def rate(n: Any) -> Any:
        value = made[-1](n - plans[-1]["begins"])
        for plan, one in zip(plans[-2::-1], made[-2::-1], strict=True):
            value = jnp.where(n < plan["until"], one(n - plan["begins"]), value)
        return value

    return rate


def _entries(plan: Mapping[str, Any]) -> dict[str, Any]:
    """Takes from a plan what describes its rate; a `peak` is there where the optimizer has none of its own."""
    entries = {name: value for name, value in plan.items() if name not in ("begins", "ends", "until", "peak")}
    return {**entries, **({"learning_rate": plan["peak"]} if "peak" in plan else {})}


def _one_schedule(spec: dict[str, Any], total_steps: int) -> Rate:
    peak, name, warmup = spec.pop("learning_rate"), spec.pop("schedule", "constant"), spec.pop("warmup_steps", 0)
    decay = _lookup("schedule", name, SCHEDULES)
    if not 0 < peak < math.inf:
        raise ValueError(f"Got learning_rate = {peak}, expected a positive number.")
    if not 0 <= warmup < total_steps:
        raise ValueError(
            f"Got warmup_steps = {warmup}, expected 0 <= warmup_steps < {total_steps}, the steps of the run."
        )
    options = {key: spec.pop(key) for key in ("final", "decay_start") if key in spec}
    if unknown := [key for key in options if key not in inspect.signature(decay).parameters]:
        raise ValueError(f"Schedule {name!r} takes no {unknown[0]!r}; `final` is for linear, cosine and exponential, "
                         "`decay_start` for rsqrt.")  # fmt: skip
    if not 0 <= options.get("final", 0) <= 1:
        raise ValueError(f"Got final = {options['final']}, expected a fraction of the peak, between 0 and 1.")
    after = decay(peak, warmup, total_steps, **options)
    return _standard(
        optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), after], [warmup]) if warmup else after
    )


def _optimizers() -> dict[str, Callable]:
    """Collects all of optax that takes a learning rate, by its name there; lamb with one more mask."""
    spaces = {"": vars(optax), "contrib.": vars(optax.contrib)}
    named = {prefix + name: f for prefix, space in spaces.items() for name, f in sorted(space.items())}
    functions = {name: f for name, f in named.items() if isinstance(f, FunctionType | functools.partial)}
    public = {name: f for name, f in functions.items() if not name.split(".")[-1].startswith(("_", "scale_by_"))}
    return {name: f for name, f in public.items() if "learning_rate" in inspect.signature(f).parameters} | {
        "lamb": lamb
    }


def _mask_names(name: str, allowed: Mapping[str, Any]) -> list[str]:
    masks = [key for key in ("mask", "weight_decay_mask", "trust_ratio_mask") if key in allowed]
    if not masks:
        raise ValueError(f"Got mask_1d = True, but optimizer {name!r} takes no mask; adamw, lion and lamb do.")
    return masks


def _dry_run(name: str, make: Callable, arguments: dict[str, Any]) -> optax.GradientTransformation:
    """Makes the optimizer and tries one abstract update: some need more than a gradient, better said before the run."""
    for key, value in arguments.items():
        usual = inspect.signature(make).parameters[key].default
        if isinstance(value, str) and isinstance(usual, int | float):
            raise ValueError(f"Optimizer {name!r}: {key} is {value!r}, expected a number, such as {usual}.")
    params = {"w": jax.ShapeDtypeStruct((2, 2), jnp.float32), "b": jax.ShapeDtypeStruct((2,), jnp.float32)}
    try:
        optimizer = make(**arguments)
        jax.eval_shape(_standard(lambda p: optimizer.update(p, optimizer.init(p), p)), params)
    except TypeError as error:
        raise ValueError(f"Optimizer {name!r} cannot run on gradients alone with these arguments: {error}") from error
    return optimizer


def _standard(function: Callable) -> Callable:
    """Lifts JAX's strict promotion in a call: optax multiplies integer counts by floats, which strictness forbids."""

    def call(*args: Any) -> Any:
        with jax.numpy_dtype_promotion("standard"):
            return function(*args)

    return call


def _lookup(kind: str, name: str, table: Mapping[str, Callable]) -> Callable:
    if name not in table:
        raise ValueError(f"There is no {kind} {name!r}{_meant(name, table)}; there are {', '.join(table)}.")
    return table[name]


def _meant(name: str, names: Iterable[str]) -> str:
    close = closest(name, names)
    return "" if close is None else f", did you mean {close!r}?"
