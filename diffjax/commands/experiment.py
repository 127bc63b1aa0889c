"""From a config to the objects of one experiment, and to the two pure functions made of them: loss and sampling."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from diffjax import (
    chains,
    data,
    denoisers,
    ema,
    finetune,
    grids,
    losses,
    models,
    optimizers,
    processes,
    samplers,
    schedules,
    training,
)
from diffjax.commands import checks
from diffjax.config import Config, ConfigError, build
from diffjax.data import Dataset
from diffjax.data import augment as augmentation
from diffjax.data.augment import Augment
from diffjax.denoisers.targets import Target, check_target
from diffjax.models import Network
from diffjax.types import Array, Denoiser, Key, Prepare, Process, PyTree, Schedule

GROUPS = (
    *(
        "seed",
        "data",
        "schedule",
        "process",
        "target",
        "weight",
        "times",
        "augment",
        "prepare",
        "loss",
        "denoiser",
        "guidance",
    ),
    *("model", "optimizer", "learning_rate", "ema", "train", "sampler", "grid", "sample", "checkpoint", "eval"),
)


class Experiment(NamedTuple):
    """Everything a config names, built."""

    config: Config
    dataset: Dataset
    schedule: Schedule
    process: Process
    target: Target
    weight: Callable
    times: Callable
    prepare: Prepare | None
    network: Network
    optimizer: Any
    learning_rate: Callable
    emas: ema.Ema
    augment: Augment

    @property
    def bridge(self) -> processes.Bridge | None:
        """The process, if it is a bridge: its examples then have endpoints."""
        return self.process if isinstance(self.process, processes.Bridge) else None

    @property
    def conditional(self) -> bool:
        """Whether the network takes labels."""
        return self.config.model.get("classes") is not None

    def learned(self, state: training.TrainState) -> "Experiment":
        """The experiment by the schedule that the run has learned, if it learns one: the same process and network."""
        if self.prepare is None or self.prepare.schedule is None:
            return self
        process = build(processes, self.config.process, self.prepare.schedule(jax.device_get(state.memory)))
        times = build(losses.times, self.config.times, process.schedule)
        return self._replace(schedule=process.schedule, process=process, times=times)


class Request(NamedTuple):
    """How to sample: along which rows, from which time; a pytree, so that another of its length is no retrace."""

    walk: Partial
    start: Array
    chain: chains.Chain


def build_experiment(config: Config) -> Experiment:
    """Builds what the config names, in an order that reports a slip of the pen before any data is read.

    Raises:
        ConfigError: in one line, naming the alternatives.
    """
    try:
        return _build(config)
    except (ValueError, FileNotFoundError) as error:
        raise error if isinstance(error, ConfigError) else ConfigError(str(error)) from error


def _build(config: Config) -> Experiment:
    missing = [group for group in GROUPS if group not in config]
    if missing:
        raise ConfigError(
            f"The config has no {', '.join(missing)}; it needs {', '.join(GROUPS)}, as configs/vpsde.py has them."
        )
    checks.check_train(config.train)
    checks.check_counts(config)
    process = build(processes, config.process, build(schedules, config.schedule))
    schedule = process.schedule
    schedules.check(schedule)
    target = build(denoisers, config.target)
    check_target(target, schedule, schedule.t_max)
    times, weight = build(losses.times, config.times, schedule), build(losses.weights, config.weight)
    prepare = build(losses.prepare, config.prepare, schedule)
    emas = build(ema, config.ema)
    checks.check_ema(config, emas)
    augment = build(augmentation, config.augment)
    optimizer, learning_rate = _optimizer(config)
    optimizer = finetune.frozen(optimizer, config.train.only)
    network = models.network(build(models, config.model))
    plan(config, schedule)
    dataset = build(data, config.data)
    if dataset.name == "digits" and config.eval.samples < len(dataset.held_out):
        raise ConfigError(
            f"eval.samples is {config.eval.samples}, expected at least {len(dataset.held_out)}: the gate compares with "
            "as many held-out digits."
        )
    experiment = Experiment(
        config,
        dataset,
        schedule,
        process,
        target,
        weight,
        times,
        prepare,
        network,
        optimizer,
        learning_rate,
        emas,
        augment,
    )
    checks.check_augment(experiment)
    checks.check_pairs(experiment)
    checks.check_labels(experiment)
    checks.check_maps(config)
    checks.check_endpoints(experiment)
    _check_calls(experiment, abstract_state(experiment).params)  # a network that does not suit is found here
    return experiment


def _check_calls(experiment: Experiment, params: PyTree) -> None:
    """Traces the loss and a sample of one example: what they refuse is said before anything runs."""
    key, label = jax.random.key(0), jnp.int32(0)
    x, keys = jnp.zeros(experiment.dataset.shape, jnp.float32), training.Keys(key, key)
    t = experiment.times(keys, jnp.int32(0), 1)
    if experiment.prepare is not None:
        prepared = checks.prepared_one(experiment)
        t = prepared["t"][0] if "t" in prepared else t
    if experiment.prepare is not None and experiment.prepare.schedule is not None:  # the clock that it is to learn
        build(processes, experiment.config.process, experiment.prepare.schedule(experiment.prepare.init()))
    request = plan(experiment.config, experiment.schedule)
    ends = [x] if experiment.bridge and not experiment.bridge.from_noise else []
    example = {"x": x, "label": label, "t": t, **dict(zip(["y"], ends))}
    jax.eval_shape(lambda params: loss_fn(experiment)(params, keys, example, label, 1), params)
    jax.eval_shape(lambda params: sample_one(experiment)((params, request), (key, label, *ends)), params)


def plan(config: Config, schedule: Schedule, trace: Callable | None = None) -> Request:
    """The config's sampler along its grid."""
    ts = build(grids, config.grid, schedule)
    sampler = build(samplers, config.sampler, schedule)
    pinned = not any(schedules.amplitudes(schedule, ts[:1]))  # where a bridge starts, and no chain
    walk = (samplers.bridging_fn if pinned else samplers.sampling_fn)(sampler, ts, trace)
    chain = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), chains.chain(schedule, ts[1:] if pinned else ts))
    return Request(walk, jnp.asarray(ts[0], jnp.float32), chain)


