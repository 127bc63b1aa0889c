"""Estimates of the field that a generator follows: who learns it, down which loss, and how it is read.

An estimate names the players that `learns` it beside the generator, makes their first parameters, computes their
loss of a datum and a sample, and computes V of a sample (`losses.fields`). `methods.matching` plays them against a
generator.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from diffjax import denoisers, host, losses
from diffjax.calculus import told
from diffjax.denoisers.targets import Target
from diffjax.losses import fields, matching
from diffjax.method import Example, Keys
from diffjax.methods import kinds
from diffjax.types import Array, Key, PyTree, Schedule

SPAN = (0.02, 0.98)  # of t / t_max, the noise that a field is looked at under: the published one (arXiv 2311.18828)


class Estimate(Protocol):
    """What an estimate of one's own has, to be played by `methods.matching.Matching(Generator(...), yours).method()`.

    Where nobody learns the field, `learns` is empty, and `field` sees the batch at once, as `Batch.field` says.

    Attributes:
        learns: the players that it moves beside the generator, names of what `init` makes; () for none.
    """

    learns: tuple[str, ...]

    def init(self, key: Key, example: Example) -> dict[str, PyTree]:
        """Makes the first parameters of its players, by name; {} where there are none."""
        ...

    def learn(
        self, params: PyTree, keys: Keys, example: Example, sample: Array, index: Array, size: int
    ) -> tuple[Array, dict[str, Array]]:
        """Computes the loss that its players go down, of a datum and a sample, and scalars to log."""
        ...

    def field(self, params: PyTree, keys: Keys, example: Example, sample: Array) -> Array:
        """Computes V of a sample, of the sample's shape."""
        ...

    def check(self) -> None:
        """Raises a ValueError for what cannot be played."""
        ...


class Critic(NamedTuple):
    """The estimate by a critic of data and samples.

    Attributes:
        critic: network of an example whose outputs add up to d.
        h: a name of `matching.H`, or an increasing function of the logit.
        pairs: whether data and samples are told apart in pairs.
        r1, r2, between: weights of half the squared slope of d at data, at samples, and on the line between them.
        schedule: of the noise that the critic sees; None: none.
        span: of that noise's t / t_max.
    """

    critic: Any
    h: str | Callable = "gan"
    pairs: bool = False
    r1: float = 0.0
    r2: float = 0.0
    between: float = 0.0
    schedule: Schedule | None = None
    span: tuple[float, ...] = SPAN

    learns = ("critic",)

    def init(self, key: Key, example: Example) -> dict[str, PyTree]:
        """Makes the critic's first parameters, under its name."""
        try:
            return {"critic": self.critic.init(key, example.x, jnp.zeros(()), example.given)}
        except (TypeError, ValueError) as error:
            said = " ".join(str(error).split())
            raise ValueError(f"The critic takes no example of shape {example.x.shape}: {said}") from error

    def logit(self, params: PyTree, given: dict, **options: Any) -> Callable[[Array, Any], Array]:
        """Makes (x_t, t) -> d, a scalar, of the critic's own parameters."""

        def d(x: Array, t: Any) -> Array:
            c = jnp.zeros(()) if self.schedule is None else told(self.schedule, t)
            return jnp.sum(self.critic.apply(params, x, c, given, **options))

        return d

    def learn(self, params: PyTree, keys: Keys, example: Example, sample: Array, index: Array, size: int) -> tuple:
        """Computes the critic's loss of a datum and a sample, and what to log."""
        key_t, key_z, key_u, key_dropout = jax.random.split(keys.example, 4)
        t, (x, y) = self._seen(key_t, key_z, example.x, sample)
        logit = self.logit(params["critic"], example.given, train=True, key=key_dropout)
        d = lambda x: logit(x, t)
        at_data, at_sample = d(x), d(y)
        loss = (matching.paired if self.pairs else matching.apart)(at_data, at_sample)
        line = lambda: x + jax.random.uniform(key_u) * (y - x)
        for weight, where in ((self.r1, lambda: x), (self.r2, lambda: y), (self.between, line)):
            loss += weight * matching.steepness(d, where()) if weight else 0.0
        return loss, {"gap": at_data - at_sample}

    def field(self, params: PyTree, keys: Keys, example: Example, sample: Array) -> Array:
        """Computes V of a sample, beside the datum of its place."""
        key_t, key_z = jax.random.split(keys.example)
        t, (x, y) = self._seen(key_t, key_z, example.x, sample)
        d = self.logit(params["critic"], example.given)
        return fields.classifier(d, self.h, self.schedule, d(x, t) if self.pairs else 0.0)(y, t)

    def _seen(self, key_t: Key, key_z: Key, *xs: Array) -> tuple[Any, list[Array]]:
        """A time, and examples as the critic sees them there."""
        if self.schedule is None:
            return jnp.zeros(()), list(xs)
        t = _time_in(self.span, self.schedule, key_t)
        alpha, sigma = self.schedule(t)
        keys = jax.random.split(key_z, len(xs))
        return t, [alpha * x + sigma * jax.random.normal(key, x.shape) for key, x in zip(keys, xs, strict=True)]

    def check(self) -> None:
        """Raises a ValueError for numbers out of their range, or an h that does not increase."""
        kinds.check_network("critic", self.critic)
        matching.increasing(self.h)
        for name in ("r1", "r2", "between"):
            if not 0 <= getattr(self, name) < np.inf:
                raise ValueError(f"Got {name} = {getattr(self, name)!r}, expected a weight, 0 or more.")
        _check_span(self.span)


