"""Langevin and Hamiltonian steps that a Metropolis test corrects, annealed along a ladder of noise levels.

At one level p ~ exp(-E(x, t)) is kept invariant exactly, whatever the size of a step (Roberts & Tweedie 1996; Neal
2011; Du et al. 2023 for compositions of diffusions). With a momentum r ~ N(0, I), L leapfrog steps of length delta,

    r <- r - delta/2 grad E,    x <- x + delta r,    r <- r - delta/2 grad E,

and the move is taken with probability min(1, exp(H - H')), H = E + |r|^2 / 2; else x stays, and counts again. L = 1 is
Langevin's step x - h grad E + sqrt(2 h) z with h = delta^2 / 2, and its own test (MALA).

    delta^2 / 2 = h = step sigma^2

at every level. On N(0, V) the Langevin step is accepted in mean 1 + (2 / pi) arcsin(rho) of the time, rho =
-(h^2 / V) / sqrt((2 V + h^2 / V)^2 - 4 (V - h)^2); without the test its variance would be V / (1 - h / 2V).

A row is one evaluation: E and grad E together. A level of `steps` moves takes 1 + steps L of them, the first of which
learns the energy of where the walk is. The test belongs to one example: neighbours share no step size. That a move is
taken says nothing of mixing: separate modes are not crossed at the last level, the ladder places the mass.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffjax import host
from diffjax.calculus import amplitudes, need_gaussian, need_scalar
from diffjax.denoisers.energy import need
from diffjax.samplers.base import Sampler
from diffjax.samplers.precision import like
from diffjax.types import Array, Key, Schedule

__all__ = ["hmc", "mala"]  # what a config may name


class Row(NamedTuple):
    """One leapfrog step, and what stands before and after it; `step` 0 evaluates where the walk is."""

    t: Any  # where the energy is evaluated
    step: Any  # delta
    begins: Any  # 1: a momentum is drawn first
    ends: Any  # 1: the move is tested then
    free: Any  # 1: and taken whatever the test says
    scale: Any  # x is then scale (x - shrink grad E): 1 and 0 but for a last mean
    shrink: Any


class Place(NamedTuple):
    """A point with its energy and gradient."""

    x: Array
    E: Array
    gradient: Array


class State(NamedTuple):
    """What the walk remembers.

    Attributes:
        at: where the leapfrog steps have come to.
        begun: where the move began.
        H: of the beginning.
        momentum: r.
        accepted: moves taken so far, a number.
    """

    at: Place
    begun: Place
    H: Array
    momentum: Array
    accepted: Array

    @property
    def x(self) -> Array:
        """The x that the walk shows: where leapfrog steps have come to and, after a test, what it left."""
        return self.at.x


def mala(schedule: Schedule, step: float = 0.3, steps: int = 10, denoise: bool = True, correct: bool = True) -> Sampler:
    """Anneals Metropolis-adjusted Langevin steps along the grid's levels, all of which have noise.

    Args:
        step: h in units of sigma^2, in (0, 2).
        steps: moves at every level.
        denoise: end with the mean (x - sigma^2 grad E) / alpha at the last level; no further evaluation.
        correct: False takes every move: the unadjusted steps, whose law is another one.

    Raises:
        ValueError: for a number out of its range; at planning, for a grid that touches a time without noise; when it
            walks, for a denoiser without an energy.
    """
    return hmc(schedule, step, 1, steps, denoise, correct)


def hmc(
    schedule: Schedule,
    step: float = 0.1,
    leapfrog: int = 4,
    steps: int = 5,
    denoise: bool = True,
    correct: bool = True,
) -> Sampler:
    """Anneals Hamiltonian moves along the grid's levels, all of which have noise.

    Args:
        step: delta^2 / 2 in units of sigma^2, in (0, 2).
        leapfrog: L, leapfrog steps in a move.
        steps, denoise, correct: as of `mala`.

    Raises:
        ValueError: as `mala`.
    """
    need_scalar(schedule, "A Metropolis step")
    need_gaussian(schedule, "A Metropolis step looks at an energy of x_t", "take a deterministic sampler")
    leapfrog = host.check_int("leapfrog", leapfrog, most=2**20)
    steps = host.check_int("steps", steps, most=2**20)
    if not 0 < step < 2:
        raise ValueError(f"The step is {step} sigma^2, expected 0 < step < 2: beyond it leapfrog steps diverge.")

    def plan(ts: np.ndarray) -> Row:
        alpha, sigma = amplitudes(schedule, ts)
        if not np.all(sigma > 0):
            raise ValueError(
                f"There is no energy at t = {ts[np.argmin(sigma)]:g}, where sigma = 0; end the ladder above it "
                "(--config.grid.zero=False, and a t_min above 0)."
            )
        if not np.all(alpha > 0):
            raise ValueError(f"The mean is infinite at t = {ts[np.argmin(alpha)]:g}, where alpha = 0; start below it.")
        moves, zero = 1 + leapfrog * steps, np.zeros(1)
        delta = np.r_[zero, np.ones(leapfrog * steps)]
        begins = np.r_[zero, np.tile(np.arange(leapfrog) == 0, steps)]
        ends = np.r_[zero, np.tile(np.arange(leapfrog) == leapfrog - 1, steps)]
        each = lambda of_level: np.tile(of_level, len(ts)).astype(np.float64)
        rows = Row(
            t=np.repeat(np.asarray(ts, np.float64), moves),
            step=each(delta) * np.repeat(np.sqrt(2 * step) * sigma, moves),
            begins=each(begins),
            ends=each(ends),
            free=each(ends) * (not correct),
            scale=np.ones(len(ts) * moves),
            shrink=np.zeros(len(ts) * moves),
        )
        if denoise:
            rows.scale[-1], rows.shrink[-1] = 1 / alpha[-1], sigma[-1] ** 2
        return rows

    return Sampler(metropolis_step, plan, start, finish, schedule)


def start(x: Array) -> State:
    """Makes the state of a walk that knows no energy yet."""
    place = Place(x, jnp.zeros((), x.dtype), jnp.zeros_like(x))
    return State(place, place, jnp.zeros((), x.dtype), jnp.zeros_like(x), jnp.zeros((), jnp.int32))


def finish(model: Any, state: State) -> Array:
    """Picks the sample out of a walk's last state."""
    return state.at.x