def init_state(experiment: Experiment, start: PyTree = None) -> training.TrainState:
    """The state before the first step: a function of the config's seed, and of the parameters to start from."""

    def init(key: Key, label: int | None) -> PyTree:
        params = models.init(experiment.network, key, experiment.dataset.shape, label)
        return params if start is None else finetune.take_over(params, start)

    return _state(experiment, init)


def abstract_state(experiment: Experiment) -> training.TrainState:
    """Shapes and dtypes of the state; nothing is computed.

    Raises:
        ConfigError: for a network that does not suit the data.
    """
    x, c = jnp.zeros(experiment.dataset.shape, jnp.float32), jnp.zeros((), jnp.float32)
    init = lambda key, label: experiment.network.init(
        key, x, c, None if label is None else jnp.asarray(label, jnp.int32)
    )
    try:
        return jax.eval_shape(lambda: _state(experiment, init))
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _state(experiment: Experiment, init: Callable[[Key, int | None], PyTree]) -> training.TrainState:
    key_params, key_train = jax.random.split(jax.random.key(experiment.config.seed))
    params = init(key_params, 0 if experiment.conditional else None)
    return training.init_state(params, experiment.optimizer, experiment.emas, key_train, experiment.prepare)


def loss_fn(experiment: Experiment) -> Callable:
    """(params, keys, example, index, batch_size) -> (loss, {"t01": t / t_max}) for one example.

    Where `config.prepare` gave the example its time "t", the loss's "t_weight" or its noise "z", these are taken.
    """

    def loss(
        params: PyTree, keys: Any, example: PyTree, index: Array, batch_size: int
    ) -> tuple[Array, dict[str, Array]]:
        params = finetune.freeze(params, experiment.config.train.only)
        t = example["t"] if "t" in example else experiment.times(keys, index, batch_size)
        key_noise, key_dropout = jax.random.split(jax.random.fold_in(keys.example, 1))
        x, done = experiment.augment(jax.random.fold_in(keys.example, 2), example["x"])
        options = {} if done is None else {"augment": done}
        label = _hide(experiment, jax.random.fold_in(keys.example, 3), example.get("label"))
        y = endpoint_of(experiment, jax.random.fold_in(keys.example, 4), example)
        net = _net(experiment, params, label, y, train=True, key=key_dropout, **options)
        z = example["z"] if "z" in example else experiment.process.noise(key_noise, x)
        parts = (net, experiment.process, _target(experiment, y), x, z, t, experiment.weight)
        value, aux = build(losses, experiment.config.loss, *parts), {"t01": t / experiment.schedule.t_max}
        if "t_weight" in example:
            return example["t_weight"] * value, {**aux, "unweighted": value}
        return value, aux

    return loss


def endpoint_of(experiment: Experiment, key: Key, example: PyTree) -> Array | None:
    """The endpoint of an example: its own, or drawn; None where the process is no bridge."""
    if experiment.bridge is None:
        return None
    return experiment.bridge.endpoint(key, example["x"]) if experiment.bridge.from_noise else example["y"]