def of_means(real: Callable, fake: Callable, process: Any, target: Target, scale: str) -> fields.Field:
    """Makes the field of two networks (x_in, c) -> F that denoise."""
    known = [denoisers.denoiser(net, process.schedule, target) for net in (real, fake)]
    return fields.scores(known[0], known[1], scale)


def of_energies(real: Callable, fake: Callable, process: Any, target: Target, scale: str) -> fields.Field:
    """Makes the field of two networks (x_in, c) -> (F, e) that are gradients of energies."""
    known = [denoisers.EnergyDenoiser(net, process.schedule, target) for net in (real, fake)]  # no mean is asked for
    return fields.energies(known[0], known[1], process.schedule, scale)


class Pair(NamedTuple):
    """The estimate by two networks, one that denoises data and one that denoises samples.

    Attributes:
        real, fake: the networks, of one target.
        process: what x_t is.
        target: what they predict.
        times: schedule -> the law of the times that they learn at.
        teacher: whether `real` is as a finished run left it, and does not move.
        scale: a name of `fields.SCALES`.
        span: of t / t_max, uniform, where the field is looked at.
        loss: (net, process, target, x0, z, t) -> scalar, by which they learn.
        difference: (real, fake, process, target, scale) -> field, of networks (x_in, c) -> F.
    """

    real: Any
    fake: Any
    process: Any
    target: Target
    times: Callable[[Schedule], Callable]
    teacher: bool = False
    scale: str = "noise"
    span: tuple[float, ...] = SPAN
    loss: Callable = losses.regression
    difference: Callable = of_means

    @property
    def learns(self) -> tuple[str, ...]:
        """The players that turns move beside the generator."""
        return ("fake",) if self.teacher else ("real", "fake")

    def init(self, key: Key, example: Example) -> dict[str, PyTree]:
        """Makes the first parameters of both networks, by name."""
        keys = jax.random.split(key)
        first = lambda net, key: net.init(key, example.x, jnp.zeros(()), example.given)
        return {"real": first(self.real, keys[0]), "fake": first(self.fake, keys[1])}

    def learn(self, params: PyTree, keys: Keys, example: Example, sample: Array, index: Array, size: int) -> tuple:
        """Computes the sum of both denoising losses, of the datum and of the sample, and what to log."""
        x0, total, logged = {"real": example.x, "fake": sample}, 0.0, {}
        times = self.times(self.process.schedule)
        for n, who in enumerate(self.learns):
            own = Keys(jax.random.fold_in(keys.step, n), jax.random.fold_in(keys.example, n))
            key_noise, key_dropout = jax.random.split(jax.random.fold_in(own.example, 1))
            net = partial(self.apply(who), params[who], example.given, train=True, key=key_dropout)
            t, z = times(own, index, size), self.process.noise(key_noise, x0[who])
            logged[f"loss/{who}"] = self.loss(net, self.process, self.target, x0[who], z, t)
            total += logged[f"loss/{who}"]
        return total, logged

    def field(self, params: PyTree, keys: Keys, example: Example, sample: Array) -> Array:
        """Computes V of a sample."""
        key_t, key_z = jax.random.split(keys.example)
        t = _time_in(self.span, self.process.schedule, key_t)
        x = self.process.corrupt(sample, self.process.noise(key_z, sample), t)
        nets = [Partial(self.apply(who), params[who], example.given) for who in ("real", "fake")]
        return self.difference(*nets, self.process, self.target, self.scale)(x, t)

    def apply(self, who: str) -> Callable:
        """Makes (params, given, x_in, c) -> F of one network."""
        network = getattr(self, who)
        return lambda params, given, x, c, **options: network.apply(params, x, c, given, **options)

    def check(self) -> None:
        """Raises a ValueError for numbers out of their range, or a process whose field is no difference of scores."""
        for who in ("real", "fake"):
            kinds.check_network(who, getattr(self, who))
        if self.scale not in fields.SCALES:
            raise ValueError(f"Got scale = {self.scale!r}, expected one of {', '.join(fields.SCALES)}.")
        _check_span(self.span)
        ends = host.float64(self.process.schedule, np.float64(self.span[0] * float(self.process.schedule.t_max)))
        if not ends[1] > 0:
            raise ValueError(f"Got span = {self.span}, where sigma is 0 and no score is known; expected sigma > 0.")


class Batch(NamedTuple):
    """The estimate by a kernel over the batch: nobody learns it.

    Attributes:
        kernel: of `fields.kernel`.
    """

    kernel: fields.Kernel

    learns = ()

    def init(self, key: Key, example: Example) -> dict[str, PyTree]:
        """Makes the parameters of a kernel's players: none, for it learns nothing."""
        return {}

    def field(self, data: Array, samples: Array, index: Array, gather: Callable) -> Array:
        """Computes V (B, *shape) of a device's samples, among data and samples of all devices."""
        all_data, all_samples = gather((data, samples))
        drifts = jax.vmap(self.kernel.drifts, (0, None, None, 0))(samples, all_data, all_samples, index)
        squares = jnp.mean(gather(drifts**2), axis=(0, *range(2, drifts.ndim)))
        return jax.vmap(self.kernel.total, (0, None))(drifts, squares)

    def check(self) -> None:
        """Accepts every kernel that could be made."""


def _time_in(span: tuple[float, ...], schedule: Schedule, key: Key) -> Array:
    return schedule.t_max * jax.random.uniform(key, minval=span[0], maxval=span[1])


def _check_span(span: tuple[float, ...]) -> None:
    if not (len(span) == 2 and 0 <= span[0] < span[1] <= 1):
        raise ValueError(f"Got span = {span}, expected two shares of t_max, 0 <= low < high <= 1.")
