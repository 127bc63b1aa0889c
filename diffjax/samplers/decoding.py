"""Decoding: a masked sequence is opened one place a row, or a few, in an order of choice; what is open stays open.

A row evaluates the network once on the tokens that are seen, picks places among the hidden, and fills them in. How they
are picked and filled is a rule:

    random      any hidden place, evenly (Sahoo et al. 2024; any-order autoregression)     exact one by one
    position    the first hidden place (autoregression from left to right)                 exact one by one
    entropy     the place whose law has the least entropy                                  exact one by one
    top         the place whose most probable token is the most probable of all            exact one by one
    confidence  a token is drawn at every hidden place, the most probable draw is kept     biased
                (low-confidence remasking, Nie et al. 2025, LLaDA), or with Gumbel noise on its score that falls from
                row to row (Chang et al. 2022, MaskGIT): all noise is `random`
    greedy      `top`, and the most probable token in place of a draw                      biased: one sequence

Exact means: with the exact conditionals p(x_0,i | seen tokens) the samples have the law of the data. One place a row
with its token drawn from its conditional is a factor of the chain rule, p(x) = prod of p(x_i | the places before it in
the order), whatever the order is, as long as the rule looks at seen tokens alone (kexue 9271). `confidence` looks at
the draws themselves: it keeps what came out likely. Several places a row are drawn independently of each other, which
is biased for every rule, and so is a temperature other than 1. The prices of all of these are in experiments/prices/.

Blocks (Arriola et al. 2025, eq. 5) are opened one after another, with any of these rules inside a block:
autoregression over blocks, masked diffusion within one, its past clean and its future hidden.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffjax import gumbel, host
from diffjax.processes.editing import ranks
from diffjax.samplers.base import Sampler
from diffjax.types import Array, Categorical, Key, Process, pytree, static

__all__ = ["blocks", "confidence", "entropy", "greedy", "position", "random", "top"]

Score = Callable[[Key, Categorical, Array], Array]  # (key, laws of the places, a draw at each) -> score, highest first
MOST = 2**24  # places that a row opens


@pytree
class Opening:
    """The rows of a walk that opens places.

    Attributes:
        t: (N,), what the model is told.
        places: (N,), how many hidden places a row opens, or all where fewer are hidden.
        low, high: (N,), the first place that a row may open, and the first behind them.
        temperature: (N,), of the law that a token is drawn from.
        noise: (N,), of the Gumbel variables on the places' scores.
        vocabulary: V, which stands for a hidden token.
        opened: how many places all rows but the last open, and all of them.
    """

    t: Any
    places: Any
    low: Any
    high: Any
    temperature: Any
    noise: Any
    vocabulary: int = static()
    opened: tuple[int, int] = static()


def random(process: Process, k: int | Sequence[int] = 1, temperature: float = 1.0) -> Sampler:
    """Opens hidden places in a random order: exact for k = 1 at temperature 1.

    Args:
        process: of masks (`categorical.masked`).
        k: how many places a row opens, or how many each row does, as in (2, 1, 1). The last row opens what is left.
        temperature: of the law that tokens are drawn from; 1 is the model's own.

    Raises:
        ValueError: for a process that is not of masks alone, a k under 1, a temperature that is no positive number;
            (at planning) for a grid of another number of steps than k has; (where it runs, before anything is traced
            further) for more rows than there are places to open, or fewer.
    """
    return _sampler(process, _by_chance, k, temperature)


def position(process: Process, k: int | Sequence[int] = 1, temperature: float = 1.0) -> Sampler:
    """Opens hidden places from the first to the last: exact for k = 1 at temperature 1.

    Args and Raises: as for `random`.
    """
    return _sampler(process, _first, k, temperature)


def entropy(process: Process, k: int | Sequence[int] = 1, temperature: float = 1.0) -> Sampler:
    """Opens the hidden places of least entropy, with tokens drawn from their laws: exact for k = 1 at temperature 1.

    Args and Raises: as for `random`.
    """
    return _sampler(process, _least_entropy, k, temperature)


def top(process: Process, k: int | Sequence[int] = 1, temperature: float = 1.0) -> Sampler:
    """Opens the hidden places whose likeliest token is the most probable, tokens drawn: exact for k = 1 and that 1.

    Args and Raises: as for `random`.
    """
    return _sampler(process, _likeliest, k, temperature)


def confidence(process: Process, k: int | Sequence[int] = 1, temperature: float = 1.0, noise: float = 0.0) -> Sampler:
    """Draws a token at every hidden place and keeps the k most probable draws: biased, one place a row too.

    The confidence in a draw is its probability at temperature 1.

    Args:
        process, k, temperature: as for `random`.
        noise: by which Gumbel variables on the log confidences are multiplied, (1 - n / N) times it in row n = 1 .. N
            (MaskGIT's choice temperature): row n keeps k places without replacement, by confidence^(1 / noise_n). 0:
            the k most probable.

    Raises:
        ValueError: for a noise that is negative or not finite, and as for `random`.
    """
    if not 0 <= noise < np.inf:
        raise ValueError(f"noise is {noise}, expected 0 or a positive number; decoding.random is the limit of much.")
    return _sampler(process, _likeliest_draw, k, temperature, noise=noise)


def greedy(process: Process, k: int | Sequence[int] = 1) -> Sampler:
    """Opens the hidden places whose likeliest token is the most probable, by that token: one sequence, no sample.

    Args and Raises: as for `random`.
    """
    return _sampler(process, _likeliest, k, 1.0, drawn=False)


RULES = {rule.__name__: rule for rule in (random, position, entropy, top, confidence, greedy)}


def blocks(
    process: Process,
    size: int,
    inner: str = "random",
    k: int = 1,
    temperature: float | None = None,
    noise: float | None = None,
) -> Sampler:
    """Opens blocks of places one after another, by another rule inside: exact where that rule is.

    Args:
        size: of a block; ceil(size / k) rows open it. The last block may be shorter, if it needs as many rows.
        inner: "random", "position", "entropy", "top", "confidence" or "greedy".
        k: how many places a row opens, an integer.
        temperature: as in `random`; None is 1.
        noise: of "confidence" alone, as there, falling over the rows of each block; None is 0.

    Raises:
        ValueError: for another rule, or an option that it has not; a size or a k under 1, a k above the size; (at
            planning) for a grid whose steps are no whole number of blocks; and as for `random`.
    """
    size, k = host.check_int("size", size, most=MOST), host.check_int("k", k, most=size)
    if inner not in RULES:
        raise ValueError(f"inner is {inner!r}, expected one of {', '.join(RULES)}.")
    if inner == "greedy" and temperature is not None:
        raise ValueError(f"temperature is {temperature}, but decoding.greedy draws nothing; leave it out.")
    if inner != "confidence" and noise is not None:
        raise ValueError(f"noise is {noise}, but decoding.{inner} has none: leave it out, or set inner='confidence'.")
    told = {"temperature": temperature, "noise": noise}
    rule = RULES[inner](process, k, **{name: value for name, value in told.items() if value is not None})
    each = math.ceil(size / k)

    def plan(ts: np.ndarray) -> Opening:
        count, rest = divmod(len(ts) - 1, each)
        if rest:
            raise ValueError(
                f"Blocks of {size} places take {each} rows each, {k} places a row, but the grid has {len(ts) - 1} "
                f"steps: give it a multiple of {each}."
            )
        start = np.repeat(np.arange(count) * size, each).astype(np.int32)
        before = (count - 1) * size + (each - 1) * k
        noises = np.tile(rule.plan(ts[: each + 1]).noise, count)  # which falls to 0 within each block
        places = {"low": start, "high": start + size, "opened": (before, count * size)}
        return dataclasses.replace(rule.plan(ts), noise=noises, **places)

    return rule._replace(plan=plan)


def _sampler(process: Any, score: Score, k: Any, temperature: float, drawn: bool = True, noise: float = 0.0) -> Sampler:
    _check(process)
    host.check_positive("temperature", temperature, ", and decoding.greedy for the limit 0")
    several = None if host.is_int(k, 1) else tuple(_sequence(k))
    for each in several or (k,):
        host.check_int("k", each, most=MOST)

    def plan(ts: np.ndarray) -> Opening:
        rows = len(ts) - 1
        if several is not None and len(several) != rows:
            raise ValueError(f"k says how many places {len(several)} rows open, but the grid has {rows} steps.")
        places = np.asarray([k] * rows if several is None else several, np.int32)
        ends = np.zeros(rows, np.int32), np.full(rows, np.iinfo(np.int32).max, np.int32)
        opened = int(places[:-1].sum()), int(places.sum())
        told = np.full(rows, float(temperature)), noise * (1 - np.arange(1, rows + 1) / rows)
        return Opening(ts[:-1], places, *ends, *told, process.vocabulary, opened)

    return Sampler(_Open(score, drawn, noise > 0), plan, schedule=process.schedule, tokens=True)


class _Open(NamedTuple):
    """The function (model, key, x, row) -> x: one compile for all rules of one score."""

    score: Score
    drawn: bool
    noisy: bool

    def __call__(self, model: Any, key: Key, x: Array, row: Opening) -> Array:
        key_token, key_place = jax.random.split(key)
        law = model(x, row.t)
        _check_shapes(law, x, row)
        if self.drawn:
            token = Categorical(law.logits / row.temperature).sample(key_token)
        else:
            token = jnp.argmax(law.logits, axis=-1)
        place = jnp.arange(x.size, dtype=jnp.int32).reshape(x.shape)
        eligible = (x == row.vocabulary) & (row.low <= place) & (place < row.high)
        score = self.score(key_place, law, token)
        if self.noisy:
            score += row.noise * gumbel.perturbed(key_place, jnp.zeros_like(score))  # (decoding.4)
        score = jnp.where(eligible, score, -jnp.inf)
        return jnp.where(eligible & (ranks(-score) < row.places), token.astype(x.dtype), x)  # (decoding.1)


def _by_chance(key: Key, law: Categorical, token: Array) -> Array:
    return jax.random.uniform(key, token.shape)


def _first(key: Key, law: Categorical, token: Array) -> Array:
    return -jnp.arange(token.size, dtype=float).reshape(token.shape)


def _least_entropy(key: Key, law: Categorical, token: Array) -> Array:
    log = jax.nn.log_softmax(law.logits, axis=-1)
    return jnp.where(jnp.isfinite(log), jnp.exp(log) * log, 0.0).sum(-1)  # (decoding.2)


def _likeliest(key: Key, law: Categorical, token: Array) -> Array:
    return jax.nn.log_softmax(law.logits, axis=-1).max(-1)


def _likeliest_draw(key: Key, law: Categorical, token: Array) -> Array:
    return law.log_prob(token)  # (decoding.3)


def _check(process: Any) -> None:
    law, vocabulary = getattr(process, "law", None), getattr(process, "vocabulary", None)
    states = np.size(law) if isinstance(law, np.ndarray | jax.Array) else 0
    if vocabulary is None or states != vocabulary + 1 or (host.concrete(law) and float(np.asarray(law)[-1]) != 1):
        raise ValueError(
            f"Got the process {type(process).__name__}, expected one that hides tokens and no more "
            "(categorical.masked): what is open must be right. For others there are samplers.categorical and "
            "samplers.unified."
        )


def _sequence(k: Any) -> Sequence[int]:
    if isinstance(k, str) or not isinstance(k, Sequence) or not k:
        raise ValueError(f"k is {k!r}, expected an integer >= 1, or one for each row.")
    return k


def _check_shapes(law: Categorical, x: Array, row: Opening) -> None:
    """Refuses, while shapes alone are known, a walk that cannot open x, and logits of another vocabulary."""
    if law.logits.shape != (*x.shape, row.vocabulary):
        raise ValueError(
            f"The model gives logits of shape {law.logits.shape}, expected {(*x.shape, row.vocabulary)}: one for each "
            "token of the vocabulary, none for the hidden one."
        )
    before, after = row.opened
    if after < x.size:
        raise ValueError(
            f"The rows of this walk open {after} places, but x has {x.size}: take {x.size} steps that open one place "
            f"each (grid.n={x.size}, --nfe={x.size}), or open more places a row (sampler.k)."
        )
    if before >= x.size:
        raise ValueError(
            f"x has {x.size} places, which are open before the last row of this walk: more steps than tokens to "
            "open; give the grid fewer steps (grid.n, --nfe), or open fewer places a row (sampler.k)."
        )
