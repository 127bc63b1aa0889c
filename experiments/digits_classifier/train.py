"""Trains a classifier of `diffjax.metrics.digits` on the training split of its digits and writes its weights.

    python experiments/digits_classifier/train.py [--of=mnist] [--out=FILE]

3000 steps of AdamW on batches of 128; every image is shifted by up to one pixel (MNIST two) half of the time, and
blurred, faded or made noisy about a third of the time each; cross-entropy of the class plus squared error of the three
strengths.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from diffjax import data
from diffjax.metrics import digits
from diffjax.metrics.classifier import Classifier

STEPS, BATCH, SEED = 3000, 128, 0
MAX_NOISE, MAX_FADE, DEFECT_RATE = 0.4, 0.4, 0.35


class Recipe(NamedTuple):
    """A network, its data set, the pixels that its images are shifted by, and a row of their blur's filter."""

    network: Classifier
    dataset: Callable
    reach: int
    row: tuple[float, ...]


RECIPES = {
    "digits": Recipe(digits.NETWORK, data.digits, 1, (1.0, 2.0, 1.0)),
    "mnist": Recipe(digits.MNIST, data.mnist, 2, (1.0, 4.0, 6.0, 4.0, 1.0)),
}


def shift(key, x, reach):
    """x (H, W, 1) moved by up to `reach` pixels in each direction, background (-1) moving in."""
    row, column = jax.random.randint(key, (2,), 0, 2 * reach + 1)
    wide = jnp.pad(x, ((reach, reach), (reach, reach), (0, 0)), constant_values=-1.0)
    return jax.lax.dynamic_slice(wide, (row, column, 0), x.shape)


def blur(x, row):
    """x (H, W, 1) under a binomial filter of this row and column, background outside."""
    binomial = jnp.outer(jnp.array(row), jnp.array(row)) / sum(row) ** 2
    return jax.scipy.signal.convolve2d(x[..., 0] + 1, binomial, mode="same")[..., None] - 1


def spoil(key, x, reach, row):
    """A training image and the strengths (noise, blur, fade), each in [0, 1] and mostly 0, that were applied to it."""
    keys = jax.random.split(key, 6)
    x = jnp.where(jax.random.bernoulli(keys[0]), shift(keys[1], x, reach), x)
    strengths = jax.random.uniform(keys[2], (3,)) * jax.random.bernoulli(keys[3], DEFECT_RATE, (3,))
    noise, blurred, fade = strengths
    x = x + blurred * (blur(x, row) - x)
    pivot = -jax.random.uniform(keys[4])  # fading pulls towards a grey between black (-1) and the middle (0)
    x = pivot + (1 - MAX_FADE * fade) * (x - pivot)
    x = x + MAX_NOISE * noise * jax.random.normal(keys[5], x.shape)
    return x.clip(-1, 1), strengths


def loss_fn(recipe, weights, key, images, labels):
    """Cross-entropy of the class, plus squared error of 3 x the strengths."""
    spoiled = partial(spoil, reach=recipe.reach, row=recipe.row)
    x, strengths = jax.vmap(spoiled)(jax.random.split(key, len(images)), images)
    seen = jax.vmap(recipe.network.apply, in_axes=(None, 0))(weights, x)
    cross_entropy = optax.softmax_cross_entropy_with_integer_labels(seen.logits, labels)
    return cross_entropy.mean() + jnp.mean((seen.defects - 3 * strengths) ** 2)


def train(recipe, images, labels):
    """The trained weights, float32; a function of the recipe, the data and SEED."""
    optimizer = optax.adamw(optax.cosine_decay_schedule(3e-3, STEPS), weight_decay=1e-3)
    init_key, train_key = jax.random.split(jax.random.key(SEED))
    weights = recipe.network.init(init_key)

    @jax.jit
    def step(weights, state, index):
        choice_key, key = jax.random.split(jax.random.fold_in(train_key, index))
        chosen = jax.random.randint(choice_key, (BATCH,), 0, len(images))
        grads = jax.grad(partial(loss_fn, recipe))(weights, key, images[chosen], labels[chosen])
        updates, state = optimizer.update(grads, state, weights)
        return optax.apply_updates(weights, updates), state

    state = optimizer.init(weights)
    for index in range(STEPS):
        weights, state = step(weights, state, jnp.int32(index))
    return weights


def main():
    """Train, write, read back, and print the held-out accuracy of what was written."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--of", choices=RECIPES, default="digits")
    parser.add_argument("--out", type=Path, help="default: the shipped file")
    args = parser.parse_args()
    recipe = RECIPES[args.of]
    network, dataset, out = recipe.network, recipe.dataset(), args.out or recipe.network.file
    splits = [source.gather(np.arange(len(source))) for source in (dataset.train, dataset.held_out)]
    start = time.perf_counter()
    network.save(train(recipe, jnp.asarray(splits[0].x), jnp.asarray(splits[0].given["label"])), out)
    seconds = time.perf_counter() - start
    weights = network.load(out)
    for name, split in zip(("train", "held-out"), splits):
        logits = jax.vmap(network.apply, in_axes=(None, 0))(weights, jnp.asarray(split.x)).logits
        right = np.mean(np.asarray(logits).argmax(1) == split.given["label"])
        print(f"{name} accuracy {right:.4f} ({len(logits)} digits)")
    print(f"{seconds:.0f} s, {out.stat().st_size} bytes in {out}")


if __name__ == "__main__":
    main()
