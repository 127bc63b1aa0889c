"""Training and sampling on one accelerator, beside what its own rates allow and beside `torch.compile`, in one run.

    python experiments/benchmarks/gpu_tables.py [--budget=300] [--rows=dit_b,unet,dit_xl,samplers] [--trace=FOLDER]
    python experiments/benchmarks/gpu_tables.py --smoke        # tiny networks, every row, on a CPU

DiT-B/2 and XL/2 of latents of 256 pixels (32 x 32 x 4, labels) and the U-Net of configs/vpsde.py:cifar10, in bfloat16
with float32 parameters: AdamW, an average of the parameters, donated state, a batch that is on the device. The roofline
of a step is max(FLOPs / rate of products, bytes / rate of copies): FLOPs are three times those of the forward pass
(`models.flops`), bytes are XLA's count of what its programs read and write, and the rates are this run's, of a large
product in bfloat16 and of a large copy. XLA's bytes hold what stays in a cache too: a share may come out above 1.
JAX_COMPILATION_CACHE_DIR=FOLDER keeps the programs for a second run, which then has room for more rows.

A sampler's overhead is the time of a whole draw over that of as many forward passes, one after the other in a loop.
Each row is a line of JSON, printed when it is known; the last line has them all, and what the budget left no room for.
It needs jax, flax, optax and diffjax's core, and no data. Aims: share 0.9, ours_over_torch 1.3, overhead 1.01.
"""

import argparse
import gc
import os
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import gpu_trace
import gpu_twins
import jax
import jax.numpy as jnp
import numpy as np
import optax
from counting import best_times
from gpu_rows import Rows, seconds_of
from jax.tree_util import Partial

from diffjax import denoisers, ema, grids, losses, models, parallel, processes, samplers, schedules, training
from diffjax.method import Example
from diffjax.methods.denoising import denoising

AIMS = {"share": 0.9, "ours_over_torch": 1.3, "overhead": 1.01}
DRAWS = ("ddim", "dpmpp_2m", "heun", "euler")


class Case(NamedTuple):
    """A network, the shape of its examples, a batch, the attention kernels it is tried with, a guess of seconds."""

    network: Any
    shape: tuple[int, int, int]
    batch: int
    kernels: tuple[str, ...] = ()  # none: it has no choice
    guess: float = 60.0  # of a row, nearly all of it compilation; not measured: the first rows correct it


_DIT: dict[str, Any] = dict(patch=2, classes=1000, dtype="bfloat16")
_CIFAR10: dict[str, Any] = dict(multipliers=(1, 2, 2, 2), blocks=4, attention=(16,), dropout=0.1, skip_scale=0.5**0.5)
CASES = {
    "dit_b": Case(models.DiT(preset="B", **_DIT), (32, 32, 4), 128, ("einsum", "fused"), 35),
    "unet": Case(models.UNet(128, **_CIFAR10, dtype="bfloat16"), (32, 32, 3), 128, (), 90),
    "dit_xl": Case(models.DiT(preset="XL", **_DIT), (32, 32, 4), 64, ("einsum", "fused"), 75),
}
_SMALL: dict[str, Any] = dict(patch=2, classes=3, dtype="bfloat16")
SMOKE = {
    "dit_b": Case(models.DiT(depth=1, width=16, heads=2, **_SMALL), (8, 8, 4), 4, ("einsum", "fused"), 1),
    "unet": Case(models.UNet(4, (1, 2), 1, (), dropout=0.1, dtype="bfloat16"), (8, 8, 3), 4, (), 1),
    "dit_xl": Case(models.DiT(depth=1, width=32, heads=2, **_SMALL), (8, 8, 4), 4, ("einsum", "fused"), 1),
}
ROWS = (*CASES, "samplers")


class Rates(NamedTuple):
    """What this device does in a second: floating-point operations of a product in bfloat16, bytes of a copy."""

    flops: float
    bytes: float


