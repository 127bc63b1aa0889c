"""Samples that begin with a real example, or end in what was seen of one.

SDEdit (Meng et al. 2021, section 3): an example is destroyed up to a time t by its process and walked back from there,
so that it keeps what noise of that time leaves of it. A strength s puts t at s times the grid's first time: exactly
there, with the grid's times below it as they are. s is a share of time, as the paper's t_0, and how much is left at
s = 0.5 depends on the schedule: alpha / sigma of that time.

    s = 0     the example itself: no noise, no evaluation
    s = 1     a sample of its seed: it starts from the process's prior, and has forgotten the example. Just below 1
              x_t keeps alpha_T x_0, which the prior leaves out as it does for every sample

The law is that of x_0' given x_t given x_0: on Gaussian data it is known (tests/test_editing.py).

Linear inverse problems: a walk with the denoiser of p(x_0 | y), y = A x_0 + r n (`denoisers.inverse`, which has the
methods and their bias).
"""

import inspect
import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffjax import calculus, samplers
from diffjax.denoisers import inverse
from diffjax.types import Array, Key, PyTree, Schedule, as_pytree

CLOSE = 1e-6  # of a time: grid times so near below the start are left out, since float32 cannot tell the two apart
START = 5.0  # sigma / alpha where restorations begin: above, a network's errors are multiplied (experiments/inverse)
FAR = 10.0  # times what A x of images in range reaches: larger observations are of another range
LOOKED = 1024  # training examples whose variance is measured


class Edited(NamedTuple):
    """What an edit made.

    Attributes:
        x: (n, *shape), in the data's units.
        noised: x_t that each walk began at, likewise.
        t: the time, of `whole`, where the grid begins.
        level: sigma / alpha there.
        evaluations: of the denoiser, for each.
    """

    x: np.ndarray
    noised: np.ndarray
    t: float
    whole: float
    level: float
    evaluations: int

    def said(self, x: np.ndarray, dataset: Any) -> str:
        """Says in a line what was done to the examples x, and how far the results are from them."""
        level = "no noise" if self.level == 0 else f"sigma / alpha = {self.level:.4g}"
        return (
            f"{len(x)} examples noised to t = {self.t:.4g} of {self.whole:.4g} ({level}) and walked back in "
            f"{self.evaluations} evaluations each: {_apart(self.x, x, dataset)} from the input"
        )


class Restored(NamedTuple):
    """What a restoration made.

    Attributes:
        x: (n, *shape), in the data's units.
        residual: (n,) root mean square of A x - y, in the units of y.
        evaluations: of the denoiser, for each.
    """

    x: np.ndarray
    residual: np.ndarray
    evaluations: int

    def said(self, x: np.ndarray, y: np.ndarray, operator: Any, degraded: np.ndarray, dataset: Any) -> str:
        """Says in a line how well the results agree with what was seen, y, and with the examples x that it is of."""
        own = rms(np.asarray(jax.jit(jax.vmap(as_pytree(operator)))(x)) - y)
        return (
            f"{len(x)} examples in {self.evaluations} evaluations each: A x - y {rms(self.residual):.4g} (of the "
            f"inputs {own:.4g}); {_apart(self.x, x, dataset)} from the inputs (what was seen: "
            f"{_apart(degraded, x, dataset)})"
        )


def check_strength(strength: Any) -> float:
    """Gives the strength of an edit as a float; raises a ValueError unless it is a number in [0, 1]."""
    number = isinstance(strength, int | float | np.number) and not isinstance(strength, bool)
    if not number or not 0 <= strength <= 1:
        raise ValueError(
            f"strength is {strength!r}, expected a number from 0 (the example itself) to 1 (a sample that has "
            "forgotten it)."
        )
    return float(strength)


