"""Generators that follow a field: one turn of the generator, and turns of those who know where data is and samples are.

A step is k turns of the players that learn the field, and one of the generator, which moves its samples along it
(`losses.matching`, one code for all fields); or one turn that moves all of them at once. What is learned, and how, is
an estimate's own (`methods.estimates`; `losses.fields` has the four):

    classifier    `critic`, by logistic regression, of data and samples apart or in pairs, with slopes penalised at data
                  (R1), at samples (R2) and between them (zero-centred); of x_t where `noised`
    energies      `real` and `fake`, scalars whose gradients denoise data and samples
    scores        `real` and `fake`, denoisers; with a `teacher`, `real` is a finished run's and does not move
    kernel        nobody: the batch is the field

G(z) is a denoiser at one time, the last: with a target that keeps x_t, such as Velocity on the line, G is the identity
on noise where a network begins with zeros. One that predicts x_0 would begin as one point, where no field is known.

The generator alone is served. Its average is updated once for each of its own turns, however many the others have.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffjax import host, losses
from diffjax.denoisers.targets import Eps, Target
from diffjax.losses import fields, matching
from diffjax.method import KEY_AXES, Example, Keys, Method, Turn, keys_of, per_example
from diffjax.methods import codelength, kinds, shapes
from diffjax.methods.estimates import SPAN, Batch, Critic, Pair, of_energies
from diffjax.methods.examples import check_real
from diffjax.types import Array, Key, PyTree, Schedule

__all__ = ["classifier", "energies", "kernel", "scores"]  # what a config may name

SKIP = 0.1  # least share of its noise that a generator begins with


class Generator(NamedTuple):
    """A generator read as a denoiser at one time.

    Attributes:
        network: init, apply; reads `given`.
        process: whose noise at the time `at` is the generator's input.
        target: how the network's output is read.
        at: that time; None: the last.
    """

    network: Any
    process: Any
    target: Target
    at: float | None = None

    def noise(self, key: Key, shape: tuple[int, ...]) -> Array:
        """Draws the generator's input, x_t at its time."""
        return self.process.prior(key, shape, self._time())

    def make(self, params: PyTree, z: Array, given: dict, **options: Any) -> Array:
        """Makes an example G(z) of noise z; `params` are the network's own."""
        schedule, t = self.process.schedule, self._time()
        F = self.network.apply(params, *self.target.inputs(schedule, z, t), given, **options)
        if F.shape != z.shape:
            raise ValueError(f"The generator makes examples of shape {F.shape}, expected {z.shape}, the data's.")
        return self.target.mean(schedule, z, F, t)

    def init(self, key: Key, example: Example) -> PyTree:
        """Makes the network's first parameters."""
        return self.network.init(key, example.x, jnp.zeros(()), example.given)

    def check(self) -> None:
        """Raises a ValueError for what is no network or process, a time out of range, or a target that is no use."""
        kinds.check_network("generator", self.network)
        if not hasattr(self.process, "schedule"):
            raise ValueError(
                f"Got {type(self.process).__name__}, expected a process: processes.Gaussian(schedule), say."
            )
        schedule = self.process.schedule
        if self.at is not None and not 0 < self.at <= float(schedule.t_max):
            raise ValueError(f"Got at = {self.at!r}, expected a time in (0, {float(schedule.t_max):g}].")
        t = np.float64(schedule.t_max if self.at is None else self.at)
        skip, sigma = host.float64(lambda t: (self.target.skip_out(schedule, t)[0], schedule(t)[1]), t)
        if not SKIP <= abs(skip * sigma) < np.inf:
            point = "its first samples are one point, where no field is known"
            why = point if abs(skip * sigma) < SKIP else "it is divided by alpha = 0"
            raise ValueError(
                f"{type(self.target).__name__} on {type(schedule).__name__} keeps {abs(skip * sigma):.2g} of the noise "
                f"that a generator is given, so that {why}: set target.name=Velocity with schedule.name=Rectified."
            )

    def _time(self) -> Any:
        return self.process.schedule.t_max if self.at is None else self.at