def rates(size: int, count: int) -> Rates:
    """Measures the rates by a product of (size, size) matrices and by reading and writing 16 times their bytes."""
    make = jax.jit(lambda seed: jax.random.normal(jax.random.key(seed), (size, size), jnp.bfloat16))
    a, b = make(0), make(1)
    product = jax.jit(lambda a, b: a @ b)
    long = jax.jit(lambda: jnp.ones((8 * size, size), jnp.float32))()
    shifted = jax.jit(lambda x: x + 1)
    for warm in (lambda: product(a, b), lambda: shifted(long)):
        jax.block_until_ready(warm())
    by_product = seconds_of(lambda: product(a, b), count, 5)
    by_copy = seconds_of(lambda: shifted(long), count, 5)
    return Rates(2 * size**3 / by_product, 2 * long.nbytes / by_copy)


def parameters(net: models.Network, shape: tuple[int, ...], given: dict[str, Any]) -> Any:
    """Draws parameters on the host, entries of N(0, 0.02^2): no gate is closed, and no product is of zeros."""
    zero = jnp.zeros(())
    shapes = jax.eval_shape(lambda key, x, c: net.init(key, x, c, given), jax.random.key(0), jnp.zeros(shape), zero)
    rng = np.random.default_rng(0)
    pool = (0.02 * rng.standard_normal(2**20, np.float32)).astype(np.float32)  # leaves repeat it, each from elsewhere
    return jax.tree.map(lambda leaf: np.resize(pool[rng.integers(2**19) :], leaf.shape), shapes)


class Training:
    """The training step of a case, with its state and a batch on the device."""

    def __init__(self, network: Any, shape: tuple[int, int, int], batch: int) -> None:
        rng, mesh = np.random.default_rng(0), parallel.mesh(jax.devices()[:1])
        net, classes = models.network(network), getattr(network, "classes", None)
        given = {"label": rng.integers(0, classes, batch).astype(np.int32)} if classes else {}
        examples = Example(rng.standard_normal((batch, *shape), np.float32), given)
        times = partial(losses.times.stratified, t_min=1e-3)
        method = denoising(net, processes.Gaussian(schedules.Rectified()), denoisers.Velocity(), times=times)
        optimizer, emas = optax.adamw(1e-4), ema.warm_up((0.9999,))
        first = parameters(net, shape, {name: jnp.int32(0) for name in given})
        self.parameters = sum(leaf.size for leaf in jax.tree.leaves(first))
        forward = lambda params, x: net.apply(params, x, jnp.zeros(()), {name: jnp.int32(0) for name in given})
        self.flops = 3 * batch * models.flops(forward, first, jnp.zeros(shape))
        self.step = training.make_step(method, optimizer, emas)
        self.mesh, self.batch, self.run = mesh, parallel.shard_batch(mesh, examples), None
        init = lambda params, key: training.init_state(params, optimizer, emas, key, method)
        self.state = jax.jit(init, out_shardings=parallel.replicated(mesh))(first, jax.random.key(1))

    def compile(self) -> Any:
        """Compiles the step by its first call; gives what XLA knows of that program, which is not made anew."""
        self.run = parallel.compile_step(self.step, "jit", self.mesh)
        jax.block_until_ready(self.once())
        every, split = parallel.replicated(self.mesh), parallel.sharded(self.mesh)
        shown = jax.jit(self.step, donate_argnums=0, in_shardings=(every, split), out_shardings=every)
        return shown.lower(self.state, self.batch).compile()

    def once(self) -> Any:
        """Makes a step; gives its metrics."""
        self.state, metrics = self.run(self.state, self.batch)  # pyright: ignore[reportOptionalCall]
        return metrics


def stepped(case: Case, network: Any, rate: Rates, count: int, keep: dict[str, Any]) -> dict[str, Any]:
    """Makes the row of a training step: images a second, its roofline, memory.

    Args:
        keep: gets the `Training` as "training", for those who trace it.
    """
    made, began = Training(network, case.shape, case.batch), time.perf_counter()
    known = made.compile()
    compiled = time.perf_counter() - began
    jax.block_until_ready([made.once() for _ in range(2)])
    seconds = seconds_of(made.once, count)
    if not bool(made.once()["finite"]):
        raise ValueError("The loss or a norm of the last step is not finite.")
    moved, memory = (known.cost_analysis() or {}).get("bytes accessed"), known.memory_analysis()
    by = {"flops": made.flops / rate.flops} | ({} if moved is None else {"bytes": moved / rate.bytes})
    roofline = max(by.values())
    keep["training"] = made
    return {
        "batch": case.batch,
        "parameters": made.parameters,
        "images_per_s": round(case.batch / seconds, 2),
        "step_ms": round(1e3 * seconds, 4),
        "share": round(roofline / seconds, 4),
        "roofline_ms": round(1e3 * roofline, 4),
        "bound": max(by, key=lambda name: by[name]),
        "flops_share": round(by["flops"] / seconds, 4),
        "gflop": round(made.flops * 1e-9, 6),
        "xla_gbyte": None if moved is None else round(moved * 1e-9, 6),
        "peak_gib": None if memory is None else round(peak_bytes(memory) / 2**30, 4),
        "compile_s": round(compiled, 1),
    }


