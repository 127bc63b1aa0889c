"""A flow map (MeanFlow): a network of two times learns the mean velocity of a flow from t to r; one evaluation draws.

Along the flow dx/dt = v(x, t) = E[alpha' x_0 + sigma' z | x_t = x], noise at t_max and data at 0, the mean velocity
from t to r < t

    u(x_t, t, r) = 1 / (t - r) * integral of v(x_s, s) over s from r to t,        x_r = x_t - (t - r) u(x_t, t, r)
                   (kexue 10958 (6))

satisfies, by d/dt of (t - r) u along the flow, the Eulerian identity (Geng et al. 2025, eq. 6; kexue 10958 (8))

    u = v - (t - r) du/dt,        du/dt = v . grad_x u + d/dt u,

so u is regressed on its right side with the gradient stopped, v being that of the example, alpha' x_0 + sigma' z
(eq. 10, 11; kexue 10958 (17)). r = t is plain flow matching: the diagonal u(x, t, t) is v.

Two times are told as one and a distance. c is the log-SNR of t, as for every network; `given["gap"]` is
psi(phi_t) - psi(phi_r), psi(phi) = (phi, cos 2j phi, sin 2j phi; j = 1 .. 8) of the angle phi = arctan(sigma / alpha),
which is smooth and finite at both ends, where a second log-SNR would be infinite (r = 0 always is). The gap is 0 for
r = t, and enters without a bias: on the diagonal the network is one of one time to the last bit, so a velocity network
may be its start and every sampler takes its diagonal. It is signed: r > t is told apart. The derivative is taken by t,
hence `embedding="angle"`: those of the log-SNR wave hundreds of times between t = 0.9 and 1.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from diffjax import calculus, denoisers, host, losses
from diffjax.denoisers.targets import Velocity
from diffjax.method import Drawn, Example, Keys, Method, Section, Turn, drawing, per_example
from diffjax.types import Array, Denoiser, Key, PyTree, Schedule, pytree, static

WAVES = 8
GAP = 1 + 2 * WAVES  # entries of given["gap"]
END = 19.9  # networks clip the log-SNR at 20
JUDGED = 512  # samples that a report draws again in more steps
STEPS = (1, 2, 4)
TIMES = partial(losses.times.log_normal, mean=-0.4, std=1.0)  # the published law: logit t ~ N(-0.4, 1), rectified


def gap(schedule: Schedule, t: Any, r: Any) -> Array:
    """Computes what a network is told of the way from t to r, (GAP,): 0 for r = t."""
    return _features(schedule, t) - _features(schedule, r)


def _features(schedule: Schedule, t: Any) -> Array:
    alpha, sigma = schedule(t)
    phi = jnp.arctan2(sigma, alpha)
    waves = 2 * phi * jnp.arange(1, WAVES + 1, dtype=phi.dtype)
    return jnp.concatenate([phi[None], jnp.cos(waves), jnp.sin(waves)])  # (meanflow.4)


def _log_snr(schedule: Schedule, t: Array) -> Array:
    """The log-SNR of the nearest time where it is within +-END, and its derivative there: both finite at all times."""
    ends = [jnp.asarray(calculus.time_of(schedule, end), t.dtype) for end in (END, -END)]
    inside = jnp.clip(t, ends[0], jnp.minimum(ends[1], schedule.t_max))
    return calculus.log_snr(schedule, t + jax.lax.stop_gradient(inside - t))


def residual(u: Callable, x: Array, t: Array, r: Array, v: Array) -> Array:
    """Computes u - (v - (t - r) du/dt), of x's shape, the gradient stopped through the second term.

    Args:
        u: (x, t) -> the mean velocity from t to r.
        v: the velocity that x moves with: of the example, or of a teacher.
    """
    said, slope = jax.jvp(u, (x, t), (v, jnp.ones_like(t)))
    return said - jax.lax.stop_gradient(v - (t - r) * slope)  # (meanflow.1)


class FlowMap(NamedTuple):
    """The parts, and what follows from them alone.

    Attributes:
        network: init, apply; reads `given`, "gap" among it.
        process: what x_t is.
        times: schedule -> the law of one time; the later of two draws is t, the earlier r.
        same: the share of examples with r = t.
        power: p of the weight 1 / (|e|^2 + floor)^p of an example's own residual e, |e|^2 a sum. The published p is 1;
            any p > 0 moves the minimum from the mean of v towards its mode, and takes mass from small modes.
        floor: c of that weight.
        steps: of a draw, evenly spaced; each is one evaluation.
        sigma_data: the standard deviation of data, which the network's input is scaled by.
    """

    network: Any
    process: Any
    times: Callable[[Schedule], Callable] = TIMES
    same: float = 0.5
    power: float = 0.0
    floor: float = 1e-2
    steps: int = 1
    sigma_data: float = 1.0

    drawn_by = ("steps",)  # what another draw may change

    @property
    def target(self) -> Velocity:
        """What the network predicts for r = t."""
        return Velocity(self.sigma_data)

    def how(self) -> str:
        """Says how samples are made, for a report."""
        return f"the flow map in {self.steps} step{'s' * (self.steps > 1)} of one evaluation each"

    def velocity(self, params: PyTree, given: dict, **options: Any) -> Callable:
        """Makes u: (x, t, r) -> the mean velocity from t to r, of x's shape."""
        schedule = self.process.schedule

        def u(x: Array, t: Array, r: Array) -> Array:
            x_in, _ = self.target.inputs(schedule, x, t)
            told = {**given, "gap": gap(schedule, t, r)}
            return self.network.apply(params, x_in, _log_snr(schedule, t), told, **options)

        return u

    def mean_denoiser(self, params: PyTree, given: dict) -> Denoiser:
        """Makes the denoiser of the diagonal u(x, t, t) = v: what samplers, likelihoods and guidance take."""
        none = {**given, "gap": jnp.zeros(GAP)}
        apply = lambda params, given, x, c: self.network.apply(params, x, c, given)
        return denoisers.denoiser(Partial(apply, params, none), self.process.schedule, self.target)

    def method(self) -> Method:
        """Makes the method: what these parts train, and how they draw."""
        return flow_map(**self._asdict())


