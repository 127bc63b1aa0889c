"""What a network predicts: F = a x_0 + b z. Every parameterisation of the field is the pair (a, b).

Solving [alpha sigma; a b] (x_0, z) = (x_t, F) gives x_0 = c_skip x_t + c_out F with
c_skip = b / (alpha b - sigma a) and c_out = -sigma / (alpha b - sigma a). Each target states those two in a form that
is finite wherever the target is, where the quotient above may be 0 / 0; a test ties them to (a, b).
The network sees x_t / sqrt(sigma^2 + alpha^2 sigma_data^2), of unit variance for data of standard deviation
sigma_data, and the log-SNR: `inputs`. A third term of F may be known beforehand: `Prediction.offset`.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np

from diffjax import host
from diffjax.calculus import amplitudes, derivatives, need_gaussian, told
from diffjax.types import Array, Network, Posterior, Schedule, as_pytree, pytree


class Prediction:
    """The prediction of a network, a mixin of `pytree` classes: `__call__` (a, b) and `skip_out` (c_skip, c_out).

    Attributes:
        sigma_data: standard deviation of the data, in units of x_0, by which the network's input is scaled.
    """

    sigma_data: Any

    def __call__(self, schedule: Schedule, t: Any) -> tuple[Any, Any]:
        """Computes (a, b) of F = a x_0 + b z + `offset`."""
        raise NotImplementedError

    def skip_out(self, schedule: Schedule, t: Any) -> tuple[Any, Any]:
        """Computes (c_skip, c_out) of x_0 = c_skip x_t + c_out (F - `offset`)."""
        raise NotImplementedError

    def noise_out(self, schedule: Schedule, t: Any) -> Any:
        """Computes c_out alpha / sigma, the factor from an error of F to one of eps, also where that is 0 / 0."""
        alpha, sigma = schedule(t)
        return self.skip_out(schedule, t)[1] * alpha / sigma

    def offset(self, schedule: Schedule, t: Any) -> Any:
        """Computes the third term e of F, known beforehand: 0, but for what enters linearly (`denoisers.bridge`)."""
        return 0.0

    def inputs(self, schedule: Schedule, x: Array, t: Any) -> tuple[Array, Array]:
        """Makes the network's inputs: x_t scaled to unit variance, and the scalar log-SNR (infinite at the ends).

        Of a schedule per frequency the scale is one for each, and the scalar what it states (`calculus.told`).
        """
        alpha, sigma = schedule(t)
        return x / jnp.hypot(sigma, alpha * self.sigma_data), told(schedule, t)  # (targets.8)

    def mean(self, schedule: Schedule, x: Array, F: Array, t: Any) -> Array:
        """Computes E[x_0 | x_t = x] from F, of x's shape."""
        c_skip, c_out = self.skip_out(schedule, t)
        return c_skip * x + c_out * F  # (targets.2)

    def given(self, given: dict) -> "Prediction":
        """Makes the target of one example, which may depend on what is given of it."""
        return self

    def check(self, schedule: Schedule) -> None:
        """Raises a ValueError for numbers that make no target of this schedule."""
        name = f"{type(self).__name__}'s sigma_data"
        host.check_positive(name, self.sigma_data, ": the standard deviation of the data")


@pytree
class X0(Prediction):
    """The data as target: F = x_0."""

    sigma_data: float = 1.0

    def __call__(self, schedule: Schedule, t: Any) -> tuple[Any, Any]:
        """Computes (a, b) = (1, 0)."""
        return 1.0, 0.0

    def skip_out(self, schedule: Schedule, t: Any) -> tuple[Any, Any]:
        """Computes (c_skip, c_out) = (0, 1): finite everywhere."""
        return 0.0, 1.0


@pytree
class Eps(Prediction):
    """The noise as target: F = z (Ho et al. 2020). x_0 is lost where alpha = 0."""

    sigma_data: float = 1.0

    def __call__(self, schedule: Schedule, t: Any) -> tuple[Any, Any]:
        """Computes (a, b) = (0, 1)."""
        return 0.0, 1.0

    def skip_out(self, schedule: Schedule, t: Any) -> tuple[Any, Any]:
        """Computes (c_skip, c_out) = (1, -sigma) / alpha: infinite where alpha = 0."""
        alpha, sigma = schedule(t)
        return 1 / alpha, -sigma / alpha  # (targets.3)

    def noise_out(self, schedule: Schedule, t: Any) -> Any:
        """Computes -1: F is eps."""
        return -1.0


