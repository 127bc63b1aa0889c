"""One number for an example: any network read as a scalar, and the gradient of that scalar as a network's F.

    sum      e = sum of N(x_in)              a critic's logit; the head of a network of one's own
    inner    e = <x_in, N(x_in)> / 2
    square   e = |x_in - N(x_in)|^2 / 2      (Du et al. 2023; an autoencoder's error)

The last two want an N of x_in's shape. Our networks have a last layer of zeros: `sum` and `inner` are 0 with all their
derivatives in x before training, and what learns is that layer.

`gradient` makes of a scalar what predicts noise (kexue 7038): with x_in = x / sqrt(V), V = alpha^2 sigma_data^2 +
sigma^2, and F = de/dx_in as eps = sigma grad E, the energy is

    E(x, t) = e(x_in, c) sqrt(V) / sigma,    p_t ~ exp(-E),

and e begins with (sigma / sqrt(V)) |x_in|^2 / 2, the energy of N(0, sigma_data^2) data at every level: sigma / sqrt(V)
= 1 / sqrt(1 + SNR sigma_data^2) is known from the log-SNR. `square` is multiplied by it, and begins there by itself.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from diffjax import host
from diffjax.models import adapters
from diffjax.models.network import NOTHING, Given, Network
from diffjax.types import Array, Key, PyTree

__all__ = ["critic", "energy"]  # what a config may name

FORMS = ("sum", "inner", "square")
KINKED = ("relu", "relu6", "leaky_relu", "hard_tanh", "hard_sigmoid")  # functions without a second derivative


def scalar(network: Any, form: str = "sum") -> Network:
    """Makes a network of one number out of any network: (params, x, c, given) -> e, of c's shape.

    Args:
        network: a network, or what `models.of` makes one of.
        form: one of `FORMS`, said at the top.

    Raises:
        ValueError: for another form; in `init`, for a network whose F has not x's shape where the form wants that.
    """
    if form not in FORMS:
        raise ValueError(f"There is no form {form!r} of a scalar; there is {', '.join(FORMS)}.")
    of = adapters.of(network)

    def apply(
        params: PyTree, x: Array, c: Array, given: Given = NOTHING, *, train: bool = False, key: Key | None = None
    ) -> Array:
        F = of.apply(params, x, c, given, train=train, key=key)
        each = lambda a: jnp.sum(a, axis=tuple(range(jnp.ndim(c), a.ndim)))
        if form == "sum":
            return each(F)
        if F.shape != x.shape:
            raise ValueError(
                f"The scalar {form!r} is made of a network whose F has x's shape, {x.shape}, but got F of shape "
                f"{F.shape}; take form 'sum', or one map (the model's option `outputs` = 1)."
            )
        return each(x * F) / 2 if form == "inner" else each((x - F) ** 2) / 2

    return of._replace(init=_checked(of.init, apply), apply=apply, merge=None)


def gradient(network: Any, sigma_data: float = 1.0, form: str | None = None) -> Network:
    """Makes the network whose F is the gradient of a scalar: two maps, F = de/dx_in and e itself in every entry.

    `losses.energy` trains it, with the target Eps, and `denoisers.EnergyDenoiser` reads both maps; whatever reads one
    map, every denoiser and sampler, finds F.

    Args:
        network: (params, x_in, c, given) -> e', one number, as `scalar` makes, or what `models.of` makes one of; e is
            e' and the Gaussian's beginning.
        sigma_data: standard deviation of the data, that of the target.
        form: "square" where the scalar is that form: then e is the beginning's factor times e'.

    Raises:
        ValueError: for sigma_data that is not positive; in `init`, for an output that is not one number, or a network
            with an activation of `KINKED`: its gradient is constant between kinks, and training differentiates it.
    """
    host.check_positive("sigma_data", sigma_data, ": the standard deviation of the data")
    of = adapters.of(network)

    def apply(
        params: PyTree, x: Array, c: Array, given: Given = NOTHING, *, train: bool = False, key: Key | None = None
    ) -> Array:
        start = jnp.exp(-0.5 * jax.nn.softplus(c + 2 * jnp.log(sigma_data)))  # sigma / sqrt(V)

        def total(x: Array) -> tuple[Array, Array]:
            e = of.apply(params, x, c, given, train=train, key=key)
            if e.shape != jnp.shape(c):
                raise ValueError(
                    f"An energy is one number for an example, but the network gives shape {e.shape} for x of shape "
                    f"{x.shape}; models.scalar.scalar(network, 'inner') reads it as one."
                )
            begin = jnp.sum(x**2, axis=tuple(range(jnp.ndim(c), x.ndim))) / 2
            e = start * (e if form == "square" else begin) + (0.0 if form == "square" else e)  # (energy.1)
            return jnp.sum(e), e

        F, e = jax.grad(total, has_aux=True)(x)
        e = jnp.broadcast_to(e.reshape(*e.shape, *(1,) * (x.ndim - e.ndim)), x.shape)
        return jnp.concatenate([F, e], axis=-1)

    return of._replace(init=_checked(of.init, apply, of.apply), apply=apply, energy=True, merge=None)


def _check_smooth(program: Any) -> None:
    """Refuses a traced network with an activation of `KINKED`."""
    if kinked := [name for name in KINKED if name in _called(program)]:
        raise ValueError(
            f"An energy is trained by the derivative of its gradient, but the network has {kinked[0]}, which has no "
            "second derivative: take a smooth activation, such as jax.nn.silu or jax.nn.softplus."
        )


def _called(program: Any) -> set[str]:
    """Names of the functions that a traced program calls, at any depth."""
    inner = [value for one in program.eqns for value in one.params.values()]
    programs = [getattr(value, "jaxpr", value) for value in inner]
    names = {one.params["name"] for one in program.eqns if "name" in one.params}
    return names.union(*(_called(each) for each in programs if hasattr(each, "eqns")))


def _checked(
    init: Callable[..., PyTree], apply: Callable[..., Array], smooth: Callable[..., Array] | None = None
) -> Callable[..., PyTree]:
    """`init` that asks for the shape of what `apply` gives, and so for its errors, before anything is computed.

    Args:
        smooth: what has to have two derivatives; None: nothing.
    """

    def checked(key: Key, x: Array, c: Array, given: Given = NOTHING) -> PyTree:
        told = dict(given)
        params = jax.eval_shape(init, key, x, c, told)
        jax.eval_shape(apply, params, x, c, told)
        if smooth is not None:
            _check_smooth(jax.make_jaxpr(smooth)(params, x, c, told).jaxpr)
        return init(key, x, c, given)

    return checked


def critic(of: str, form: str = "sum", **options: Any) -> Network:
    """Makes a critic of a model's name and options: one number for an example.

    Args:
        of: name of a class in `models.__all__`.
        form: one of `FORMS`.
        options: of that model.

    Raises:
        ValueError: for a name that is no model's, an option that it has not, or another form.
    """
    return _critic(_module(of, options), form)


def energy(of: str, form: str = "inner", sigma_data: float = 1.0, **options: Any) -> Network:
    """Makes an energy's network of a model's name and options: maps F = de/dx_in and e, as `gradient` has them.

    Args:
        of: name of a class in `models.__all__`.
        form: one of `FORMS`.
        sigma_data: standard deviation of the data, that of the target.
        options: of that model.

    Raises:
        ValueError: as `critic` and `gradient`.
    """
    return _energy(_module(of, options), form, sigma_data)


@functools.lru_cache(64)
def _critic(module: Any, form: str) -> Network:
    """The network of a module; whoever asks again finds its traces."""
    return scalar(module, form)


@functools.lru_cache(64)
def _energy(module: Any, form: str, sigma_data: float) -> Network:
    return gradient(scalar(module, form), sigma_data, form)


def _module(name: str, options: dict[str, Any]) -> Any:
    from diffjax import models  # which imports this file

    known = [n for n in models.__all__ if isinstance(getattr(models, n), type)]
    if name not in known:
        raise ValueError(f"There is no model {name!r} to read a scalar of; there is {', '.join(known)}.")
    try:
        return getattr(models, name)(**options)
    except TypeError as error:
        raise ValueError(f"{name} cannot be made of {options}: {error}.") from error
