"""What an evaluation of the ODE likelihood costs: its FLOPs over those of the network alone, on the digits U-Net."""

import argparse

import jax
import jax.numpy as jnp
from counting import flops, report
from jax.tree_util import Partial

from diffjax import config, denoisers, divergence, models, runs, schedules
from diffjax.likelihood.ode import velocity


def main() -> None:
    """One row per number of probes; the aim for one is 2.1. Counted, not timed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="the tiny network")
    smoke = parser.parse_args().smoke
    recipe = runs.load("configs/vpsde.py" + (":tiny" if smoke else ""))
    schedule, network = schedules.VP(), models.network(config.build(models, recipe.model))
    params = models.init(network, jax.random.key(0), (8, 8, 1))
    denoise = denoisers.denoiser(Partial(network.apply, params), schedule, denoisers.Eps())
    x, phi = jnp.zeros((8, 8, 1)), jnp.asarray(0.7)
    forward = flops(lambda x: network.apply(params, x, jnp.zeros(())), x)

    def ratio(kind: str, count: int) -> float:
        directions = divergence.DIRECTIONS[kind](jax.random.key(0), x, count)
        one = lambda x, phi: divergence.with_value(lambda x: velocity(denoise, x, phi), x, directions)
        return round(flops(one, x, phi) / forward, 4)

    rows = {f"hutchinson, {count}": ratio("hutchinson", count) for count in (1, 2, 4)}
    rows["exact"] = ratio("exact", 1)
    report("likelihood_cost", {"forward_mflop": forward / 1e6, "aim": 2.1, "ratios": rows})


if __name__ == "__main__":
    main()