def peak_bytes(memory: Any) -> int:
    """Adds up what a program holds: arguments, results that are no donated arguments, and temporaries."""
    held = memory.argument_size_in_bytes + memory.temp_size_in_bytes
    return held + memory.output_size_in_bytes - memory.alias_size_in_bytes


def network_rows(rows: Rows, name: str, case: Case, rate: Rates, count: int, trace: Path | None) -> str | None:
    """Makes the rows of one network: a step by each kernel, the trace of the fastest; gives its kernel."""
    best: dict[str, Any] = {}
    for kernel in case.kernels or ("",):
        network, keep = (case.network.clone(kernel=kernel) if kernel else case.network), {}
        made = rows.row(f"{name} {kernel}".strip(), case.guess, partial(stepped, case, network, rate, count, keep))
        if made is not None and made["images_per_s"] > best.get("images_per_s", 0.0):
            best = {**made, **keep, "kernel": kernel}
        gc.collect()  # the state of the slower one
    if not best:
        rows.skip(f"{name} trace", "no step to trace")
        return None
    kept = trace and trace / f"{name}.json.gz"
    rows.row(f"{name} trace", 12 if count > 1 else 1, lambda: traced(best["training"], kept))
    rows.about.setdefault("fastest", {})[name] = {part: best[part] for part in ("kernel", "images_per_s", "share")}
    return best["kernel"]


def traced(made: Training, kept: Path | None) -> dict[str, Any]:
    """Makes the row of how busy the device is in ten steps."""

    def ten() -> None:
        jax.block_until_ready([made.once() for _ in range(10)])

    found = gpu_trace.traced(ten, kept)
    if found is None:
        return {"device_busy": None, "why": "no device lane in the trace"}
    numbers = {"busy_ms": round(1e3 * found.busy_s, 3), "wall_ms": round(1e3 * found.wall_s, 3)}
    return {"device_busy": round(found.share, 4), **numbers, "kernels": found.kernels, "lanes": found.lanes}


def draws(schedule: schedules.VP, steps: int) -> dict[str, tuple[Any, Any]]:
    """Lists the samplers, each with its grid. On straight lines DDIM's step is Euler's of the flow."""
    fine, lines = grids.log_snr(schedule, steps), schedules.Rectified()
    return {
        "ddim": (samplers.ancestral.ddim(schedule), fine),
        "dpmpp_2m": (samplers.multistep.dpmpp_2m(schedule), fine),
        "heun": (samplers.heun.edm(schedule), fine),
        "euler": (samplers.ancestral.ddim(lines), grids.uniform(lines, steps, t_min=0.0)),
    }


def drawn(network: Any, shape: tuple[int, ...], batch: int, steps: int, repeats: int, name: str) -> dict[str, Any]:
    """Makes the row of a sampler: the time of a draw over that of as many forward passes."""
    net, schedule = models.network(network), schedules.VP()
    sampler, ts = draws(schedule, steps)[name]
    params = jax.device_put(parameters(net, shape, {}))
    target = denoisers.Velocity() if name == "euler" else denoisers.V()
    denoise = denoisers.denoiser(Partial(net.apply, params), sampler.schedule, target)
    x, keys = jax.random.normal(jax.random.key(1), (batch, *shape)), jax.random.split(jax.random.key(2), batch)
    sample = samplers.sampling_fn(sampler, ts)
    n = samplers.nfe(sample)
    walk = jax.jit(lambda sample, model, keys, x: jax.vmap(sample, in_axes=(None, 0, 0))(model, keys, x))
    forward = lambda params, x, c: jax.vmap(lambda x: net.apply(params, x, c))(x)
    # Another log-SNR at every step: with one and the same, XLA computes its embedding once, outside the loop.
    levels = jnp.linspace(-5.0, 5.0, n)
    bare = jax.jit(lambda params, x, c: jax.lax.scan(lambda x, c: (forward(params, x, c), None), x, c)[0])
    calls = {"draw": lambda: walk(sample, denoise, keys, x), "bare": lambda: bare(params, x, levels)}
    times = best_times(calls, repeats)
    found = {"batch": batch, "evaluations": n, "overhead": round(times["draw"] / times["bare"], 4)}
    each = {"draw_ms": round(1e3 * times["draw"], 3), "forward_ms": round(1e3 * times["bare"] / n, 4)}
    return {**found, **each, "images_per_s": round(batch / times["draw"], 2)}


