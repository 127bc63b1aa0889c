"""Trains the digit classifier of `diffjax.metrics.digits` on the training split and writes its weights.

    python experiments/digits_classifier/train.py [--out=FILE]

3000 steps of AdamW on batches of 128; every image is shifted by up to one pixel half of the time, and blurred, faded or
made noisy about a third of the time each; cross-entropy of the class plus squared error of the three strengths.
"""

import argparse
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from diffjax import data
from diffjax.metrics import digits

STEPS, BATCH, SEED = 3000, 128, 0
MAX_NOISE, MAX_FADE, DEFECT_RATE = 0.4, 0.4, 0.35
BINOMIAL = jnp.outer(jnp.array([1.0, 2.0, 1.0]), jnp.array([1.0, 2.0, 1.0])) / 16


def shift(key, x):
    """x (8, 8, 1) moved by -1, 0 or 1 pixel in each direction, background (-1) moving in."""
    row, column = jax.random.randint(key, (2,), 0, 3)
    return jax.lax.dynamic_slice(jnp.pad(x, ((1, 1), (1, 1), (0, 0)), constant_values=-1.0), (row, column, 0), x.shape)


def blur(x):
    """x (8, 8, 1) under the 3x3 binomial filter, background outside."""
    return jax.scipy.signal.convolve2d(x[..., 0] + 1, BINOMIAL, mode="same")[..., None] - 1


def spoil(key, x):
    """A training image and the strengths (noise, blur, fade), each in [0, 1] and mostly 0, that were applied to it."""
    keys = jax.random.split(key, 6)
    x = jnp.where(jax.random.bernoulli(keys[0]), shift(keys[1], x), x)
    strengths = jax.random.uniform(keys[2], (3,)) * jax.random.bernoulli(keys[3], DEFECT_RATE, (3,))
    noise, blurred, fade = strengths
    x = x + blurred * (blur(x) - x)
    pivot = -jax.random.uniform(keys[4])  # fading pulls towards a grey between black (-1) and the middle (0)
    x = pivot + (1 - MAX_FADE * fade) * (x - pivot)
    x = x + MAX_NOISE * noise * jax.random.normal(keys[5], x.shape)
    return x.clip(-1, 1), strengths


def loss_fn(weights, key, images, labels):
    """Cross-entropy of the class, plus squared error of 3 x the strengths."""
    x, strengths = jax.vmap(spoil)(jax.random.split(key, len(images)), images)
    seen = jax.vmap(digits.apply, in_axes=(None, 0))(weights, x)
    cross_entropy = optax.softmax_cross_entropy_with_integer_labels(seen.logits, labels)
    return cross_entropy.mean() + jnp.mean((seen.defects - 3 * strengths) ** 2)


def train(images, labels):
    """The trained weights, float32; a function of the data and of SEED."""
    optimizer = optax.adamw(optax.cosine_decay_schedule(3e-3, STEPS), weight_decay=1e-3)
    init_key, train_key = jax.random.split(jax.random.key(SEED))
    weights = digits.init(init_key)

    @jax.jit
    def step(weights, state, index):
        choice_key, key = jax.random.split(jax.random.fold_in(train_key, index))
        chosen = jax.random.randint(choice_key, (BATCH,), 0, len(images))
        grads = jax.grad(loss_fn)(weights, key, images[chosen], labels[chosen])
        updates, state = optimizer.update(grads, state, weights)
        return optax.apply_updates(weights, updates), state

    state = optimizer.init(weights)
    for index in range(STEPS):
        weights, state = step(weights, state, jnp.int32(index))
    return weights


def main():
    """Train, write, read back, and print the held-out accuracy of what was written."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=digits.FILE, help="default: the shipped file")
    out = parser.parse_args().out
    dataset = data.digits()
    splits = [source.gather(np.arange(len(source))) for source in (dataset.train, dataset.held_out)]
    start = time.perf_counter()
    digits.save(train(jnp.asarray(splits[0].x), jnp.asarray(splits[0].given["label"])), out)
    seconds = time.perf_counter() - start
    weights = digits.load(out)
    for name, split in zip(("train", "held-out"), splits):
        logits = jax.vmap(digits.apply, in_axes=(None, 0))(weights, jnp.asarray(split.x)).logits
        right = np.mean(np.asarray(logits).argmax(1) == split.given["label"])
        print(f"{name} accuracy {right:.4f} ({len(logits)} digits)")
    print(f"{seconds:.0f} s, {out.stat().st_size} bytes in {out}")


if __name__ == "__main__":
    main()