@pytree
class V(Prediction):
    """The v target: F = alpha z - sigma x_0 (Salimans & Ho 2022), finite everywhere."""

    sigma_data: float = 1.0

    def __call__(self, schedule: Schedule, t: Any) -> tuple[Any, Any]:
        """Computes (a, b) = (-sigma, alpha)."""
        alpha, sigma = schedule(t)
        return -sigma, alpha

    def skip_out(self, schedule: Schedule, t: Any) -> tuple[Any, Any]:
        """Computes (c_skip, c_out) = (alpha, -sigma) / (alpha^2 + sigma^2)."""
        alpha, sigma = schedule(t)
        norm = alpha**2 + sigma**2
        return alpha / norm, -sigma / norm  # (targets.4)

    def noise_out(self, schedule: Schedule, t: Any) -> Any:
        """Computes -alpha / (alpha^2 + sigma^2)."""
        alpha, sigma = schedule(t)
        return -alpha / (alpha**2 + sigma**2)


@pytree
class Velocity(Prediction):
    """The velocity as target: F = alpha' x_0 + sigma' z = dx_t/dt (Lipman et al. 2023; kexue 9497 (5)).

    F is finite where sigma' is: not on `VP` at t = 0.
    """

    sigma_data: float = 1.0

    def __call__(self, schedule: Schedule, t: Any) -> tuple[Any, Any]:
        """Computes (a, b) = (alpha', sigma')."""
        return derivatives(schedule, t)[1]

    def skip_out(self, schedule: Schedule, t: Any) -> tuple[Any, Any]:
        """Computes (c_skip, c_out) = (sigma', -sigma) / (alpha sigma' - sigma alpha')."""
        (alpha, sigma), (d_alpha, d_sigma) = derivatives(schedule, t)
        wronskian = alpha * d_sigma - sigma * d_alpha
        return d_sigma / wronskian, -sigma / wronskian  # (targets.5)

    def noise_out(self, schedule: Schedule, t: Any) -> Any:
        """Computes -alpha / (alpha sigma' - sigma alpha')."""
        (alpha, sigma), (d_alpha, d_sigma) = derivatives(schedule, t)
        return -alpha / (alpha * d_sigma - sigma * d_alpha)


@pytree
class Score(Prediction):
    """The score of p(x_t | x_0) as target: F = -z / sigma (Vincent 2011; kexue 9209 (22)).

    x_0 is lost where alpha = 0; F is infinite where sigma = 0.
    """

    sigma_data: float = 1.0

    def __call__(self, schedule: Schedule, t: Any) -> tuple[Any, Any]:
        """Computes (a, b) = (0, -1 / sigma)."""
        return 0.0, -1 / schedule(t)[1]

    def skip_out(self, schedule: Schedule, t: Any) -> tuple[Any, Any]:
        """Computes (c_skip, c_out) = (1, sigma^2) / alpha: Tweedie's formula."""
        alpha, sigma = schedule(t)
        return 1 / alpha, sigma**2 / alpha  # (targets.6)

    def noise_out(self, schedule: Schedule, t: Any) -> Any:
        """Computes sigma, the factor from an error of the score to one of eps."""
        return schedule(t)[1]


@pytree
class EDM(Prediction):
    """The target of EDM for any alpha: F has unit variance for data of standard deviation sigma_data.

    With sigma_data = 1 on a variance-preserving schedule this is V with the opposite sign.

    Source: Karras et al. 2022, table 1.
    """

    sigma_data: float = 0.5

    def __call__(self, schedule: Schedule, t: Any) -> tuple[Any, Any]:
        """Computes (a, b) = (sigma, -alpha sigma_data^2) / (sigma_data sqrt(sigma^2 + alpha^2 sigma_data^2))."""
        alpha, sigma = schedule(t)
        total = jnp.hypot(sigma, alpha * self.sigma_data)
        return sigma / (self.sigma_data * total), -alpha * self.sigma_data / total  # (edm-recipe.1)

    def skip_out(self, schedule: Schedule, t: Any) -> tuple[Any, Any]:
        """Computes (c_skip, c_out) = (alpha sigma_data^2, sigma sigma_data sqrt(total2)) / total2.

        total2 = sigma^2 + alpha^2 sigma_data^2, the variance of x_t.
        """
        alpha, sigma = schedule(t)
        total = jnp.hypot(sigma, alpha * self.sigma_data)
        return alpha * (self.sigma_data / total) ** 2, sigma * self.sigma_data / total  # (targets.7)

    def noise_out(self, schedule: Schedule, t: Any) -> Any:
        """Computes alpha sigma_data / sqrt(total2)."""
        alpha, sigma = schedule(t)
        return alpha * self.sigma_data / jnp.hypot(sigma, alpha * self.sigma_data)


