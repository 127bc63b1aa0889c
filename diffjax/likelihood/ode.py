"""The likelihood by the probability-flow ODE (Song et al. 2021, eq. 39; kexue 9228 (14), 9280 (6)):

    dx/dt = v(x, t),    d log p_t(x_t) / dt = -div v(x_t, t),
    log p_{t_min}(x) = log p_T(x_T) + integral from t_min to T of div v(x_t, t) dt.

The flow is the same in every clock. Here it is the angle of (alpha, sigma) = rho (cos phi, sin phi), for u = x / rho:

    du/dphi = (cos(phi) u - E[x_0 | x]) / sin(phi),    log p(x) = log p(u) - d log rho.

It has no derivative of the schedule, which for a table of betas jumps at every knot, and alpha = 0 is harmless.

u and the integral are one solve by diffrax, from the grid's last time, where x counts as x_{t_min}, up to its first,
where the prior's density is taken. One evaluation is the network and its products with the directions of `divergence`,
which are drawn once for each solve: another probe at every evaluation would be no function to integrate. Every example
keeps its own step sizes under `vmap`, so that none depends on its neighbours; a batch costs as its slowest example.

What is computed is the exact density of the model, the law that the flow gives to draws from the prior, up to three
errors: the solver's tolerances, the trace's variance (none for "exact"), and t_min: the density is that of x_{t_min}.
As a likelihood of data it also holds the prior's mismatch: N(0, sigma_T^2) for p_T is 1e-2 nats at 2.5 standard
deviations under VP.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffjax import divergence, grids, host
from diffjax.calculus import amplitudes, need_scalar, time_of
from diffjax.samplers import precision
from diffjax.samplers.base import check_schedule, refuse_other_schedules
from diffjax.samplers.ode import EXPLICIT, check_end, check_solver
from diffjax.types import Array, Denoiser, Key, Process, as_pytree


class Density(NamedTuple):
    """The density of one example by its probability flow.

    Attributes:
        log_p: log density in nats, a scalar.
        latent: x_T, of x's shape: the example's noise.
        nfe: evaluations of the network with its products, int32.
    """

    log_p: Array
    latent: Array
    nfe: Array


def ode(
    ts: Any,
    process: Process,
    solver: str = "Tsit5",
    rtol: float = 1e-6,
    atol: float = 1e-6,
    adaptive: bool = True,
    trace: str = "hutchinson",
    probes: int = 1,
    prior: Callable[[Array], Array] | None = None,
    max_steps: int = 4096,
) -> jax.tree_util.Partial:
    """Makes `density(denoise, key, x) -> Density`, for one example; only the random traces use the key.

    x is of any floating-point type; the flow, and all parts of its Density, are of x's own from float32 on, of float32
    for bfloat16 and float16.

    A `jax.tree_util.Partial`: other numbers in the schedule, other tolerances or another grid of the same length are
    no new compile.

    Args:
        ts: decreasing times (N + 1,) that end above sigma = 0. An adaptive solver looks at the ends alone; otherwise
            it takes one step for each interval.
        process: whose schedule the denoiser has, and whose prior density is taken at ts[0].
        solver: name of a diffrax solver, one of `samplers.ode.EXPLICIT`; also "Euler" if not adaptive.
        rtol, atol: tolerances of the adaptive step size, for u and log p alike; 1e-5 is published, and costs up to 1e-3
            bits per dimension in few dimensions.
        trace: "hutchinson" (signs), "gaussian", or "exact", which is d products for an example of d entries.
        probes: directions for each solve; "exact" has its own.
        prior: x_T -> log density in nats, in place of the process's.
        max_steps: bound on the adaptive solver's steps; running into it raises at run time.

    Raises:
        ValueError: for a bad grid or solver, another trace, probes < 1, a process without a prior density, a schedule
            without an inverse, or where diffrax is not installed.
    """
    ts = grids.check(ts, float(process.schedule.t_max))
    need_scalar(process.schedule, "The likelihood by the flow")
    check_end(process.schedule, ts)
    check_solver(solver, EXPLICIT if adaptive else (*EXPLICIT, "Euler"), rtol, atol, adaptive, max_steps)
    if trace not in divergence.DIRECTIONS:
        raise ValueError(f"There is no trace {trace!r}; there is {', '.join(divergence.DIRECTIONS)}.")
    probes = host.check_int("probes", probes, most=2**20)
    prior = _prior_of(process, ts) if prior is None else as_pytree(prior)
    flow = _Flow(solver, adaptive, trace, probes, max_steps)
    alpha, sigma = amplitudes(process.schedule, ts[[0, -1]] if adaptive else ts)
    jax.eval_shape(lambda: time_of(process.schedule, 0.0))  # raises here for a schedule without an inverse
    path = (jnp.asarray(np.arctan2(sigma, alpha)[::-1]), jnp.asarray(np.hypot(alpha, sigma)[[-1, 0]]))
    return jax.tree_util.Partial(flow, path, (jnp.asarray(rtol, float), jnp.asarray(atol, float)), process, prior)


def _prior_of(process: Any, ts: np.ndarray) -> jax.tree_util.Partial:
    """Takes the process's own prior density at the grid's start, and tries it: what it refuses is said at once."""
    if not hasattr(process, "prior_log_density"):
        raise ValueError(
            f"{type(process).__name__} has no prior_log_density(x_T, t), so that no likelihood follows from its flow; "
            "give `prior` (x_T -> log density in nats), or use likelihood.elbo."
        )
    x = jax.ShapeDtypeStruct((1,), jnp.result_type(float))
    jax.eval_shape(lambda x: process.prior_log_density(x, float(ts[0])), x)
    return jax.tree_util.Partial(_prior, process, jnp.asarray(ts[0]))


def _prior(process: Any, t: Array, x: Array) -> Array:
    return process.prior_log_density(x, precision.like(t, x))


def velocity(denoise: Denoiser, u: Array, phi: Any) -> Array:
    """Evaluates du/dphi of the probability flow, of u's shape; phi > 0, in radians."""
    cos, sin = jnp.maximum(jnp.cos(phi), 0), jnp.sin(phi)  # cos(pi / 2) may be rounded to less than 0
    t = time_of(denoise.schedule, 2 * (jnp.log(cos) - jnp.log(sin)))
    rho = jnp.hypot(*denoise.schedule(t)).astype(u.dtype)
    return (cos * u - denoise(rho * u, t).mean) / sin  # (likelihood.1)