def metropolis_step(model: Any, key: Key, state: State, row: Row) -> State:
    """Walks along one row: a leapfrog step, and the test where a move ends."""
    need(model, "A Metropolis step accepts by")
    key_momentum, key_test = jax.random.split(key)
    at, drawn = state.at, jax.random.normal(key_momentum, state.momentum.shape, state.momentum.dtype)
    r = jnp.where(row.begins > 0, drawn, state.momentum)
    begun = _choose(row.begins > 0, at, state.begun)
    H = jnp.where(row.begins > 0, at.E + jnp.sum(r**2) / 2, state.H)
    r = r - row.step / 2 * at.gradient
    x = at.x + row.step * r
    moved = Place(x, *like(model.energy_gradient(x, row.t), x))
    r = r - row.step / 2 * moved.gradient  # (metropolis.1)
    fall = H - moved.E - jnp.sum(r**2) / 2
    taken = (jnp.log(jax.random.uniform(key_test, (), H.dtype)) < fall) | (row.free > 0)  # (metropolis.2)
    stays = (row.ends > 0) & ~taken
    at = _choose(stays, begun, moved)
    accepted = state.accepted + ((row.ends > 0) & taken).astype(jnp.int32)
    at = at._replace(x=row.scale * (at.x - row.shrink * at.gradient))
    return State(at, begun, H, r, accepted)


def _choose(first: Array, a: Place, b: Place) -> Place:
    return Place(*(jnp.where(first, one, other) for one, other in zip(a, b)))