@pytree
class Jumps:
    """How to draw: the times before and after each step, (n,) each; what is drawn, and what is kept of it."""

    t: Array
    r: Array
    shape: tuple[int, ...] = static()
    trace: Callable | None = static(default=None)

    @property
    def nfe(self) -> int:
        """The network's evaluations in one draw."""
        return len(self.t)


@drawing("steps")
def flow_map(
    network: Any,
    process: Any,
    times: Callable[[Schedule], Callable] = TIMES,
    same: float = 0.5,
    power: float = 0.0,
    floor: float = 1e-2,
    steps: int = 1,
    sigma_data: float = 1.0,
) -> Method:
    """Makes the method of these parts (`FlowMap`).

    Raises:
        ValueError: for numbers out of their range, a network that is told of no second time, a process whose x_t has
            conditions, or a schedule without an inverse or whose alpha', sigma' are infinite at an end.
    """
    of = FlowMap(network, process, times, same, power, floor, steps, sigma_data)
    _check(of)
    schedule, times = process.schedule, of.times(process.schedule)

    def init(key: Key, example: Example) -> PyTree:
        return network.init(key, example.x, jnp.zeros(()), {**example.given, "gap": jnp.zeros(GAP)})

    def loss(params: PyTree, keys: Keys, example: Example, index: Array, size: int) -> tuple[Array, dict[str, Array]]:
        key_pair, key_noise, key_dropout = jax.random.split(keys.example, 3)
        x, chosen = example.x, example.chosen
        t, r = pair(times, of.same, Keys(keys.step, key_pair), index, size)
        t, r = chosen.get("t", t), chosen.get("r", r)
        z = chosen["z"] if "z" in chosen else process.noise(key_noise, x)
        (x0, z1), (a, b) = process.ends(x, z, t), of.target(schedule, t)
        u = of.velocity(params, example.given, train=True, key=key_dropout)
        e = residual(lambda x, t: u(x, t, r), process.corrupt(x, z, t), t, r, a * x0 + b * z1)
        error = jnp.mean(e**2)
        weight = jax.lax.stop_gradient((jnp.sum(e**2) + of.floor) ** -of.power) if of.power else 1.0  # (meanflow.3)
        return weight * error, {"t01": t / schedule.t_max, "unweighted": error}

    def plan(shape: tuple[int, ...], trace: Callable | None = None) -> Jumps:
        ts = jnp.asarray(np.linspace(float(schedule.t_max), 0, of.steps + 1), jnp.float32)
        return Jumps(ts[:-1], ts[1:], shape, trace)

    def draw(params: PyTree, request: Jumps, key: Key, given: dict) -> Any:
        u = of.velocity(params, given)

        def jump(x: Array, row: tuple[Array, Array]) -> tuple[Array, Any]:
            t, r = row
            x = x - (t - r) * u(x, t, r)  # (meanflow.2)
            return x, (request.trace(x) if request.trace else None)

        x, trajectory = jax.lax.scan(jump, process.prior(key, request.shape), (request.t, request.r))
        return (x, trajectory) if request.trace else x

    def report(run: Any, drawn: Drawn) -> list[Section]:
        return [_agreement(of, run, drawn)]

    read = None if network.reads is None else tuple(name for name in network.reads if name != "gap")
    return Method(init, (Turn(per_example(loss)),), draw, plan, asks=read, parts=of, report=report)


