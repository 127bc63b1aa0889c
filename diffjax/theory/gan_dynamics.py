"""How two players move: Dirac-GAN, its penalties and integrators, in closed form (Mescheder et al. 2018; kexue 6583).

Data is one point, 0; the generator makes one point, theta (d,); the critic is D(x) = phi . x, u = D(theta). Each player
descends a loss of its own, both at once:

    theta' = -d g(u) / d theta,    phi' = -d (f(u) + P(phi)) / d phi    (kexue 6583),

    game              f(u), of the critic    g(u), of the generator    theta'            phi'
    saturating        softplus(u)            -softplus(u)               sigmoid(u) phi    -sigmoid(u) theta
    non_saturating    softplus(u)            softplus(-u)               sigmoid(-u) phi   -sigmoid(u) theta
    wgan              u                      -u                         phi               -theta

    P = (r1 + r2)/2 |phi|^2 + gp (|phi| - centre)^2

since grad D = phi everywhere: at data (R1), at fakes (R2), between them (WGAN-GP). A relativistic critic (R3GAN, 2024)
reads D(x) - D(y), here -u: the non-saturating game.

Equilibrium is 0. There the eigenvalues s of the flow solve s^2 + gamma s + f'(0)^2 = 0, gamma = r1 + r2 + 2 gp with
centre 0: without a penalty a centre, with one a spiral. Descent is Euler's method on the flow and no centre for it:

    simultaneous    radius times sqrt(1 + h^2 f'(0)^2) a step: outwards for every h; stable iff h < -2 Re s / |s|^2
    alternating     the critic first, then the generator against it: symplectic Euler, which keeps an ellipse of `wgan`
    rk4             radius times sqrt(1 - z^6/72 + z^8/576), z = h f'(0): inwards, where the flow itself stays

so that a game is judged by its flow (`flow`, diffrax at 1e-12), not by a simulation. Without penalties a flow keeps
theta_1 phi_2 - theta_2 phi_1 in the plane, and one of a saturating or Wasserstein game |theta|^2 + |phi|^2, which in a
non-saturating game falls by 2 u tanh(u/2), like 8/tau in the end.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from diffjax import host
from diffjax.types import Array, pytree, static

TINY = 1e-12  # |phi| is sqrt(|phi|^2 + TINY), which has a derivative at 0


class Point(NamedTuple):
    """Where the two players are: numbers, or vectors (d,) of one length; of an orbit, with its steps in front.

    Attributes:
        theta: the generator's, which is the point that it makes.
        phi: the critic's, which is its slope.
    """

    theta: Any
    phi: Any


ORIGIN = Point(0.0, 0.0)  # where all games are at rest, on the line


@pytree
class Game:
    """What each player descends; make it with `game`.

    Attributes:
        critic: f, the critic's loss of u.
        generator: g, the generator's loss of u.
        r1, r2: weights of |grad D|^2 / 2 at data and at fakes.
        gp: weight of (|grad D| - centre)^2.
        centre: of the gradient's norm.
    """

    critic: Callable[[Array], Array] = static()
    generator: Callable[[Array], Array] = static()
    r1: Any = 0.0
    r2: Any = 0.0
    gp: Any = 0.0
    centre: Any = 0.0

    def penalty(self, phi: Array) -> Array:
        """Computes P(phi), a scalar."""
        square = jnp.sum(phi**2)
        far = square - 2 * self.centre * jnp.sqrt(square + TINY) + self.centre**2
        return (self.r1 + self.r2) / 2 * square + self.gp * far  # (gan-dynamics.2)

    def losses(self, at: Point) -> Point:
        """Computes the two losses: theta's is the generator's, phi's the critic's with its penalty."""
        u = jnp.sum(at.theta * at.phi)
        return Point(self.generator(u), self.critic(u) + self.penalty(at.phi))

    def __call__(self, at: Point) -> Point:
        """Computes (theta', phi'), the velocity of the flow: minus each player's gradient of its own loss."""
        theta = jax.grad(lambda theta: self.losses(Point(theta, at.phi)).theta)(at.theta)
        phi = jax.grad(lambda phi: self.losses(Point(at.theta, phi)).phi)(at.phi)
        return Point(-theta, -phi)  # (gan-dynamics.1)


GAMES: dict[str, tuple[Callable, Callable]] = {  # f and g
    "non_saturating": (jax.nn.softplus, lambda u: jax.nn.softplus(-u)),
    "saturating": (jax.nn.softplus, lambda u: -jax.nn.softplus(u)),
    "wgan": (lambda u: u, lambda u: -u),
}


