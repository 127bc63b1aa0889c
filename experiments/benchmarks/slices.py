"""A training step on slices of TPUs, compiled for them where there is none: FLOPs, memory, collectives, the roofline.

    python experiments/benchmarks/slices.py [--networks=DiT-B/2,U-Net] [--topologies=v5e:4x4,v5e:16x16]
    python experiments/benchmarks/slices.py --smoke   # a tiny network on a CPU that poses as 2 and as 4

Needs the extra tpu-aot. One JSON line for each network and slice, as soon as it is there: minutes each. Nothing is run;
times are bounds by the roofline (`diffjax.roofline`), none is measured. DiTs are of 32 x 32 x 4 codes (256 pixels) with
1000 classes, trained by `configs/dit.py:sit` in bfloat16, L and XL with model.scan and model.remat; the U-Net is
`configs/vpsde.py:cifar10`, its ten steps of a dispatch included.

libtpu takes 24 minutes for the U-Net's hundreds of convolutions, 3 with JAX_OPTIMIZATION_LEVEL=O0 in the environment (a
line's "level" says which, UNKNOWN is the usual one): operations and sums of gradients stay, bytes accessed do not.

XLA counts a scanned block once. FLOPs are those of the traced program, which counts all; the bytes that L and XL access
are drawn out in a straight line from networks of 2 and 4 blocks that are not scanned, and so are XLA's FLOPs.
"""

import argparse
import functools
import gc
import os
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from counting import report

from diffjax import collectives, data, parallel, roofline, runs, slices, topology, training
from diffjax.config import ConfigError
from diffjax.models.dit import PRESETS
from diffjax.runs.build import Built
from diffjax.runs.run import abstract_state

CONFIGS = Path(__file__).parents[2] / "configs"
TOPOLOGIES = ("v5e:4x4", "v5e:8x8", "v5e:16x16", "v5p:4x4x4", "v6e:8x8")
CODES = ("model.patch=2", "model.classes=1000", "model.positions=sincos", "model.dtype=bfloat16")
DEEP = (*CODES, "model.remat=true", "model.scan=true")


class Recipe(NamedTuple):
    """A network with its training: a config, what is changed of it, and the shape of an example."""

    config: str
    changes: tuple[str, ...]
    shape: tuple[int, ...]
    classes: int
    batch: int  # of a device


NETWORKS = {
    "DiT-B/2": Recipe("dit.py:sit", (*CODES, "model.preset=B"), (32, 32, 4), 1000, 32),
    "DiT-L/2": Recipe("dit.py:sit", (*DEEP, "model.preset=L"), (32, 32, 4), 1000, 16),
    "DiT-XL/2": Recipe("dit.py:sit", (*DEEP, "model.preset=XL"), (32, 32, 4), 1000, 8),
    "U-Net": Recipe("vpsde.py:cifar10", ("model.dtype=bfloat16",), (32, 32, 3), 10, 128),
}
SMOKE = {"DiT, 1 block": Recipe("dit.py:sit", ("model.depth=1", "model.width=16", "model.heads=2"), (8, 8, 1), 10, 4)}


SHALLOW = (2, 4)  # blocks


def built_of(recipe: Recipe, devices: int) -> Built:
    """The run of a recipe on so many devices; its data are zeros, of which shapes alone count."""
    n = 2 * recipe.classes
    blank = np.zeros((n, *recipe.shape), np.uint8 if recipe.shape[-1] == 3 else np.float32)
    known = {"label": np.arange(n) % recipe.classes}
    changes = [*recipe.changes, f"train.batch_size={recipe.batch * devices}"]
    dataset = data.arrays(blank, 0.5, **known)._replace(unread=("label",))
    return runs.build_run(runs.load(str(CONFIGS / recipe.config), changes), lambda make: dataset)


def costs_of(built: Built, devices: list[Any]) -> roofline.Costs:
    """What the dispatch of a run costs on these devices."""
    settings, example = built.settings, data.blank(built.data)
    log = {"learning_rate": built.learning_rate, "time_bins": settings.time_bins}
    parts = built.method, built.optimizer, built.ema
    make = functools.partial(training.make_step, *parts, accumulate=settings.accumulate, **log)
    like = lambda leaf: jax.ShapeDtypeStruct((settings.batch_size, *leaf.shape), leaf.dtype)
    given = {name: example.given[name] for name in data.asked(built.method, built.data)}
    batch = jax.tree.map(like, example._replace(given=given))
    return slices.on_mesh(
        parallel.mesh_over(devices, settings), make, built.method, abstract_state(built), batch, settings
    )[1]


