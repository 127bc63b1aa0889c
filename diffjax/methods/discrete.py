"""Tokens: a network learns what is known of each x_0,i given x_t, and a sampler walks from replaced tokens to data.

The method of all processes of tokens: `processes.categorical` and what stands there by name. Its parts are those of
`methods.denoising`, without what only real numbers have: the target is one of `denoisers.categorical`, the loss one of
`losses.categorical`, the sampler one of `samplers.categorical`, `samplers.decoding` or `samplers.unified`.

    process    target          loss             is
    masked     Whole           score_entropy    MDLM, MD4 (Sahoo et al. 2024; Shi et al. 2024): `methods.masked`
    masked     ConcreteScore   score_entropy    SEDD absorb (Lou et al. 2023)
    uniform    LeaveOneOut     score_entropy    UDLM (Schiff et al. 2024)
    any        Whole           d3pm             D3PM (Austin et al. 2021)
    any        Whole           flow_matching    discrete flow matching (Gat et al. 2024)
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from diffjax import denoisers, grids, losses, samplers
from diffjax.calculus import amplitudes
from diffjax.denoisers.categorical import Known
from diffjax.method import Drawn, Example, Keys, Method, Section, Turn, attempt, per_example
from diffjax.methods import parts, tokens
from diffjax.methods.conditions import Condition
from diffjax.methods.examples import check_whole
from diffjax.methods.planning import planned_sampler
from diffjax.types import Array, Key, PyTree, Schedule


class Discrete(NamedTuple):
    """The parts of a method of tokens, and what follows from them alone; `discrete` says what each is."""

    network: Any
    process: Any
    target: Any
    loss: Callable
    weight: Callable
    times: Callable[[Schedule], Callable]
    condition: Condition
    guidance: Callable
    sampler: Callable[..., Any]
    grid: Callable[[Schedule], Any]

    numbers = ("held_out_loss", "discrete.bound")  # of an evaluation, beside those of its judge
    drawn_by = ("sampler", "grid", "guidance", "nfe")  # what another draw may change
    meant = parts.MEANT
    schedule = property(parts.schedule)
    needs = property(parts.needs)
    net, completed, worded, specs, how = parts.net, parts.completed, parts.worded, parts.specs, parts.how

    def known(self, params: PyTree, given: dict, **options: Any) -> Known:
        """Makes the denoiser of the network: the law of each token, of all of x_t or without its own place."""
        return Known(self.net(params, given, **options), self.process, self.target.given(given))

    def guided(self, params: PyTree, given: dict) -> Any:
        """Makes the denoiser under guidance: what samples are made with."""
        branch = lambda given: self.known(params, dict(given))
        return self.guidance(branch, given, self.condition.unseen(given))

    def check_loss(self, params: PyTree, example: Example) -> None:
        """Traces the loss of one example at a known time; raises a ValueError where the chain has no such step."""
        key = jax.random.key(0)
        t = example.chosen["t"] if "t" in example.chosen else self.times(self.schedule)(Keys(key, key), jnp.int32(0), 1)

        def loss(params: PyTree, x: Array) -> Array:
            given = self.process.given(key, example.given, x.shape, x)
            net, z = self.net(params, given), self.process.noise(key, x)
            return self.loss(net, self.process, self.target.given(given), x, z, t, self.weight)

        jax.eval_shape(loss, params, example.x)

    def check_examples(self, dataset: Any) -> None:
        """Raises a ValueError for a data set without tokens, or with some outside the vocabulary."""
        tokens.check_tokens(dataset, self.process.vocabulary)

    def method(self) -> Method:
        """Makes the method of these parts."""
        return discrete(**self._asdict())


def discrete(
    network: Any,
    process: Any,
    target: Any,
    loss: Callable = losses.categorical.score_entropy,
    weight: Callable = losses.weights.unit(),  # noqa: B008
    times: Callable[[Schedule], Callable] = partial(losses.times.stratified, t_min=1e-3),  # noqa: B008
    condition: Condition = Condition({}),  # noqa: B008
    guidance: Callable = denoisers.guidance.none,
    sampler: Callable[..., Any] = samplers.categorical.mixture,
    grid: Callable[[Schedule], Any] = partial(grids.uniform, n=64, t_min=0.0),  # noqa: B008
) -> Method:
    """Makes the method that learns laws of tokens and draws by a sampler's walk.

    Args:
        network: init and apply, `models.of(module)`, of tokens; reads `given`.
        process: what x_t is: `processes.categorical.masked(schedule, vocabulary)`, `uniform`, ...
        target: what the network's logits state: `denoisers.categorical.Whole()`, `LeaveOneOut()`, `ConcreteScore()`.
        loss: (net, process, target, x0, z, t, weight) -> scalar.
        weight: (schedule, target, t) -> scalar.
        times: schedule -> (keys, index, size) -> t, a training time; from t_min on, where a bound's weight is finite.
        condition: which of `given` may be hidden, in training and by guidance.
        guidance: (given -> denoiser, given, hidden) -> denoiser.
        sampler: process -> sampler, or of the schedule alone.
        grid: schedule -> times (N + 1,), to t = 0.

    Raises:
        ValueError: for a process or target that is none of tokens; from `init`, for an x that is not of integers, or a
            network whose logits are not those of the target; from `plan`, for a grid that does not go from where all
            tokens are replaced to where none is.
    """
    of = Discrete(network, process, target, loss, weight, times, condition, guidance, sampler, grid)
    if not hasattr(process, "likelihood"):
        raise ValueError(
            f"The process is {type(process).__name__}, expected one of tokens, such as "
            "processes.categorical.masked(schedules.Rectified(), vocabulary=3) (process.name=categorical.masked)."
        )
    condition.check(network.reads)
    process.check(target)
    schedule, drawn_times = of.schedule, times(of.schedule)

    def init(key: Key, example: Example) -> PyTree:
        x, c = example.x, jnp.zeros((), jnp.float32)
        check_whole(x)
        params = network.init(key, x, c, example.given)
        found = jax.eval_shape(network.apply, params, x, c, example.given).shape
        if found != (*x.shape, target.width(process)):
            raise ValueError(
                f"The network gives logits of shape {found} for tokens of shape {x.shape}, expected "
                f"{(*x.shape, target.width(process))}: {_said(process, target)}. In a config model.vocabulary, "
                "method.vocabulary or process.vocabulary, and data.vocabulary or a text's data.symbols are one number."
            )
        return params

    def one_loss(
        params: PyTree, keys: Keys, example: Example, index: Array, size: int
    ) -> tuple[Array, dict[str, Array]]:
        own = lambda n: jax.random.fold_in(keys.example, n)
        x, chosen = example.x, example.chosen
        t = chosen["t"] if "t" in chosen else drawn_times(keys, index, size)
        key_noise, key_dropout = jax.random.split(own(1))
        given = process.given(own(4), condition.drop(own(3), example.given), x.shape, x)
        net = of.net(params, given, train=True, key=key_dropout)
        z = chosen["z"] if "z" in chosen else process.noise(key_noise, x)
        value = loss(net, process, target.given(given), x, z, t, weight)
        aux = {"t01": t / schedule.t_max, "nats_per_token": value / x.size}
        if "weight" in chosen:
            return chosen["weight"] * value, {**aux, "unweighted": value}
        return value, aux

    def plan(shape: tuple[int, ...], trace: Callable | None = None) -> parts.Request:
        ts = of.grid(schedule)
        _check_ends(process, ts)
        walk = samplers.sampling_fn(planned_sampler(of.sampler, process), ts, trace)
        return parts.Request(walk, jnp.asarray(ts[0], jnp.float32), None, shape)

    def draw(params: PyTree, request: parts.Request, key: Key, given: dict) -> Any:
        key_prior, key_walk = jax.random.split(key)
        known = of.guided(params, of.completed(key, given, request.shape))
        return request.walk(known, key_walk, process.prior(key_prior, request.shape, request.start))

    def report(run: Any, drawn: Drawn) -> list[Section]:
        return attempt("the loss and the bound", lambda: tokens.sections(run, of, "discrete"))

    asks = None if network.reads is None else of.needs
    return Method(init, (Turn(per_example(one_loss)),), draw, plan, asks=asks, parts=of, report=report)


def _said(process: Any, target: Any) -> str:
    if target.width(process) == process.vocabulary:
        return "one for each of the vocabulary, none for the hidden token"
    return f"one for each of the {process.states} states, the hidden token among them"


def _check_ends(process: Any, ts: Any) -> None:
    """Raises a ValueError where a walk would start beside its prior, or end among replaced tokens."""
    alpha, _ = amplitudes(process.schedule, ts[[0, -1]])
    if alpha[0] > 0.01:
        raise ValueError(
            f"The grid starts at t = {ts[0]:g}, where alpha = {alpha[0]:.4g} of the tokens are still there, but "
            "samples start without any; start it at t_max."
        )
    if ts[-1] != 0:
        raise ValueError(f"The grid ends at t = {ts[-1]:g}, where tokens are replaced; end it at 0 (grid.zero=true).")