def denoiser_of(
    experiment: Experiment, params: PyTree, label: Any, chain: chains.Chain, y: Array | None = None
) -> Denoiser:
    """What the config's denoiser says with these parameters, for a walk along the chain; y: a bridge's endpoint."""
    net, target = _net(experiment, params, label, y), _target(experiment, y)
    return build(denoisers.variance, experiment.config.denoiser, net, experiment.schedule, target, chain)


def guided_denoiser_of(
    experiment: Experiment, params: PyTree, label: Any, chain: chains.Chain, y: Array | None = None
) -> Denoiser:
    """The same under the config's guidance: what samples are made with."""
    branch = lambda label: denoiser_of(experiment, params, label, chain, y)
    return build(denoisers.guidance, experiment.config.guidance, branch, label, experiment.config.model.get("classes"))


def _hide(experiment: Experiment, key: Key, label: Any) -> Any:
    """The label of "none" in place of this one, for a share of the examples (Ho & Salimans 2022, algorithm 1)."""
    share = experiment.config.train.label_dropout
    if share == 0 or label is None:
        return label
    return jnp.where(jax.random.bernoulli(key, share), jnp.int32(experiment.config.model.classes), label)


def mean_denoiser(experiment: Experiment) -> Callable[..., Denoiser]:
    """(params, label, endpoint=None) -> the denoiser without options: what the network says of x_0's mean."""
    return lambda params, label, y=None: denoisers.denoiser(
        _net(experiment, params, label, y), experiment.schedule, _target(experiment, y)
    )


def sample_one(experiment: Experiment) -> Callable:
    """((params, request), (key, label)) -> x_0 for one example: its noise is a function of its key alone.

    Of a bridge (key, label, endpoint), or without the last where the endpoints are noise.
    """

    def sample(shared: tuple[PyTree, Request], own: tuple) -> Any:
        (params, request), (key, label, *ends), shape = shared, own, experiment.dataset.shape
        key_prior, key_walk = jax.random.split(key)
        if experiment.bridge and experiment.bridge.from_noise:
            ends = [experiment.bridge.endpoint_prior(jax.random.fold_in(key_prior, 1), shape)]
        denoise = guided_denoiser_of(experiment, params, label, request.chain, *ends)
        x = experiment.process.prior(key_prior, shape, request.start)
        return request.walk(denoise, key_walk, x)

    return sample


def seed_inputs(experiment: Experiment, seeds: Any) -> tuple:
    """What makes each sample: the key of its seed; and its label, sample.label or else seed mod classes.

    Of a bridge between data also an endpoint, that of held-out example seed mod their number; the label is then its.
    """
    seeds = np.asarray(seeds, np.uint32)
    if experiment.bridge and not experiment.bridge.from_noise:
        pairs = held_out_pairs(experiment, seeds)
        labels = pairs.get("label", np.zeros(len(seeds)))
        return jax.vmap(jax.random.key)(seeds), labels.astype(np.int32), pairs["y"]
    classes, label = experiment.config.model.get("classes") or 1, experiment.config.sample.label
    labels = seeds % classes if label is None else np.full(len(seeds), label)
    return jax.vmap(jax.random.key)(seeds), labels.astype(np.int32)


def held_out_pairs(experiment: Experiment, seeds: Any) -> dict[str, np.ndarray]:
    """The held-out examples that seeds stand for."""
    return experiment.dataset.held_out.gather(np.asarray(seeds) % len(experiment.dataset.held_out))


def _net(experiment: Experiment, params: PyTree, label: Any, y: Any = None, **options: Any) -> Partial:
    label = label if experiment.conditional else None
    y = y if experiment.config.model.get("condition") else None

    def apply(params: PyTree, label: Any, y: Any, x: Array, c: Array) -> Array:
        told = options if y is None else {**options, "condition": y}
        return experiment.network.apply(params, x, c, label, **told)

    return Partial(apply, params, label, y)


def _target(experiment: Experiment, y: Any) -> Any:
    return experiment.target if y is None else experiment.target.given(y)  # pyright: ignore[reportAttributeAccessIssue]


def _optimizer(config: Config) -> tuple[Any, Callable]:
    rate = config.learning_rate.to_dict()
    homes = {"learning_rate": "learning_rate.peak", "clip_norm": "train.clip_norm"}
    homes |= {name: f"learning_rate.{name}" for name in ("schedule", "warmup_steps", "final", "decay_start")}
    for name in config.optimizer:
        if name in homes:
            raise ConfigError(f"optimizer has no option {name!r}: set {homes[name]}.")
    spec = {
        **config.optimizer.to_dict(),
        "learning_rate": rate.pop("peak"),
        **rate,
        "clip_norm": config.train.clip_norm,
    }
    return optimizers.build_optimizer(spec, config.train.steps)