def below(ts: Any, t: float) -> np.ndarray:
    """Cuts a grid (N + 1,) to the walk from time t: t itself, then the grid's times below it.

    Raises:
        ValueError: where the grid ends at t or above it, and has no step below.
    """
    rest = np.asarray(ts, np.float64)
    rest = rest[rest < t * (1 - CLOSE)]
    if not rest.size:
        raise ValueError(
            f"The walk is to begin at t = {t:g}, but the grid ends at {float(np.asarray(ts)[-1]):g}: take a larger "
            "strength, or a grid that ends at 0 (zero=True)."
        )
    return np.append(t, rest)


def edit(run: Any, x: Any, strength: Any, seeds: Iterable[int], given: dict[str, Any]) -> Edited:
    """Edits examples by a run (`runs.Run.edit`, which says more).

    Args:
        run: with the parts `process`, `grid`, `sampler`, `guided_denoiser`.
        x: (n, *shape), in the data's units.
        seeds: (n,) of the noise.
        given: what the walks are told, leaves (n, ...).

    Raises:
        ValueError: for a strength outside [0, 1], a process whose x_t depends on more than x_0, or as `below`.
    """
    of, strength, seeds = run.method.parts, check_strength(strength), list(seeds)
    _check_process(of.process, "Editing")
    x = examples(run.data, x, len(seeds))
    schedule, ts = of.schedule, np.asarray(of.grid(of.schedule), np.float64)
    t, whole = strength * float(ts[0]), float(ts[0])
    if strength == 0:
        return Edited(x, x, 0.0, whole, _level(schedule, 0.0), 0)
    cut = ts if strength == 1 else below(ts, t)
    method = of._replace(grid=partial(_as_planned, cut)).method()
    request = method.plan(run.data.shape)

    def start(request: Any, key: Key, x0: Array) -> Array:
        key_prior, _ = jax.random.split(key)  # as a sample of this seed does
        if strength == 1:
            return of.process.prior(key_prior, run.data.shape, request.start)
        u0 = of.process.enter(x0)
        return of.process.corrupt(u0, of.process.noise(key_prior, u0), request.start)  # (sdedit.1)

    def one(shared: tuple[PyTree, Any], own: tuple[Key, dict, Array]) -> tuple[Array, Array]:
        (params, request), (key, given, x0) = shared, own
        begun, leave = start(request, key, x0), of.process.leave
        return leave(_walk(of, of.guided_denoiser(params, given, request.chain), request, key, begun)), leave(begun)

    to_units = (lambda x: x) if run.data.units is None else run.data.units.to_units
    found, begun = run.mapped(one)((run.params, request), (_keys(seeds), given, to_units(x)))
    back = run.data.to_data
    return Edited(back(found), back(begun), t, whole, _level(schedule, t), samplers.nfe(request.walk))


def restore(
    run: Any,
    y: Any,
    operator: Callable[[Array], Array],
    seeds: Iterable[int],
    given: dict[str, Any],
    noise: Any = 0.0,
    by: Callable[..., Any] = inverse.pigdm,
    start: float | None = START,
) -> Restored:
    """Draws what observations y = A x + noise n were made of (`runs.Run.restore`, which says more).

    Args:
        y: (n, ...) of the operator's shape, or one for all seeds.
        operator: x -> A x, linear, of one example in the data's units.
        by: (denoiser, observation) -> denoiser, such as those of `denoisers.inverse`; where it takes the data's
            variance, v, and none is given, that of training examples.
        start: sigma / alpha where walks begin, if the grid begins above it; None: where the grid begins.

    Raises:
        ValueError: for an observation that the operator does not give, noise that is negative, a process whose x_t
            depends on more than x_0, or what `by` refuses.
    """
    of, seeds, shape = run.method.parts, list(seeds), looked_at(run.data)
    _check_process(of.process, "Restoring")
    calculus.need_scalar(of.schedule, "Restoring, which looks at pixels,")
    linear = as_pytree(operator)
    seen = jax.eval_shape(linear, jax.ShapeDtypeStruct(shape, jnp.float32)).shape
    y = _spread("y", y, seen, len(seeds))
    noise = check_noise(noise)
    inverse.observe(linear, y[0], shape, noise)
    check_observation(run.data, y, linear, noise)
    schedule, ts = of.schedule, np.asarray(of.grid(of.schedule), np.float64)
    begun = _start(schedule, ts, start)
    method = of._replace(grid=partial(_as_planned, ts if begun is None else below(ts, begun))).method()
    request, conditioned = method.plan(shape), _with_variance(by, run.data)
    mean, scale = (0.0, 1.0) if run.data.units is None else run.data.units.affine
    offset = jnp.broadcast_to(jnp.asarray(mean, jnp.float32), shape)
    scaled = jax.tree_util.Partial(_scaled, linear, jnp.broadcast_to(jnp.asarray(scale, jnp.float32), shape))

    def one(shared: tuple[Any, ...], own: tuple[Key, dict, Array]) -> tuple[Array, Array]:
        (params, request, linear, scaled, offset), (key, given, y) = shared, own
        observation = inverse.Observation(scaled, y - linear(offset), noise)
        denoise = conditioned(of.guided_denoiser(params, given, request.chain), observation)
        key_prior, _ = jax.random.split(key)
        x = _walk(of, denoise, request, key, of.process.prior(key_prior, shape, request.start))
        return x, jnp.sqrt(jnp.mean(observation.residual(x) ** 2))

    shared = (run.params, request, linear, scaled, offset)
    x, residual = run.mapped(one)(shared, (_keys(seeds), given, y))
    return Restored(run.data.to_data(x), residual, samplers.nfe(request.walk))


