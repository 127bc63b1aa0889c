"""The probability-flow ODE by diffrax (Song et al. 2021, eq. 13; kexue 9228 (14)), written so that alpha may be 0:

    dx/dt = alpha' E[x_0 | x] + sigma' E[z | x],    E[z | x] = (x - alpha E[x_0 | x]) / sigma.

The rows are the intervals of the grid; diffrax integrates each one. On a grid of one interval an adaptive solver runs
from end to end; on a fine grid a fixed-step solver takes one step per interval. One example is one solve: under `vmap`
each keeps its own step sizes, so that no sample depends on its neighbours.
"""

import dataclasses
import importlib.util
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from diffjax.calculus import amplitudes, derivatives
from diffjax.samplers.base import Sampler
from diffjax.types import Array, Denoiser, Key, Schedule

__all__ = ["probability_flow"]  # what a config may name

EXPLICIT = ("Bosh3", "Dopri5", "Dopri8", "Heun", "Midpoint", "Ralston", "Tsit5")
IMPLICIT = ("ImplicitEuler", "Kvaerno3", "Kvaerno4", "Kvaerno5")  # they take their tolerances from the step control
ORDERS = dict(Euler=1, Bosh3=3, Dopri5=5, Dopri8=8, Heun=2, Midpoint=2, Ralston=2, Tsit5=5)
ORDERS |= dict(ImplicitEuler=1, Kvaerno3=3, Kvaerno4=4, Kvaerno5=5)


class Interval(NamedTuple):
    """One interval of the grid and the tolerances in it."""

    t: Any  # where it starts
    s: Any  # where it ends
    rtol: Any
    atol: Any


class _State(NamedTuple):
    x: Array
    t: Array


def velocity(model: Denoiser, x: Array, t: Any) -> Array:
    """Evaluates dx/dt of the probability flow at (x, t), sigma > 0."""
    (alpha, sigma), (d_alpha, d_sigma) = derivatives(model.schedule, t)
    mean = model(x, t).mean
    return d_alpha * mean + d_sigma * (x - alpha * mean) / sigma  # (flow.1)


def probability_flow(
    schedule: Schedule,
    solver: str = "Tsit5",
    rtol: float = 1e-5,
    atol: float = 1e-5,
    adaptive: bool = True,
    denoise: bool = False,
    max_steps: int = 4096,
) -> Sampler:
    """Integrates the probability flow along the grid, which must end above t = 0, where the ODE is singular.

    Args:
        solver: name of a diffrax solver: one of `EXPLICIT`; also of `IMPLICIT` if adaptive, "Euler" if not.
        rtol, atol: tolerances of the adaptive step size, in units of x.
        adaptive: False takes exactly one step per interval.
        denoise: return E[x_0 | x] at the grid's last time (one more evaluation) in place of x.
        max_steps: bound on the solver's steps per interval; running into it raises at run time.

    Raises:
        ValueError: for another solver, tolerances or a bound that are not positive, where diffrax is not installed, or
            (at planning) for a grid that touches t = 0.
    """
    known = (*EXPLICIT, *(IMPLICIT if adaptive else ("Euler",)))
    check_solver(solver, known, rtol, atol, adaptive, max_steps)

    def plan(ts: np.ndarray) -> Interval:
        check_end(schedule, ts)
        full = np.full(len(ts) - 1, 1.0)
        return Interval(ts[:-1], ts[1:], rtol * full, atol * full)

    final = _denoise if denoise else _final
    return Sampler(_Integrate(solver, adaptive, max_steps), plan, _init, final, schedule, ORDERS[solver])


def check_solver(solver: str, known: tuple[str, ...], rtol: float, atol: float, adaptive: bool, max_steps: int) -> None:
    """Raises a ValueError for an unknown solver, tolerances or a bound that are not positive, or a missing diffrax."""
    if solver not in known:
        kind = "adaptive" if adaptive else "fixed-step"
        raise ValueError(f"There is no {kind} ODE solver {solver!r}; there is {', '.join(known)}.")
    if not (rtol > 0 and atol > 0 and max_steps >= 1):
        raise ValueError(f"Got rtol = {rtol}, atol = {atol}, max_steps = {max_steps}, expected all positive.")
    check_diffrax()


def check_diffrax() -> None:
    """Raises a ValueError, which says how to get diffrax, where it is not installed; nothing is imported."""
    if importlib.util.find_spec("diffrax") is None:
        raise ValueError(
            "The probability-flow ODE needs diffrax, which is not installed: pip install 'diffjax[ode]'; to keep a jax "
            "below 0.10, such as Colab's 0.7.2: pip install 'diffjax[ode]' 'lineax<0.1.1'."
        )


def check_end(schedule: Schedule, ts: np.ndarray) -> None:
    """Raises a ValueError for a grid that ends where sigma = 0."""
    if np.any(amplitudes(schedule, ts[-1:])[1] == 0):
        raise ValueError(
            f"The probability-flow ODE is singular at t = {ts[-1]:g}; end the grid above it (--config.grid.zero=False)."
        )


def _init(x: Array) -> _State:
    return _State(x, jnp.zeros((), x.dtype))


def _final(model: Denoiser, state: _State) -> Array:
    return state.x


def _denoise(model: Denoiser, state: _State) -> Array:
    return model(state.x, state.t).mean


@dataclasses.dataclass(frozen=True)
class _Integrate:
    """The step of the sampler: one solve by diffrax over an interval; hashable by its settings."""

    solver: str
    adaptive: bool
    max_steps: int

    def __call__(self, model: Denoiser, key: Key, state: _State, row: Interval) -> _State:
        import diffrax

        term = diffrax.ODETerm(lambda t, x, args: velocity(model, x, t))
        control = diffrax.PIDController(row.rtol, row.atol) if self.adaptive else diffrax.ConstantStepSize()
        solution = diffrax.diffeqsolve(
            term,
            getattr(diffrax, self.solver)(),
            row.t,
            row.s,
            None if self.adaptive else row.s - row.t,
            state.x,
            stepsize_controller=control,
            max_steps=self.max_steps if self.adaptive else 4,
        )
        assert solution.ys is not None  # it holds the end by default
        return _State(solution.ys[-1], row.s)