class Matching(NamedTuple):
    """The players, as functions of their parameters: {"generator", and those that the estimate names}.

    Attributes:
        generator: `noise` and `make`.
        estimate: how the field is known.
        turns: of those who learn it, in each step.
        eps: length of the generator's step along it.
        simultaneous: whether one turn moves all.
    """

    generator: Any
    estimate: Any
    turns: int = 1
    eps: float = 1.0
    simultaneous: bool = False

    likelihood, check_examples = codelength.refuse, check_real

    def method(self) -> Method:
        """Makes the method of these players."""
        return _method(self)


def classifier(
    generator: Any,
    critic: Any,
    process: Any,
    target: Target,
    h: str | Callable = "gan",
    pairs: bool = False,
    r1: float = 0.0,
    r2: float = 0.0,
    between: float = 0.0,
    noised: bool = False,
    span: tuple[float, ...] = SPAN,
    critics: int = 1,
    eps: float = 1.0,
    simultaneous: bool = False,
    at: float | None = None,
) -> Method:
    """Makes the method of a critic and a generator that climbs h of its logit; only the generator is served.

    Args:
        generator: network that is read as a denoiser at the time `at`.
        critic: network of an example whose outputs add up to d.
        process: its noise is the generator's input.
        target: how the generator's output is read.
        h: a name of `matching.H`, or an increasing function of the logit.
        pairs: data and samples told apart in pairs (relativistic), for critic and generator.
        r1, r2, between: weights of |grad d|^2 / 2 at data, at samples, on the line between them.
        noised: whether the critic sees x_t, and is told t, as the process makes it.
        span: of t / t_max, where it is.
        critics: turns of the critic in each step.
        eps: length of the generator's step.
        simultaneous: one turn that moves both.
        at: the generator's time; None: the last.

    Raises:
        ValueError: for an h that is unknown or does not increase, or another number out of its range.
    """
    of = Critic(critic, h, pairs, r1, r2, between, process.schedule if noised else None, tuple(span))
    return Matching(Generator(generator, process, target, at), of, critics, eps, simultaneous).method()


def scores(
    generator: Any,
    real: Any,
    fake: Any,
    process: Any,
    target: Target,
    times: Callable[[Schedule], Callable] = losses.times.stratified,
    teacher: bool = False,
    scale: str = "noise",
    span: tuple[float, ...] = SPAN,
    critics: int = 1,
    eps: float = 1.0,
    simultaneous: bool = False,
    at: float | None = None,
) -> Method:
    """Makes the method of two denoisers and a generator that follows the difference of their scores.

    Args:
        generator, real, fake: networks of one target; `real` denoises data, `fake` samples.
        process: what x_t is; its noise is the generator's input.
        target: what the networks predict.
        times: schedule -> the law of the times that `real` and `fake` learn at.
        teacher: whether `real` is as a finished run left it: a config sets it by train.start, whose parameters every
            player of the same network begins with.
        scale: a name of `fields.SCALES`.
        span: of t / t_max, uniform, where the field is looked at.
        critics, eps, simultaneous, at: as for `classifier`.

    Raises:
        ValueError: for a number out of its range.
    """
    of = Pair(real, fake, process, target, times, teacher, scale, tuple(span))
    return Matching(Generator(generator, process, target, at), of, critics, eps, simultaneous).method()


def energies(
    generator: Any,
    real: Any,
    fake: Any,
    process: Any,
    target: Target,
    times: Callable[[Schedule], Callable] = losses.times.stratified,
    scale: str = "noise",
    span: tuple[float, ...] = SPAN,
    critics: int = 1,
    eps: float = 1.0,
    simultaneous: bool = False,
    at: float | None = None,
) -> Method:
    """Makes the method of two energies and a generator that follows the difference of their gradients.

    Args:
        real, fake: networks of two maps, gradient and energy (`models.scalar.gradient`); both predict noise.
        target: how the generator's output is read; its sigma_data is that of the energies too.
        generator, process, times, scale, span: as for `scores`.
        critics, eps, simultaneous, at: as for `classifier`.

    Raises:
        ValueError: for a number out of its range, or the published scale, which is of means.
    """
    if scale == "published":
        raise ValueError("Got scale = 'published' for two energies, which know no mean; expected kl, noise or mean.")
    for name, network in (("real", real), ("fake", fake)):
        kinds.check_network(name, network)
        kinds.check_energy(name, network)
    noise = Eps(target.sigma_data)
    of = Pair(real, fake, process, noise, times, False, scale, tuple(span), losses.energy, of_energies)
    return Matching(Generator(generator, process, target, at), of, critics, eps, simultaneous).method()