def game(name: str, r1: float = 0.0, r2: float = 0.0, gp: float = 0.0, centre: float = 0.0) -> Game:
    """Makes a game of `GAMES` with penalties.

    Args:
        r1, r2: weights of |grad D|^2 / 2 at data and at fakes.
        gp: weight of (|grad D| - centre)^2: WGAN-GP's with centre 1.

    Raises:
        ValueError: for another name, a weight or a centre below 0.
    """
    if name not in GAMES:
        raise ValueError(f"Got the game {name!r}, expected one of {', '.join(GAMES)}.")
    for what, value in dict(r1=r1, r2=r2, gp=gp, centre=centre).items():
        if not 0 <= value < np.inf:
            raise ValueError(f"Got {what} = {value!r}, expected a finite number >= 0: below 0 a penalty is a reward.")
    return Game(*GAMES[name], *map(float, (r1, r2, gp, centre)))


def simultaneous(play: Game, at: Point, h: Any) -> Point:
    """Moves both players down their gradients at the same point."""
    return jax.tree.map(lambda x, v: x + h * v, at, play(at))


def alternating(play: Game, at: Point, h: Any) -> Point:
    """Moves the critic, then the generator against the critic that has moved."""
    at = at._replace(phi=at.phi + h * play(at).phi)
    return at._replace(theta=at.theta + h * play(at).theta)


def rk4(play: Game, at: Point, h: Any) -> Point:
    """Moves both players by the classical method of Runge and Kutta."""
    ahead = lambda v, part: play(jax.tree.map(lambda x, v: x + part * h * v, at, v))
    a = play(at)
    b = ahead(a, 0.5)
    c = ahead(b, 0.5)
    d = ahead(c, 1.0)
    return jax.tree.map(lambda x, a, b, c, d: x + h * (a + 2 * b + 2 * c + d) / 6, at, a, b, c, d)


INTEGRATORS: dict[str, Callable] = {"alternating": alternating, "rk4": rk4, "simultaneous": simultaneous}


def orbit(play: Game, start: Point, h: float, steps: int, integrator: str = "simultaneous") -> Point:
    """Computes the points of a game in discrete steps, in float64 on the host.

    Returns:
        `Point` of (steps + 1, ...), the start first.

    Raises:
        ValueError: for h <= 0, fewer than 1 step, another integrator, or a start that is no point.
    """
    step = _integrator(integrator, h)
    host.check_int("steps", steps)
    return _exactly(lambda *args: _orbit(step, *args, steps), play, _point(start), h)


@partial(jax.jit, static_argnums=(0, 4))
def _orbit(step: Callable, play: Game, start: Point, h: Any, steps: int) -> Point:
    def move(at: Point, _: None) -> tuple[Point, Point]:
        at = step(play, at, h)
        return at, at

    later = jax.lax.scan(move, start, None, steps)[1]
    return jax.tree.map(lambda x, xs: jnp.concatenate([x[None], xs]), start, later)


def flow(play: Game, start: Point, ts: Any, rtol: float = 1e-12) -> Point:
    """Solves the game's flow in float64 on the host, by diffrax's Dopri8 with a step control.

    Args:
        ts: (n,), rising; the start is at ts[0].

    Returns:
        `Point` of (n, ...).

    Raises:
        ValueError: for times that do not rise, a start that is no point, rtol <= 0, or where diffrax is not installed.
    """
    from diffjax.samplers.ode import check_diffrax

    check_diffrax()
    host.check_positive("rtol", rtol)
    ts = np.asarray(ts, np.float64)
    if ts.ndim != 1 or len(ts) < 2 or not np.all(np.diff(ts) > 0):
        raise ValueError(f"Got times {ts}, expected two or more that rise.")
    return _exactly(_flow, play, _point(start), ts, rtol)


@jax.jit
def _flow(play: Game, start: Point, ts: Array, rtol: Array) -> Point:
    import diffrax

    def onwards(at: Point, between: tuple[Array, Array]) -> tuple[Point, Point]:
        solved = diffrax.diffeqsolve(
            diffrax.ODETerm(lambda t, at, play: play(at)),
            diffrax.Dopri8(),
            *between,
            None,
            at,
            play,
            stepsize_controller=diffrax.PIDController(rtol, 1e-2 * rtol),
            max_steps=2**20,
        )
        at = jax.tree.map(lambda x: x[0], solved.ys)
        return at, at

    # One solve for each interval: what a solver interpolates between its steps is less exact than they are.
    later = jax.lax.scan(onwards, start, (ts[:-1], ts[1:]))[1]
    return jax.tree.map(lambda x, xs: jnp.concatenate([x[None], xs]), start, later)