class _Flow(NamedTuple):
    """The static part of a density function: compares equal for every schedule, grid and tolerance."""

    solver: str
    adaptive: bool
    trace: str
    probes: int
    max_steps: int

    def __call__(
        self, path: Any, tolerances: Any, process: Process, prior: Any, denoise: Denoiser, key: Key, x: Array
    ) -> Density:
        import diffrax

        check_schedule(process.schedule, denoise)
        x = precision.widened(x, "x")
        (path, tolerances), denoise = precision.like((path, tolerances), x), precision.Steady(denoise)
        directions = divergence.DIRECTIONS[self.trace](key, x, self.probes)

        (angles, (low, high)), solver = path, getattr(diffrax, self.solver)()

        def field(phi: Any, state: Any, args: Any) -> Any:
            return divergence.with_value(lambda u: velocity(denoise, u, phi), state[0], directions)

        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(field),
            solver,
            angles[0],
            angles[-1],
            0.01 * (angles[-1] - angles[0]) if self.adaptive else None,
            (x / low, jnp.zeros((), x.dtype)),
            stepsize_controller=diffrax.PIDController(*tolerances) if self.adaptive else diffrax.StepTo(angles),
            max_steps=self.max_steps if self.adaptive else len(angles) - 1,
        )
        assert solution.ys is not None  # it holds the end by default
        latent, gained = high * solution.ys[0][-1], solution.ys[1][-1] + x.size * jnp.log(high / low)  # (likelihood.2)
        log_p = refuse_other_schedules(process.schedule, denoise, prior(latent) + gained)
        return Density(log_p, latent, self._nfe(solver, solution.stats["num_steps"]))

    def _nfe(self, solver: Any, steps: Array) -> Array:
        """Counts the stages of all steps, rejected ones too; the first is the last one's where the tableau says so.

        Each time that the very first step is rejected, its first stage is evaluated once more, which is not counted.
        """
        tableau = getattr(solver, "tableau", None)
        stages, first = (1, 0) if tableau is None else (tableau.num_stages - tableau.fsal, int(tableau.fsal))
        return jnp.asarray(steps, jnp.int32) * stages + first
