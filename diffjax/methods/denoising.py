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

from diffjax import calculus, chains, denoisers, grids, losses, samplers
from diffjax.denoisers.targets import Target, check_target
from diffjax.method import Example, Keys, Method, Section, Turn, per_example
from diffjax.methods import density, parts
from diffjax.methods.conditions import Condition
from diffjax.methods.evaluation import remarks, report
from diffjax.methods.examples import check_real
from diffjax.methods.kinds import check_kinds
from diffjax.methods.planning import made_for, planned_sampler
from diffjax.types import Array, Denoiser, Key, PyTree, Schedule


def _as_it_is(key: Key, x: Array) -> tuple[Array, None]:
    return x, None


class Denoising(NamedTuple):
    """The parts of a denoising method, and what follows from them alone; `denoising` says what each is."""

    network: Any
    process: Any
    target: Target
    loss: Callable
    weight: Callable
    times: Callable[[Schedule], Callable]
    prepare: Callable[..., Any]
    augment: Callable
    condition: Condition
    denoiser: Callable
    guidance: Callable
    sampler: Callable[[Schedule], Any]
    grid: Callable[[Schedule], Any]

    numbers = ("held_out_loss", "bits_per_dimension")  # of an evaluation, beside those of its judge
    drawn_by = ("sampler", "grid", "denoiser", "guidance", "nfe")  # what another draw may change
    meant = parts.MEANT

    schedule = property(parts.schedule)
    needs = property(parts.needs)
    net, completed, worded, how = parts.net, parts.completed, parts.worded, parts.how
    check_model, check_examples = parts.check_model, check_real

    def mean_denoiser(self, params: PyTree, given: dict) -> Denoiser:
        """Makes the denoiser that knows x_0's mean alone, without options."""
        return denoisers.denoiser(self.net(params, given), self.schedule, self.target.given(given))

    def plain_denoiser(self, params: PyTree, given: dict, chain: chains.Chain | None = None) -> Denoiser:
        """Makes the denoiser with its rule for the variance, for a walk along the chain."""
        return self.denoiser(self.net(params, given), self.schedule, self.target.given(given), chain)

    def guided_denoiser(self, params: PyTree, given: dict, chain: chains.Chain | None = None) -> Denoiser:
        """Makes the denoiser under guidance: what samples are made with."""
        branch = lambda given: self.plain_denoiser(params, dict(given), chain)
        return self.guidance(branch, given, self.condition.unseen(given))

    def likelihood(self, run: Any, most: int = density.bound.MOST) -> Section:
        """Measures what a run says of the probability of its data, by its flow and by its bound (`methods.density`)."""
        return density.section(run, self, most)

    def check_loss(self, params: PyTree, example: Example) -> None:
        """Traces the loss of one example at a known time; raises a ValueError where the chain has no such step."""
        key, index = jax.random.key(0), jnp.int32(0)
        t = example.chosen["t"] if "t" in example.chosen else self.times(self.schedule)(Keys(key, key), index, 1)

        def loss(params: PyTree, x: Array) -> Array:
            x, done = self.augment(key, x)
            told = example.given if done is None else {**example.given, "augment": done}
            given = self.process.given(key, told, x.shape, x)
            x = self.process.enter(x)
            z, target = self.process.noise(key, x), self.target.given(given)
            return self.loss(self.net(params, given), self.process, target, x, z, t, self.weight)

        jax.eval_shape(loss, params, example.x)

    def remarks(self, dataset: Any) -> list[str]:
        """Says what of a data set does not suit these parts, a line each."""
        return remarks(self, dataset)

    def method(self) -> Method:
        """Makes the method of these parts."""
        return denoising(**self._asdict())

    def specs(self) -> dict[str, dict[str, Any]]:
        """Names the sampler, the grid and the denoiser: {"sampler": {"name", options}, ...}."""
        return parts.specs(self, ("sampler", "grid", "denoiser"))


