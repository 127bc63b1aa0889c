"""Between real digits: two held-out examples encoded to noise, the great circle between them, decoded again.

    python experiments/interpolation/interpolate.py --workdir=runs/vpsde-... --out=interpolation.png

Of any run with images. It prints one JSON line: how far encoding and decoding without interpolation ends from where it
began (root mean square, in [-1, 1]), by numbers of evaluations, and writes one row of pictures per pair.
"""

import argparse
import json

import jax
import jax.numpy as jnp
import numpy as np

from diffjax import ending, grids, plots, runs, samplers

PAIRS, BETWEEN = 8, 9


def main() -> None:
    """The picture and the line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--steps", default="10,50,200", help="evaluations each way; the picture has the last")
    args = parser.parse_args()
    run, key = runs.open(args.workdir), jax.random.key(0)
    denoise = run.denoiser({"label": jnp.int32(0)})  # read by a network that has labels
    schedule, x0 = denoise.schedule, jnp.asarray(run.data.held_out.gather(np.arange(2 * PAIRS)).x)
    sampler, round_trip, z, decode = samplers.ancestral.ddim(schedule), {}, x0, None
    over = lambda walk: jax.jit(jax.vmap(lambda x: walk(denoise, key, x)))
    for n in map(int, args.steps.split(",")):
        ts = grids.log_snr(schedule, n, zero=False)
        z = over(samplers.encoding_fn(sampler, ts))(x0)
        decode = over(samplers.sampling_fn(sampler, ts))
        round_trip[n] = float(jnp.sqrt(jnp.mean((decode(z) - x0) ** 2)))
    assert decode is not None  # there is a first number of steps
    weights = jnp.linspace(0, 1, BETWEEN)
    arcs = jax.vmap(lambda a, b: jax.vmap(lambda w: samplers.encoding.slerp(a, b, w))(weights))(z[::2], z[1::2])
    walked = decode(arcs.reshape(-1, *x0.shape[1:])).reshape(PAIRS, BETWEEN, *x0.shape[1:])
    rows = jnp.concatenate([x0[::2, None], walked, x0[1::2, None]], 1)  # the real pair at both ends
    plots.save_image(args.out, plots.tile(rows.reshape(-1, *x0.shape[1:]), BETWEEN + 2))
    print(json.dumps({"experiment": "interpolation", "round_trip_rms": round_trip, "steps_drawn": n}))


if __name__ == "__main__":
    ending.script(main)