def examples(dataset: Any, x: Any, n: int) -> np.ndarray:
    """Spreads examples in the data's units, (n, *shape) or one for all, to (n, *shape) float32.

    Bytes are pixels 0 .. 255; floats are as the data is, images in [-1, 1], of which half a width more is taken.

    Raises:
        ValueError: for another shape or number, entries that are no finite numbers, or images of another range.
    """
    x = np.asarray(x)
    found = _spread("x", x.astype(np.float32) / 127.5 - 1 if x.dtype == np.uint8 else x, dataset.seen_shape, n)
    dataset.check_range("x", found)
    return found


def looked_at(dataset: Any) -> tuple[int, ...]:
    """Gives the shape of the examples that an operator looks at.

    Raises:
        ValueError: for a run of codes, whose axes are not those of the examples.
    """
    if dataset.units is not None:
        _ = dataset.units.affine  # of a codec there is none
    return dataset.shape


def check_observation(dataset: Any, y: np.ndarray, operator: Callable[[Array], Array], noise: float) -> None:
    """Refuses observations (n, ...) that are far too large to be A x of images x in the data's range, such as 0 .. 255.

    How far A x goes is looked at on images that are flat, at both ends of the range, and on images of both ends at
    random; FAR times as much, beside the noise, is no such observation whatever the operator.

    Raises:
        ValueError: naming both.
    """
    if (span := dataset.span()) is None:
        return
    rng, shape = np.random.default_rng(0), (2, *dataset.shape)
    flat, mixed = np.ones(shape) * np.reshape(span, (2, *[1] * (len(shape) - 1))), rng.choice(span, shape)
    reach = float(np.abs(jax.jit(jax.vmap(operator))(np.concatenate([flat, mixed]).astype(np.float32))).max())
    most = float(np.abs(y).max())
    if most > FAR * (reach + noise) > 0:
        raise ValueError(
            f"y reaches {most:.4g}, but A x of {dataset.name}, in [{span[0]:.4g}, {span[1]:.4g}], about {reach:.4g}: "
            "give y of x in that range (pixels 0 .. 255: A of x / 127.5 - 1)."
        )


def psnr(x: Any, truth: Any, width: float) -> float:
    """Computes the peak signal-to-noise ratio in dB, of the mean squared error over all; infinite where there is none.

    Args:
        width: of the range of the data: 2 of pixels in [-1, 1].
    """
    error = float(np.mean((np.asarray(x, np.float64) - np.asarray(truth, np.float64)) ** 2))
    return math.inf if error == 0 else 10 * math.log10(width**2 / error)