Target = Prediction


def inputs(schedule: Schedule, target: Target, x: Array, t: Any) -> tuple[Array, Array]:
    """Makes the network's inputs from (x_t, t): x_t at unit variance, and the scalar log-SNR (infinite at the ends)."""
    return target.inputs(schedule, x, t)


def split_maps(prediction: Array, x: Array, at_least: int = 1) -> list[Array]:
    """Splits a network's output into maps of x's shape, which stand one after the other in the last axis.

    Raises:
        ValueError: if the output is not made of whole maps, or of fewer than are needed.
    """
    if prediction.shape == x.shape and at_least == 1:
        return [prediction]
    *space, channels = x.shape or (1,)
    count = prediction.shape[-1] // max(channels, 1) if prediction.ndim else 1
    if prediction.shape != (*space, count * channels) or count < at_least:
        raise ValueError(
            f"The network gives shape {prediction.shape} for x of shape {x.shape}, expected "
            f"{(*space, at_least * channels)}: {at_least} map(s) per channel (the model's option `outputs`)."
        )
    return [part.reshape(x.shape) for part in jnp.split(prediction, count, -1)]


@pytree
class NetworkDenoiser:
    """A denoiser with the mean of a network; a pytree, an argument of `jit`, so that new parameters do not retrace.

    Attributes:
        net: (x_in, c) -> F, a `jax.tree_util.Partial` over its parameters (and label); of several maps F is the first.
        schedule: what x_t and t refer to.
        target: what F is.
    """

    net: Network
    schedule: Schedule
    target: Target

    def __call__(self, x: Array, t: Any) -> Posterior:
        """Computes E[x_0 | x_t = x] for one example; var is 0: unknown."""
        return Posterior(self.mean(x, split_maps(self.predict(x, t), x)[0], t))

    def predict(self, x: Array, t: Any) -> Array:
        """Evaluates the network: F, and what further maps there are."""
        return self.net(*inputs(self.schedule, self.target, x, t))

    def mean(self, x: Array, F: Array, t: Any) -> Array:
        """Computes E[x_0 | x_t = x] from F, of x's shape."""
        return self.target.mean(self.schedule, x, F, t)


def denoiser(net: Network, schedule: Schedule, target: Target) -> NetworkDenoiser:
    """Makes the denoiser of a network trained by `losses.regression` with this schedule and target.

    Args:
        net: (x_in, c) -> F for one example. Give a `jax.tree_util.Partial(apply, params)` to pass the denoiser through
            `jit` as an argument; any other callable is taken as a constant.

    Raises:
        ValueError: if the target does not determine x_0 at the schedule's end, or lacks what it is to know.
    """
    check_target(target, schedule, schedule.t_max)
    target.offset(schedule, schedule.t_max)
    return NetworkDenoiser(as_pytree(net), schedule, target)


def _skip_out_at(of: tuple[Target, Schedule], t: Any) -> tuple[Array, Array]:
    target, schedule = of
    return target.skip_out(schedule, t)


def check_target(target: Target, schedule: Schedule, *times: Any) -> None:
    """Refuses times at which the prediction does not determine x_0: eps where alpha = 0, say.

    Raises:
        ValueError: naming target, schedule, time, and the targets that work there; or if sigma_data is not positive.
    """
    for got in (target, schedule):
        host.need_object(got)
    if isinstance(target, Score):
        need_gaussian(schedule, "A score gives E[x_0 | x_t] by Tweedie's formula", "predict X0, Eps, V or EDM")
    target.check(schedule)
    if not host.concrete(target, schedule, times):
        return
    for t, *coefficients in zip(times, *host.along(_skip_out_at, (target, schedule), times)):
        if not all(np.all(np.isfinite(c)) for c in coefficients):
            alpha, sigma = (float(np.min(a)) for a in amplitudes(schedule, [t]))
            others = "DDBM" if alpha == sigma == 0 else "V, X0 or EDM, or end the schedule earlier (t_max)"
            raise ValueError(
                f"{type(target).__name__}-prediction does not determine x_0 under {type(schedule).__name__} "
                f"at t = {float(t):g} (alpha = {alpha:g}, sigma = {sigma:g}); predict {others}."
            )
