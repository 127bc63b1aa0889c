"""Learning rates and seeds, each training sampled by three samplers in three lengths: 30 trainings, 270 evaluations.

    python -m diffjax.sweeps --config=configs/vpsde.py:tiny --sweep=experiments/sweeps/rates.py --workers=2

A table is a product; `train()` and `evaluate()` in their places may yield points, one {key: value} each.
"""

TRAIN = {"learning_rate.peak": [3e-4, 1e-3, 3e-3], "seed": range(10)}
EVALUATE = {"sampler.name": ["ddim", "dpmpp_2m", "heun"], "grid.n": [5, 10, 20]}