def sampler_rows(rows: Rows, cases: dict[str, Case], kernels: dict[str, str | None], smoke: bool) -> None:
    """Makes the rows of the samplers, on the DiT as one scanned block, which is soon compiled, and on the U-Net."""
    batch, steps, repeats = (2, 3, 2) if smoke else (64, 20, 5)
    for name in ("dit_b", "unet"):
        case, changes = cases[name], {"scan": True, "kernel": kernels.get(name) or "einsum"}
        network = case.network.clone(**changes) if case.kernels else case.network
        guess = 1.0 if smoke else (12.0 if case.kernels else 45.0)
        for draw in DRAWS:
            rows.row(f"{name} {draw}", guess, partial(drawn, network, case.shape, batch, steps, repeats, draw))
            gc.collect()


def torch_rows(rows: Rows, cases: dict[str, Case], smoke: bool) -> None:
    """Makes the rows of `torch.compile`, beside the fastest of our steps of this run."""
    why = gpu_twins.missing(smoke)
    for name, case in cases.items():
        ours = rows.about.get("fastest", {}).get(name, {}).get("images_per_s")
        if why or ours is None:
            rows.skip(f"{name} torch", why or "no step of ours to stand beside")
            continue
        given = {"label": jnp.int32(0)} if getattr(case.network, "classes", None) else {}
        make = lambda case=case, ours=ours, given=given: gpu_twins.compared(
            case.network,
            case.shape,
            case.batch,
            parameters(models.network(case.network), case.shape, given),
            ours,
            smoke,
        )
        rows.row(f"{name} torch", case.guess, make)
        gc.collect()


def main() -> None:
    """Prints a line for each row, and a last one with all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="tiny networks, every row")
    parser.add_argument("--budget", type=float, default=300.0, help="seconds from the start, compilation included")
    parser.add_argument("--rows", default=",".join(ROWS), help=f"some of {','.join(ROWS)}")
    parser.add_argument("--trace", type=Path, help="a folder to keep the traces in")
    flags = parser.parse_args()
    asked = [name for name in flags.rows.split(",") if name]
    if unknown := [name for name in asked if name not in ROWS]:
        raise SystemExit(f"--rows has {unknown[0]!r}, expected some of {', '.join(ROWS)}.")
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.6")  # the rest is PyTorch's
    rows = Rows("gpu_tables", flags.budget)
    rows.about |= {"aims": AIMS, "asked": asked}
    table, count = (SMOKE, 1) if flags.smoke else (CASES, 10)
    found: list[Rates] = []

    def measured() -> dict[str, Any]:
        found.append(rates(*((256, 2) if flags.smoke else (8192, 20))))
        return {"tflop_per_s": round(found[0].flops * 1e-12, 4), "gbyte_per_s": round(found[0].bytes * 1e-9, 3)}

    if rows.row("rates", 6, measured) is None:
        raise SystemExit(rows.close())
    rows.forget_pace()  # how soon a product is timed says nothing of compilation
    cases = {name: case for name, case in table.items() if name in asked}
    kernels: dict[str, str | None] = {}
    for name, case in cases.items():
        known = kernels.get("dit_b") if case.kernels else None  # one DiT says which kernel is for both
        tried = case._replace(kernels=(known,)) if known else case
        kernels[name] = network_rows(rows, name, tried, found[0], count, flags.trace)
    if "samplers" in asked:
        sampler_rows(rows, table, kernels, flags.smoke)
    torch_rows(rows, cases, flags.smoke)
    sys.exit(rows.close())


if __name__ == "__main__":
    main()
