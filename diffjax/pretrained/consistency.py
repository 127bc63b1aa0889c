"""Consistency models on CIFAR-10, and the EDM network that they were distilled from (Song et al. 2023; in Flax).

The file is a training state of Flax (msgpack); params_ema of it is read. The network is NCSN++ with three levels of
256 channels, told log(sigma) / 4, behind EDM's preconditioning with sigma_data = 0.5, for the consistency models with
the boundary sigma = 0.002 (`denoisers.Consistency`). One step from sigma = 80 draws; `--nfe=2` and `sampler.name=
ancestral.resampled` are the paper's algorithm 1. f(x, sigma) is the end of a path and no mean: a sampler that takes
several steps with it as one, DDIM or Heun, has no sense.
"""

from ml_collections import ConfigDict

from diffjax.config import spec
from diffjax.pretrained.family import Family, started
from diffjax.pretrained.score_sde import MARKS, flax_leaves


def _config(target: ConfigDict) -> ConfigDict:
    config = started(spec("PublishedUNet.preset", preset="ncsnpp_edm"), spec("EDM", t_max=80.0), target)
    config.data = spec("tfds", dataset="cifar10")
    return config


def distilled() -> ConfigDict:
    """The recipe of a consistency model: one evaluation."""
    config = _config(spec("Consistency", sigma_data=0.5, least=0.002))
    config.sampler = spec("ancestral.resampled")
    config.grid = spec("karras", n=1, rho=7.0, t_min=2e-3)
    return config


def teacher() -> ConfigDict:
    """The recipe of the EDM network: Heun in 35 evaluations."""
    config = _config(spec("EDM", sigma_data=0.5))
    config.sampler = spec("heun.edm", churn=0.0)
    config.grid = spec("karras", n=18, rho=7.0, t_min=2e-3)
    return config


FAMILIES = {
    "consistency-cifar10": Family(
        "a consistency model on CIFAR-10 (openai/consistency_models_cifar10: cd-*, ct-*)",
        distilled,
        {"msgpack": flax_leaves},
        (32, 32, 3),
        MARKS,
        "cifar10",
        remark="draws in one step, or in several by ancestral.resampled alone: what it gives is no mean of data",
    ),
    "consistency-edm": Family(
        "the EDM teacher on CIFAR-10 (openai/consistency_models_cifar10: edm_cifar10_ema)",
        teacher,
        {"msgpack": flax_leaves},
        (32, 32, 3),
        MARKS,
        "cifar10",
    ),
}
