"""Denoising: a network learns what is known of x_0 given x_t, and a sampler walks with it from noise to data.

The method of all processes with a schedule: Gaussian, bridge, Poisson, paths. What needs the schedule is given as a
function of it, `losses.times.stratified` rather than `losses.times.stratified(schedule)`: the schedule is said once, by
the process, and a learned clock can put another in its place.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from diffjax import chains, denoisers, grids, losses, samplers
from diffjax.denoisers.targets import Target
from diffjax.method import Example, Keys, Method, Turn, per_example
from diffjax.methods.conditions import Condition, condition
from diffjax.types import Array, Denoiser, Key, PyTree, Schedule, pytree, static


def _as_it_is(key: Key, x: Array) -> tuple[Array, None]:
    return x, None


def _nothing(schedule: Schedule) -> None:
    return None


class Denoising(NamedTuple):
    """The parts, and what follows from them alone.

    Attributes:
        network: init, apply; reads `given`.
        process, target: what x_t is, and what the network predicts.
        loss: (net, process, target, x0, z, t, weight) -> scalar.
        weight: (schedule, target, t) -> scalar.
        times, prepare, sampler, grid: schedule -> the thing.
        augment: (key, x) -> (x, what was done to it or None), in training.
        condition: which of `given` may be hidden.
        variance: (net, schedule, target, chain) -> denoiser.
        guidance: (given -> denoiser, given, hidden) -> denoiser.
    """

    network: Any
    process: Any
    target: Target
    loss: Callable = losses.regression
    weight: Callable = losses.weights.unit()
    times: Callable[[Schedule], Callable] = losses.times.stratified
    prepare: Callable[[Schedule], Any] = _nothing
    augment: Callable = _as_it_is
    condition: Condition = condition()
    variance: Callable = denoisers.variance.mean
    guidance: Callable = denoisers.guidance.none
    sampler: Callable[[Schedule], Any] = samplers.ancestral.ddim
    grid: Callable[[Schedule], Any] = partial(grids.log_snr, n=40)

    @property
    def schedule(self) -> Schedule:
        """The process's."""
        return self.process.schedule

    def net(self, params: PyTree, given: dict, **options: Any) -> Partial:
        """(x_in, c) -> F."""
        apply = lambda params, given, x, c: self.network.apply(params, x, c, given, **options)
        return Partial(apply, params, given)

    def mean_denoiser(self, params: PyTree, given: dict) -> Denoiser:
        """What the network says of x_0's mean."""
        return denoisers.denoiser(self.net(params, given), self.schedule, self.target.given(given))

    def denoiser(self, params: PyTree, given: dict, chain: chains.Chain | None = None) -> Denoiser:
        """The same with a variance, for a walk along the chain."""
        return self.variance(self.net(params, given), self.schedule, self.target.given(given), chain)

    def guided_denoiser(self, params: PyTree, given: dict, chain: chains.Chain | None = None) -> Denoiser:
        """The same under guidance: what samples are made with."""
        branch = lambda given: self.denoiser(params, given, chain)
        return self.guidance(branch, given, self.condition.hidden(given))

    def method(self) -> Method:
        """What these parts train, and how they draw."""
        return denoising(**self._asdict())


@pytree
class Request:
    """How to sample: along which rows, from which time; a pytree, so that another of its length is no retrace."""

    walk: Partial
    start: Array
    chain: chains.Chain
    shape: tuple[int, ...] = static()


def denoising(network: Any, process: Any, target: Target, **parts: Any) -> Method:
    """The method of these parts (`Denoising`)."""
    of = Denoising(network, process, target, **parts)
    schedule = of.schedule
    denoisers.targets.check_target(target, schedule, schedule.t_max)
    process.check(target)
    prepare, times = of.prepare(schedule), of.times(schedule)

    def init(key: Key, example: Example) -> PyTree:
        return network.init(key, example.x, jnp.zeros((), jnp.float32), example.given)

    def loss(params: PyTree, keys: Keys, example: Example, index: Array, size: int) -> tuple[Array, dict[str, Array]]:
        own = lambda n: jax.random.fold_in(keys.example, n)
        t = example.chosen["t"] if "t" in example.chosen else times(keys, index, size)
        key_noise, key_dropout = jax.random.split(own(1))
        x, done = of.augment(own(2), example.x)
        given = example.given if done is None else {**example.given, "augment": done}
        given = process.given(own(4), of.condition.drop(own(3), given), x.shape, example.x)
        net = of.net(params, given, train=True, key=key_dropout)
        z = example.chosen["z"] if "z" in example.chosen else process.noise(key_noise, x)
        value = of.loss(net, process, target.given(given), x, z, t, of.weight)
        aux = {"t01": t / schedule.t_max}
        if "weight" in example.chosen:
            return example.chosen["weight"] * value, {**aux, "unweighted": value}
        return value, aux

    def plan(shape: tuple[int, ...], trace: Callable | None = None) -> Request:
        ts, sampler = of.grid(schedule), of.sampler(schedule)
        walked = ts[1:] if samplers.pinned(schedule, ts) else ts  # the chain of the steps between two noise levels
        chain = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), chains.chain(schedule, walked))
        return Request(samplers.walking_fn(sampler, ts, trace), jnp.asarray(ts[0], jnp.float32), chain, shape)

    def draw(params: PyTree, request: Request, key: Key, given: dict) -> Any:
        key_prior, key_walk = jax.random.split(key)
        given = process.given(jax.random.fold_in(key_prior, 1), given, request.shape)
        denoise = of.guided_denoiser(params, given, request.chain)
        return request.walk(denoise, key_walk, process.prior(key_prior, request.shape, request.start))

    def learned(memory: PyTree) -> Method:
        return of._replace(process=process.on(prepare.schedule(memory))).method()

    told = {*process.conditions, "augment"}  # by the process and by the augmentation, not by data
    read = None if network.reads is None else (*process.asks, *(name for name in network.reads if name not in told))
    clock = prepare is not None and prepare.schedule is not None
    return Method(
        init,
        (Turn(per_example(loss)),),
        draw,
        plan,
        prepare=prepare,
        learned=learned if clock else None,
        asks=read,
        parts=of,
    )


def only(method: Method, freeze: Callable[[PyTree], PyTree]) -> Method:
    """The method whose losses see `freeze(params)`: no gradient flows to what is not trained, nor is it computed."""
    seen = lambda turn: turn._replace(losses=lambda params, *rest: turn.losses(freeze(params), *rest))
    return method._replace(turns=tuple(map(seen, method.turns)))


def validation(of: Denoising, denoise: Callable[[PyTree, dict], Denoiser]) -> Callable:
    """Losses of `denoise(params, given)`'s mean: the weighted regression, whatever the training loss was."""
    process, schedule, target, times = of.process, of.schedule, of.target, of.times(of.schedule)

    def loss(params: PyTree, keys: Keys, example: Example, index: Array, size: int) -> tuple[Array, dict[str, Array]]:
        t, x = times(keys, index, size), example.x
        key_noise, _ = jax.random.split(jax.random.fold_in(keys.example, 1))
        z = example.chosen["z"] if "z" in example.chosen else process.noise(key_noise, x)
        x_t, (aim, _) = process.corrupt(x, z, t), process.ends(x, z, t)
        given = process.given(jax.random.fold_in(keys.example, 4), example.given, x.shape, x)
        error = jnp.mean((denoise(params, given)(x_t, t).mean - aim) ** 2)
        in_network_space = error / target.skip_out(schedule, t)[1] ** 2
        return of.weight(schedule, target, t) * in_network_space, {"t01": t / schedule.t_max}

    return per_example(loss)