def kernel(
    generator: Any,
    process: Any,
    target: Target,
    widths: tuple[float, ...] = (0.3, 1.0),
    kind: str = "gaussian",
    scale: str = "score",
    eps: float = 1.0,
    at: float | None = None,
) -> Method:
    """Makes the method of a generator that drifts to the batch's data and away from the batch's samples.

    Args:
        generator, process, target, eps, at: as for `classifier`.
        widths, kind, scale: as `fields.kernel` takes them.

    Raises:
        ValueError: for a generator that reads what is given, which the kernel does not compare.
    """
    if generator.reads:
        raise ValueError(
            f"The generator reads {', '.join(generator.reads)}, but a kernel compares examples of every kind with each "
            "other: take a generator that reads nothing."
        )
    return Matching(
        Generator(generator, process, target, at), Batch(fields.kernel(widths, kind, scale)), 0, eps
    ).method()


def _method(of: Matching) -> Method:
    estimate, generator = of.estimate, of.generator
    if estimate.learns:
        host.check_int("critics", of.turns, most=1024)
    if of.simultaneous and of.turns != 1:
        raise ValueError(f"Got critics = {of.turns} with simultaneous = True, one turn that moves all; expected 1.")
    host.check_positive("eps", of.eps)
    generator.check()
    estimate.check()

    def init(key: Key, example: Example) -> PyTree:
        key_own, key_others = jax.random.split(key)
        own, z = generator.init(key_own, example), generator.noise(key, example.x.shape)
        made = jax.eval_shape(generator.make, own, z, example.given).shape
        shapes.check_made("generator", made, example.x.shape)
        return {"generator": own, **estimate.init(key_others, example)}

    def made(params: PyTree, keys: Keys, example: Example) -> Array:
        key_noise, key_dropout, _ = jax.random.split(keys.example, 3)
        z = example.chosen["z"] if "z" in example.chosen else generator.noise(key_noise, example.x.shape)
        return generator.make(params["generator"], z, example.given, train=True, key=key_dropout)

    def learn(params: PyTree, keys: Keys, example: Example, index: Array, size: int) -> tuple[Array, dict[str, Array]]:
        sample = jax.lax.stop_gradient(made(params, keys, example))
        return estimate.learn(params, _rest(keys), example, sample, index, size)

    def follow(params: PyTree, keys: Keys, example: Example, index: Array, size: int) -> tuple[Array, dict[str, Array]]:
        sample = made(params, keys, example)
        still, seen = jax.lax.stop_gradient((params, sample))
        V = estimate.field(still, _rest(keys), example, seen)
        return matching.toward(sample, V, of.eps), {}

    def follow_all(
        params: PyTree, key: Key, batch: Example, index: Array, size: int, gather: Callable = lambda tree: tree
    ) -> tuple[Array, dict[str, Array]]:
        keys = keys_of(key, index)
        samples = jax.vmap(made, (None, KEY_AXES, 0))(params, keys, batch)
        V = estimate.field(batch.x, jax.lax.stop_gradient(samples), index, gather)
        return jax.vmap(partial(matching.toward, eps=of.eps))(samples, V), {}

    def together(params: PyTree, keys: Keys, example: Example, *at: Any) -> tuple[Array, dict[str, Array]]:
        (one, logged), (other, _) = learn(params, keys, example, *at), follow(params, keys, example, *at)
        return one + other, {**logged, "loss/generator": other}  # each player's gradient is of its own loss

    def draw(params: PyTree, request: shapes.Shape, key: Key, given: dict) -> Array:
        return generator.make(params["generator"], generator.noise(key, request.shape), given)

    learns = estimate.learns if len(estimate.learns) > 1 else "".join(estimate.learns)
    if not learns:
        turns = (Turn(follow_all, "generator", coupled=True),)
    elif of.simultaneous:
        turns = (Turn(per_example(together), ("generator", *estimate.learns)),)
    else:
        turns = (Turn(per_example(learn), learns),) * of.turns + (Turn(per_example(follow), "generator"),)
    return Method(init, turns, draw, shapes.plan, served=("generator",), asks=generator.network.reads, parts=of)


def _rest(keys: Keys) -> Keys:
    """Keys that no draw of the generator's is made with."""
    return Keys(keys.step, jax.random.split(keys.example, 3)[2])
