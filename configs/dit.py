"""Diffusion transformers (Peebles & Xie 2023; Li & He 2025; Ma et al. 2024) on digits, 16 patches of 2 x 2 pixels.

    python -m diffjax.main --config=configs/dit.py        # DiT: v-prediction, 328 k parameters; minutes on 2 CPU cores
    python -m diffjax.main --config=configs/dit.py:jit    # JiT: x_0-prediction under the loss of the velocity
    python -m diffjax.main --config=configs/dit.py:sit    # SiT: velocity-prediction on straight lines
    python -m diffjax.main --config=configs/dit.py:tiny   # every part of JiT, small: for tests, not for pictures

The published sizes are names, `--config.model.preset=S` (B, L, XL; JiT's B, L, H), of 12 to 32 layers: with
`--config.model.scan=true` one is compiled for all. `--mode=show` prints parameters and the FLOPs of an evaluation.
Other fields: configs/vpsde.py. The default passes the gate (7aaa26b, 569 s of CPU time): a Frechet
distance of 6.25 (bound 8.9), coverage 0.976, train-neighbour ratio 1.104; after 3200 steps 6.76, on the bound of two
others. The U-Net of vpsde.py has 6.0 after half of the steps. `:sit` (b115b48, 6 min 55 s) has 5.10, and fails by its
train-neighbour ratio alone, 1.152 (bound 1.15); `:jit` (8 min 23 s) 6.75, by its samples' 1-NN accuracy, 0.762 (bound
0.623): they are smoother than digits. For a network by class: --config.model.classes=data.
"""

from ml_collections import ConfigDict

from diffjax.config import beside, spec

_base = beside(__file__, "vpsde.py")


def digits() -> ConfigDict:
    """The default recipe."""
    config = _base.digits()
    config.model = spec("DiT", preset="tiny", patch=2, positions="both")  # 4 x 4 places, which sines hardly tell apart
    config.target = spec("V")
    config.learning_rate.peak = 8e-3
    config.train.steps = 4800
    return config


def jit() -> ConfigDict:
    """JiT: its law of times is logit-normal, its clock runs from noise to data."""
    config = _straight(digits(), 40)
    config.model = spec("JiT", preset="tiny", patch=2)
    config.target = spec("X0", sigma_data=0.5)
    config.weight = spec("velocity", floor=0.05)
    config.times = spec("log_normal", mean=0.8, std=0.8)
    config.train.steps = 3600
    return config


def sit() -> ConfigDict:
    """SiT: the default's network, and the flow of configs/rectified.py."""
    config = _straight(digits(), 40)
    config.target = spec("Velocity", sigma_data=0.5)
    return config


def tiny() -> ConfigDict:
    """Every part of `jit`, at a small size, for tests."""
    small, config = _base.tiny(), jit()
    for group in ("train", "learning_rate", "checkpoint", "sample", "eval"):
        config[group] = small[group]
    config.model = spec("JiT", depth=2, width=16, heads=2, bottleneck=2, prefix=1)
    config.grid = spec("uniform", n=5, t_min=0.0)
    return config


def _straight(config: ConfigDict, steps: int) -> ConfigDict:
    config.schedule = spec("Rectified")
    config.times = spec("stratified", t_min=1e-3)
    config.sampler = spec("multistep.adams", order=2)
    config.grid = spec("uniform", n=steps, t_min=0.0)
    return config


VARIANTS = {"digits": digits, "jit": jit, "sit": sit, "tiny": tiny}
