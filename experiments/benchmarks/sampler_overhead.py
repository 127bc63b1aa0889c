"""What a sampler costs beside its network: FLOPs and time over NFE x forward, on the digits U-Net."""

import argparse

import jax
import jax.numpy as jnp
import numpy as np
from counting import best_times, flops, report
from jax.tree_util import Partial

from diffjax import config, denoisers, grids, models, runs, samplers, schedules

STEPS = 20


def main() -> None:
    """One row per sampler."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="small batch and few repeats")
    smoke = parser.parse_args().smoke
    batch, repeats = (8, 2) if smoke else (64, 7)
    recipe = runs.load("configs/vpsde.py" + (":tiny" if smoke else ""))
    schedule, network = schedules.VP(), models.network(config.build(models, recipe.model))
    params = models.init(network, jax.random.key(0), (8, 8, 1))
    params = jax.tree.map(lambda p: p + 0.01, params)  # away from the zero output of initialisation
    denoise = denoisers.denoiser(Partial(network.apply, params), schedule, denoisers.Eps())
    x, keys = jax.random.normal(jax.random.key(1), (batch, 8, 8, 1)), jax.random.split(jax.random.key(2), batch)

    axes = samplers.principal.Axes.of(np.random.default_rng(0).standard_normal((99, 8, 8, 1)))
    fine, short = grids.log_snr(schedule, STEPS), grids.log_snr(schedule, STEPS, zero=False)
    half = grids.log_snr(schedule, STEPS // 2)  # for two evaluations a step
    table = {
        "ddim": (samplers.ancestral.ddim(schedule), fine),
        "ddpm": (samplers.ancestral.ddpm(schedule), fine),
        "euler_maruyama": (samplers.sde.euler_maruyama(schedule), short),
        "heun": (samplers.heun.edm(schedule), fine),
        "adams_2": (samplers.multistep.adams(schedule, 2), fine),
        "adams_3": (samplers.multistep.adams(schedule, 3), fine),
        "dpmpp_2m": (samplers.multistep.dpmpp_2m(schedule), fine),
        "dpmpp_3m": (samplers.multistep.dpmpp_3m(schedule), fine),
        "dpmpp_3m_sde": (samplers.multistep.dpmpp_3m_sde(schedule), fine),
        "unipc_3": (samplers.unipc.unipc(schedule, 3), fine),
        "deis_tab3": (samplers.deis.tab(schedule, 3), fine),
        "lms_4": (samplers.deis.lms(schedule, 4), fine),
        "ipndm": (samplers.pndm.ipndm(schedule), fine),
        "pndm": (samplers.pndm.pndm(schedule), fine),
        "trigflow_2": (samplers.trigflow.adams(schedule, 2), fine),
        "principal_2": (samplers.principal.adams(schedule, axes), grids.angle(schedule, STEPS + 1)),
        "dpm_solver_2": (samplers.singlestep.dpm_solver(schedule, 2), half),
        "dpmpp_2s": (samplers.singlestep.dpmpp_2s(schedule), half),
        "dpm_solver_3": (samplers.singlestep.dpm_solver(schedule, 3), grids.log_snr(schedule, STEPS // 3)),
        "restart": (samplers.restart.restart(schedule), half),
        "adams_3_tau": (samplers.multistep.adams(schedule, 3, tau=1.0), fine),
        "dpmpp_2m_sde": (samplers.multistep.dpmpp_2m_sde(schedule), fine),
        "reverse_diffusion": (samplers.predictor.reverse_diffusion(schedule), fine),
        "predictor_corrector": (samplers.langevin.predictor_corrector(schedule), half),
        "annealed_langevin": (samplers.langevin.annealed(schedule, eps=1e-5, steps=2), short),
    }
    forward = lambda apply_params, x, c: jax.vmap(lambda x: network.apply(apply_params, x, c))(x)
    per_forward = flops(forward, params, x, jnp.zeros(()))
    walk = jax.jit(lambda sample, model, keys, x: jax.vmap(sample, in_axes=(None, 0, 0))(model, keys, x))
    rows = {}
    for name, (sampler, ts) in table.items():
        sample = samplers.sampling_fn(sampler, ts)
        n = samplers.nfe(sample)
        # Another log-SNR at every step: with one and the same, XLA computes its embedding once, outside the loop.
        levels = jnp.linspace(-5.0, 5.0, n)
        bare = jax.jit(lambda params, x, c=levels: jax.lax.scan(lambda x, c: (forward(params, x, c), None), x, c)[0])
        ratio = flops(walk, sample, denoise, keys, x) / (n * per_forward)
        calls = {"sampler": lambda s=sample: walk(s, denoise, keys, x), "bare": lambda f=bare: f(params, x)}
        times = best_times(calls, repeats)
        rows[name] = {"nfe": n, "flops": round(ratio, 5), "time": round(times["sampler"] / times["bare"], 3)}
    worst = {what: max(row[what] for row in rows.values()) for what in ("flops", "time")}
    report("sampler_overhead", {"batch": batch, "steps": STEPS, "worst": worst, "samplers": rows})


if __name__ == "__main__":
    main()