def rms(x: Any) -> float:
    """Computes the root mean square of all entries, in float64."""
    return float(np.sqrt(np.mean(np.asarray(x, np.float64) ** 2)))


def _apart(x: Any, truth: np.ndarray, dataset: Any) -> str:
    """Says how far examples are from others, as root mean square and beside the range of the training data."""
    seen = dataset.to_data(dataset.some("train", LOOKED).x)
    return f"{rms(x - truth):.4g} (PSNR {psnr(x, truth, float(seen.max()) - float(seen.min())):.1f} dB)"


def _spread(name: str, x: Any, shape: tuple[int, ...], n: int) -> np.ndarray:
    x = np.asarray(x)
    if not np.issubdtype(x.dtype, np.floating) or not np.all(np.isfinite(x)):
        raise ValueError(f"{name} is {x.dtype} of shape {x.shape}, expected finite floating numbers.")
    if x.shape not in (tuple(shape), (n, *shape)):
        raise ValueError(f"{name} has shape {x.shape}, expected {tuple(shape)} for all seeds, or {(n, *shape)}.")
    return np.broadcast_to(x.astype(np.float32), (n, *shape))


def _check_process(process: Any, what: str) -> None:
    if process.conditions:
        raise ValueError(
            f"{what} is for processes whose x_t depends on x_0 and noise alone; this one's depends on "
            f"{', '.join(process.conditions)} too: draw samples of it instead."
        )


def check_noise(noise: Any) -> float:
    """Gives the standard deviation of an observation's noise as a float; a ValueError unless it is a number >= 0."""
    if isinstance(noise, bool) or not isinstance(noise, int | float | np.number) or not 0 <= noise < np.inf:
        raise ValueError(f"noise is {noise!r}, expected the standard deviation of y's noise, a number >= 0.")
    return float(noise)


def observed(operator: Any, x: Any, noise: Any, seeds: Iterable[int]) -> np.ndarray:
    """Observes examples x (n, *shape): A x + noise n, the noise by seeds, apart from what their walks draw.

    Raises:
        ValueError: for noise that is no number >= 0.
    """
    noise, apply = check_noise(noise), as_pytree(operator)

    def one(key: Key, x: Array) -> Array:
        y = apply(x)
        return y + noise * jax.random.normal(jax.random.fold_in(key, 1), y.shape, y.dtype)

    return np.asarray(jax.jit(jax.vmap(one))(_keys(list(seeds)), jnp.asarray(x)))


def _as_planned(ts: np.ndarray, schedule: Schedule) -> np.ndarray:
    return ts


def _start(schedule: Schedule, ts: np.ndarray, level: float | None) -> float | None:
    """Finds the time where sigma / alpha is `level`; None where the grid begins below it, or is to begin as it does."""
    if level is None or not _level(schedule, float(ts[0])) > level:
        return None
    if not level > 0:
        raise ValueError(f"start is {level}, expected a positive sigma / alpha where walks begin, or None.")
    return float(calculus.time_of(schedule, -2 * np.log(level)))


def _level(schedule: Schedule, t: float) -> float:
    (alpha,), (sigma,) = calculus.amplitudes(schedule, [t])
    return float(sigma / alpha) if alpha > 0 else math.inf


def _with_variance(by: Callable[..., Any], dataset: Any) -> Callable[..., Any]:
    own, told = inspect.signature(by).parameters, getattr(by, "keywords", {})
    if "v" not in own or "v" in told:
        return by
    return partial(by, v=float(np.var(dataset.some("train", LOOKED).x, dtype=np.float64)))


def _keys(seeds: list[int]) -> Array:
    return jax.vmap(jax.random.key)(np.asarray(seeds, np.uint32))


def _walk(of: Any, denoise: Any, request: Any, key: Key, x: Array) -> Array:
    _, key_walk = jax.random.split(key)
    return request.walk(denoise, key_walk, x)


def _scaled(operator: Any, scale: Array, u: Array) -> Array:
    return operator(scale.astype(u.dtype) * u)