@functools.cache
def shallow(recipe: Recipe, kind: str) -> list[roofline.Costs]:
    """What networks of few blocks, none of them scanned, cost on four chips of a kind: as much a chip as on any."""
    devices = topology.described(f"{kind}:{'2x2x1' if topology.CHIPS[kind].axes == 3 else '2x2'}").devices
    changed = lambda depth: (*recipe.changes, f"model.depth={depth}", "model.scan=false")
    return [costs_of(built_of(recipe._replace(changes=changed(n)), len(devices)), devices) for n in SHALLOW]


def drawn_out(costs: roofline.Costs, recipe: Recipe, kind: str, depth: int) -> roofline.Costs:
    """The costs of a scanned network, with what XLA counts of all its blocks."""
    few, more = shallow(recipe, kind)
    line = lambda a, b: a + (b - a) * (depth - SHALLOW[0]) / (SHALLOW[1] - SHALLOW[0])
    return costs._replace(bytes=line(few.bytes, more.bytes), xla_flops=line(few.xla_flops, more.xla_flops))


def row(recipe: Recipe, devices: list[Any], slice_: topology.Slice | None) -> dict[str, Any]:
    """What a step of a recipe costs on these devices, those of a slice or this machine's."""
    built, began = built_of(recipe, len(devices)), time.monotonic()
    settings = built.settings
    count = sum(leaf.size for leaf in jax.tree.leaves(abstract_state(built).params))
    size = {"parameters": count, "batch_of_a_device": recipe.batch, "steps_of_a_dispatch": settings.steps_per_dispatch}
    try:
        costs = costs_of(built, devices)
    except ValueError as refused:
        return {**size, "refused": str(refused)}
    if costs.looped and slice_ is not None and slice_.chip is not None:
        costs = drawn_out(costs, recipe, slice_.chip.name, PRESETS[built.config.model.preset].depth)
    summed = collectives.gradients(costs.found, costs.params)
    found: dict[str, Any] = {
        **size,
        "gflop": round(costs.flops / 1e9, 3),
        "xla_gflop": round(costs.xla_flops / 1e9, 3),
        "accessed_mb": round(costs.bytes / 1e6, 1),
        "memory_mb": {name: round(count / 1e6, 1) for name, count in costs.memory.items()},
        "collectives": collectives.summary(costs.found, costs.calls),
        "gradient_collectives": summed.number,
        "gradient_entries_over_parameters": round(summed.entries / costs.calls / costs.params, 5),
        "gradient_mb": round(summed.bytes / costs.calls / 1e6, 3),
        "seconds_here": round(time.monotonic() - began, 1),
        "level": str(jax.config.jax_optimization_level),  # pyright: ignore[reportAttributeAccessIssue]
    }
    if slice_ is not None and slice_.chip is not None:
        least = roofline.bound(costs, slice_.chip, len(devices) // slice_.chips)
        found["bound_ms"] = {name: round(1e3 * value, 3) for name, value in least._asdict().items()}
        rate = settings.batch_size / least.seconds
        found |= {"bound_by": least.by, "images_per_s_a_chip": round(rate / slice_.chips), "images_per_s": round(rate)}
        found["hbm_mb"] = round(slice_.chip.memory / 1e6)
    return found


def main() -> None:
    """A line for each network and slice."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="a tiny network on CPUs")
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--topologies", default=",".join(TOPOLOGIES))
    flags = parser.parse_args()
    if flags.smoke:
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=4"
        for name, recipe in SMOKE.items():
            for n in (2, 4):
                report("slices", {"network": name, "topology": f"cpu:{n}", **row(recipe, jax.devices()[:n], None)})
        return
    for name in flags.networks.split(","):
        for where in flags.topologies.split(","):
            slice_ = topology.described(where, ConfigError)
            report("slices", {"network": name, "topology": where, **row(NETWORKS[name], slice_.devices, slice_)})
            gc.collect()


if __name__ == "__main__":
    main()