def pair(times: Callable, same: float, keys: Keys, index: Array, size: int) -> tuple[Array, Array]:
    """Draws (t, r): two draws of a law of one time, the later first; r = t for the share `same`.

    The second has another order of the batch, i -> i stride mod size: of stratified times the pairs are a lattice in
    the square, where one order would give all of them one distance.
    """
    fold = lambda n: Keys(jax.random.fold_in(keys.step, n), jax.random.fold_in(keys.example, n))
    one, other = times(fold(0), index, size), times(fold(1), index * _stride(size) % size, size)
    t, r = jnp.maximum(one, other), jnp.minimum(one, other)
    return t, jnp.where(jax.random.bernoulli(fold(2).example, same), t, r)


def _stride(size: int) -> int:
    """The number next to the golden section of a batch's size that has no factor in common with it."""
    return next(n for n in range(max(round(0.618 * size), 1), size + 2) if math.gcd(n, size) == 1)


def _slopes_at(schedule: Schedule, t: Array) -> tuple[Array, Array]:
    return calculus.derivatives(schedule, t)[1]


def _check(of: FlowMap) -> None:
    host.check_int("steps", of.steps, most=100_000)
    for name, value, low, high in (("same", of.same, 0, 1), ("power", of.power, 0, 4)):
        if not low <= value <= high:
            raise ValueError(f"Got {name} = {value!r}, expected a number in [{low}, {high}].")
    for name, value in (("floor", of.floor), ("sigma_data", of.sigma_data)):
        if not 0 < value < np.inf:
            raise ValueError(f"Got {name} = {value!r}, expected a positive number.")
    if of.network.reads is not None and "gap" not in of.network.reads:
        raise ValueError(
            f"A flow map tells its network a second time as given['gap'], {GAP} numbers, but this one reads "
            f"{', '.join(of.network.reads) or 'nothing'} of `given`: set the model's gap={GAP} (MLP)."
        )
    if of.process.conditions:
        raise ValueError(
            f"A flow map goes from noise to data, but x_t of {type(of.process).__name__} also depends on "
            f"{', '.join(of.process.conditions)}: take processes.gaussian or path.rectified."
        )
    schedule = of.process.schedule
    calculus.time_of(schedule, 0.0)  # refuses a schedule without an inverse
    ends = np.asarray([0.0, float(schedule.t_max)])
    slopes = np.stack(host.along(_slopes_at, schedule, ends))
    if not np.all(np.isfinite(slopes)):
        raise ValueError(
            f"{type(schedule).__name__} starts or ends with an infinite slope (alpha', sigma' = "
            f"{slopes[:, 0].tolist()} at 0, {slopes[:, 1].tolist()} at t_max), which no mean velocity has: take "
            "schedule.name=Rectified, EDM or VDM."
        )


def _agreement(of: FlowMap, run: Any, drawn: Drawn) -> Section:
    """How far one noise ends apart in other numbers of steps: nowhere for a flow map, X_{s->r} X_{t->s} = X_{t->r}."""
    n = min(JUDGED, len(drawn.x))
    given, keys = jax.tree.map(lambda a: a[:n], drawn.given), jax.random.split(jax.random.key(0), n)

    def samples(steps: int) -> np.ndarray:
        method = of._replace(steps=steps).method()
        each = lambda key, given: method.draw(run.params, method.plan(run.data.shape), key, given)
        return np.asarray(jax.jit(jax.vmap(each))(keys, given), np.float64)

    made = {steps: samples(steps) for steps in STEPS}
    most = made[STEPS[-1]]
    apart = {n: float(np.sqrt(np.mean((x - most) ** 2)) / most.std()) for n, x in made.items() if n != STEPS[-1]}
    said = ", ".join(f"{value:.4f} in {steps}" for steps, value in apart.items())
    text = (
        f"\n## Agreement\n\nThe same noise in {STEPS[-1]} evaluations and in fewer ends apart (root mean square over "
        f"the samples' standard deviation): {said}; an exact flow map: 0.\n"
    )
    return Section({"flow_map": {"apart": {str(steps): value for steps, value in apart.items()}}}, text)