def jacobian(play: Game, at: Point = ORIGIN) -> np.ndarray:
    """Computes the Jacobian (2 d, 2 d) of a game's flow at a point; theta comes first.

    Raises:
        ValueError: at phi = 0 with a penalty of centre > 0, whose gradient jumps there.
    """
    return _jacobian(_velocity, play, at, 0.0)


def eigenvalues(play: Game, at: Point = ORIGIN) -> np.ndarray:
    """Computes the eigenvalues of a game's flow at a point, sorted: the equilibrium attracts if all Re s < 0."""
    return np.sort_complex(np.linalg.eigvals(jacobian(play, at)))


def largest_step(eigenvalues: Any) -> float:
    """Computes below which h simultaneous descent contracts, |1 + h s| < 1 for all s: 0 where no h does."""
    s = np.atleast_1d(np.asarray(eigenvalues, complex))
    return max(0.0, float(np.min(-2 * np.real(s) / np.abs(s) ** 2)))  # (gan-dynamics.3)


def growth(play: Game, h: float, integrator: str = "simultaneous") -> float:
    """Computes by what a step multiplies the radius near the equilibrium: the spectral radius of the step there."""
    step = _integrator(integrator, h)
    return float(np.abs(np.linalg.eigvals(_jacobian(step, play, ORIGIN, h))).max())


def square(at: Point) -> Any:
    """Computes |theta|^2 + |phi|^2 of a point or of an orbit; zero-sum games without a penalty conserve it."""
    return at.theta**2 + at.phi**2 if np.ndim(at.theta) < 2 else np.sum(at.theta**2 + at.phi**2, -1)


def ellipse(at: Point, h: float) -> Any:
    """Computes |theta|^2 + |phi|^2 - h theta phi, which alternating descent keeps of f'(0) = 1, the critic first.

    For another slope f'(0) of a game that is linear, or near the equilibrium, h is h f'(0).
    """
    inner = at.theta * at.phi if np.ndim(at.theta) < 2 else np.sum(at.theta * at.phi, -1)
    return square(at) - h * inner  # (gan-dynamics.4)


def ema_radius(beta: float, omega: float) -> float:
    """Computes how far the average m <- beta m + (1 - beta) x is out on a circle of radius 1, omega radians a step.

    It is 1 for omega << 1 - beta: a slow orbit is not averaged at all. The orbit stays as it is.

    Raises:
        ValueError: unless 0 <= beta < 1.
    """
    if not 0 <= beta < 1:
        raise ValueError(f"Got beta = {beta!r}, expected a decay in [0, 1).")
    return float((1 - beta) / np.sqrt(1 - 2 * beta * np.cos(omega) + beta**2))  # (gan-dynamics.5)


def _velocity(play: Game, at: Point, h: Any) -> Point:
    return play(at)


def _jacobian(step: Callable, play: Game, at: Point, h: float) -> np.ndarray:
    at = _point(at)
    if play.gp * play.centre > 0 and not np.any(at.phi):
        raise ValueError(f"At phi = 0 the penalty of centre {play.centre} has a kink, so that there is no Jacobian.")
    return _exactly(partial(_differentiated, step), play, at, h)


@partial(jax.jit, static_argnums=0)
def _differentiated(step: Callable, play: Game, at: Point, h: Any) -> Array:
    flat, back = ravel_pytree(at)
    return jax.jacfwd(lambda flat: ravel_pytree(step(play, back(flat), h))[0])(flat)


def _exactly(function: Callable, *args: Any) -> Any:
    """Calls a compiled function in float64 on the CPU.

    Not by `host.float64`, which evaluates constants while tracing: neither old scans nor diffrax's checks allow that.
    """
    with host.enable_x64(True), jax.default_device(jax.local_devices(backend="cpu")[0]):
        return jax.tree.map(np.asarray, function(*args))


def _integrator(name: str, h: float) -> Callable:
    if name not in INTEGRATORS:
        raise ValueError(f"Got the integrator {name!r}, expected one of {', '.join(INTEGRATORS)}; `flow` is exact.")
    host.check_positive("h", h)
    return INTEGRATORS[name]


def _point(at: Point) -> Point:
    made = Point(*(np.asarray(part, np.float64) for part in at))
    if made.theta.shape != made.phi.shape or made.theta.ndim > 1 or not all(np.isfinite(part).all() for part in made):
        raise ValueError(f"Got the point {tuple(at)}, expected theta and phi: finite, and of one shape, () or (d,).")
    return made