def denoising(
    network: Any,
    process: Any,
    target: Target,
    loss: Callable = losses.regression,
    weight: Callable = losses.weights.unit(),  # noqa: B008
    times: Callable[[Schedule], Callable] = losses.times.stratified,
    prepare: Callable[..., Any] = losses.prepare.nothing,
    augment: Callable = _as_it_is,
    condition: Condition = Condition({}),  # noqa: B008
    denoiser: Callable = denoisers.variance.mean,
    guidance: Callable = denoisers.guidance.none,
    sampler: Callable[[Schedule], Any] = samplers.ancestral.ddim,
    grid: Callable[[Schedule], Any] = partial(grids.log_snr, n=40),  # noqa: B008
) -> Method:
    """Makes the method that learns to denoise and draws by a sampler's walk.

    Args:
        network: init and apply, `models.of(module)`; reads `given`.
        process: what x_t is: `processes.Gaussian(schedule)`, a bridge, Poisson's, a path.
        target: what the network predicts, as a pair (a, b).
        loss: (net, process, target, x0, z, t, weight) -> scalar.
        weight: (schedule, target, t) -> scalar.
        times: schedule -> (keys, index, size) -> t, a training time.
        prepare: schedule -> what happens to the whole batch first, or None; or process -> it, as of the sampler.
        augment: (key, x) -> (x, what was done to it or None), in training.
        condition: which of `given` may be hidden, in training and by guidance.
        denoiser: (net, schedule, target, chain) -> denoiser, the mean with a rule for its variance.
        guidance: (given -> denoiser, given, hidden) -> denoiser.
        sampler: schedule -> sampler, or process -> sampler, if its first parameter has that name (`samplers.unified`).
        grid: schedule -> times (N + 1,).

    Raises:
        ValueError: for a part of the wrong kind; a target that is not finite on this schedule, or that the process does
            not go with; a network that reads what the process hides from it.
    """
    of = Denoising(
        network, process, target, loss, weight, times, prepare, augment, condition, denoiser, guidance, sampler, grid
    )
    check_kinds(of)
    condition.check(network.reads)
    schedule = of.schedule
    calculus.check(schedule)
    check_target(target, schedule, schedule.t_max)
    process.check(target)
    if told := [name for name in network.reads or () if name in process.hidden]:
        raise ValueError(
            f"The network reads {', '.join(told)}, which {type(process).__name__} hides from it: the drift of a Markov "
            "process is a function of x_t and t alone. Set model.condition=0, or process.name=bridge."
        )
    read = None if network.reads is None else of.needs
    prepared, drawn_times = _shown_what_is_read(made_for(of.prepare, process), read), of.times(schedule)

    def init(key: Key, example: Example) -> PyTree:
        return network.init(key, example.x, jnp.zeros((), jnp.float32), parts.shown(of, example.given))

    def one_loss(
        params: PyTree, keys: Keys, example: Example, index: Array, size: int
    ) -> tuple[Array, dict[str, Array]]:
        own = lambda n: jax.random.fold_in(keys.example, n)
        t = example.chosen["t"] if "t" in example.chosen else drawn_times(keys, index, size)
        key_noise, key_dropout = jax.random.split(own(1))
        x, done = of.augment(own(2), example.x)
        given = example.given if done is None else {**example.given, "augment": done}
        given = process.given(own(4), of.condition.drop(own(3), given), x.shape, example.x)
        net, x = of.net(params, given, train=True, key=key_dropout), process.enter(x)
        z = process.enter(example.chosen["z"]) if "z" in example.chosen else process.noise(key_noise, x)
        value = of.loss(net, process, target.given(given), x, z, t, of.weight)
        aux = {"t01": t / schedule.t_max}
        if "weight" in example.chosen:
            return example.chosen["weight"] * value, {**aux, "unweighted": value}
        return value, aux

    def plan(shape: tuple[int, ...], trace: Callable | None = None) -> parts.Request:
        ts, sampler = of.grid(schedule), planned_sampler(of.sampler, process)
        walked = ts[1:] if samplers.pinned(schedule, ts) else ts  # the chain of the steps between two noise levels
        chain = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), chains.chain(schedule, walked))
        walk, start = samplers.walking_fn(sampler, ts, trace), jnp.asarray(ts[0], jnp.float32)
        return parts.Request(walk, start, chain, shape, sampler.fitted_to)

    def draw(params: PyTree, request: parts.Request, key: Key, given: dict) -> Any:
        key_prior, key_walk = jax.random.split(key)
        given = of.completed(key, given, request.shape)
        denoise = of.guided_denoiser(params, given, request.chain)
        found = request.walk(denoise, key_walk, process.prior(key_prior, request.shape, request.start))
        return (process.leave(found[0]), *found[1:]) if isinstance(found, tuple) else process.leave(found)

    def learned(memory: PyTree) -> Method:
        return of._replace(process=process.on(prepared.schedule(memory))).method()

    clock = prepared is not None and prepared.schedule is not None
    return Method(
        init,
        (Turn(per_example(one_loss)),),
        draw,
        plan,
        prepare=prepared,
        learned=learned if clock else None,
        asks=read,
        parts=of,
        report=report,
    )


def _shown_what_is_read(prepare: Any, read: tuple[str, ...] | None) -> Any:
    """Hides from `prepare` what of `given` nobody reads: pairs are kept within what sampling conditions on, no more."""
    if prepare is None or read is None:
        return prepare

    def apply(memory: PyTree, key: Key, batch: Example) -> Example:
        seen = batch._replace(given={name: part for name, part in batch.given.items() if name in read})
        done = prepare.apply(memory, key, seen)
        return done._replace(given={**batch.given, **done.given})

    return prepare._replace(apply=apply)
