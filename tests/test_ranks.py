"""Sequences (L, C) and volumes (D, H, W, C): networks of their rank, data, training and pictures."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffjax import data, denoisers, grids, methods, models, processes, runs, schedules
from diffjax.models import places

C = np.float32([0.5, np.inf])
UNET = models.UNet(8, (1, 1), 1, (4,), classes=2)
NETS = {
    "sequence": (models.UNet(8, (1,), 1, (8,), classes=2), (8, 2)),
    "sequence of patches": (models.UNet(8, (1,), 1, (), patch=2, outputs=2), (8, 1)),
    "volume": (UNET, (8, 4, 2, 1)),
    "volume of patches": (models.UNet(4, (1,), 1, (), patch=2, condition=1), (4, 4, 2, 1)),
    "mlp of sequences": (models.MLP(16, 1, classes=2, outputs=2), (5, 3)),
    "mlp of volumes": (models.MLP(16, 1, condition=2), (2, 3, 2, 2)),
}
ALL = pytest.mark.parametrize("name", NETS)


def noise_like(module, shape, scale=0.3):
    found = jax.eval_shape(models.network(module).init, jax.random.key(0), jnp.zeros(shape), jnp.zeros(()))
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: np.asarray(scale * rng.normal(size=leaf.shape), leaf.dtype), found)


def given(module, shape, n=2):
    rng, reads = np.random.default_rng(3), models.network(module).reads or ()
    told = {"label": np.int32([0, 2])[:n], "y": rng.normal(size=(n, *shape)).astype(np.float32)}
    return {name: told[name] for name in reads if name in told}


@ALL
def test_shapes_vmap_and_gradients(name):
    """Zero at first; vmap is the batched network; no example sees another; every parameter has a gradient."""
    module, shape = NETS[name]
    apply, params = models.network(module).apply, noise_like(module, shape)
    x = np.random.default_rng(2).normal(size=(2, *shape)).astype(np.float32)
    told = given(module, shape)
    batched = jax.jit(apply)(params, x, C, told)
    assert batched.shape == (2, *shape[:-1], module.outputs * shape[-1])
    mapped = jax.jit(jax.vmap(apply, (None, 0, 0, 0)))(params, x, C, told)
    np.testing.assert_allclose(batched, mapped, rtol=1e-5, atol=1e-5)
    assert np.abs(batched[0] - batched[1]).max() > 0.1
    weights = np.random.default_rng(4).normal(size=batched.shape).astype(np.float32)
    gradient = jax.jit(jax.grad(lambda params: jnp.vdot(weights, apply(params, x, C, told))))(params)
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        assert np.abs(leaf).max() > 0, jax.tree_util.keystr(path)
    first = jax.jit(models.network(module).init)(jax.random.key(0), x[0], C[0])
    np.testing.assert_array_equal(jax.jit(apply)(first, x, C, told), 0)


@pytest.mark.parametrize("width", [1, 2])
def test_a_sequence_is_an_image_of_equal_columns(width):
    """Rank 1 beside rank 2 on images (L, width, C) whose columns are equal.

    Beyond the edges there are zeros: of width 1 the middle column alone meets the image. Of equal columns two meet it,
    the middle and one neighbour, for both: with a half of the kernel in each of the three columns they make a whole.
    """
    flat = models.UNet(8, (1,), 1, (8,), classes=2)
    params = noise_like(flat, (8, 3))
    other = np.random.default_rng(5)

    def widened(kernel):
        if kernel.ndim != 3:
            return kernel
        wide = np.stack([kernel / 2] * 3, 1)
        if width == 1:
            wide = np.stack([other.normal(size=kernel.shape), kernel, other.normal(size=kernel.shape)], 1)
        return wide.astype(kernel.dtype)

    x = np.random.default_rng(2).normal(size=(8, 3)).astype(np.float32)
    apply = jax.jit(models.network(flat).apply)
    told = {"label": np.int32(1)}
    line = np.asarray(apply(params, x, C[0], told))
    image = apply(jax.tree.map(widened, params), np.stack([x] * width, 1), C[0], told)
    scale = np.abs(line).max()
    for column in range(width):
        np.testing.assert_allclose(image[:, column] / scale, line / scale, atol=1e-6)


def test_an_image_is_a_volume_of_equal_slices():
    """As above, one rank up, with halves that a depth of 2 makes whole, down and up once: a level halves depth too."""
    module = models.UNet(8, (1,), 1, (4,))
    params = noise_like(module, (4, 6, 1))
    deep = jax.tree.map(lambda k: np.stack([k / 2] * 3) if k.ndim == 4 else k, params)
    x = np.random.default_rng(2).normal(size=(4, 6, 1)).astype(np.float32)
    apply = jax.jit(models.network(module.clone(attention=())).apply)
    strip = lambda params: {name: part for name, part in params.items() if "attention" not in name}
    flat = np.asarray(apply(strip(params), x, C[0]))
    volume = np.asarray(apply(strip(deep), np.stack([x] * 2), C[0]))
    for part in volume:
        np.testing.assert_allclose(part / np.abs(flat).max(), flat / np.abs(flat).max(), atol=1e-6)


@pytest.mark.parametrize("shape", [(8,), (4, 6), (2, 4, 6)], ids=str)
def test_resampling_and_patches_of_any_rank(shape):
    rank = len(shape)
    x = np.random.default_rng(0).normal(size=(3, *shape, 2)).astype(np.float32)
    lower, upper = places.down(jnp.asarray(x), rank), places.up(jnp.asarray(x), rank)
    patches = places.space_to_depth(jnp.asarray(x), 2, rank)
    for at in np.ndindex(*(n // 2 for n in shape)):
        block = x[(slice(None), *(slice(2 * i, 2 * i + 2) for i in at))]
        np.testing.assert_allclose(lower[(slice(None), *at)], block.reshape(3, -1, 2).mean(1), atol=1e-6)
        np.testing.assert_array_equal(patches[(slice(None), *at)], block.reshape(3, -1))
    np.testing.assert_array_equal(places.depth_to_space(patches, 2, rank), x)
    for axis in range(rank):
        x = x.repeat(2, axis + 1)
    np.testing.assert_array_equal(upper, x)


def waves(n=256, length=8):
    """Sequences of one frequency and random phase: (n, L, 1), of variance 1/2."""
    phase = np.random.default_rng(0).uniform(0, 2 * np.pi, (n, 1))
    return np.cos(2 * np.pi * np.arange(length) / length + phase)[..., None].astype(np.float32)


NETWORKS = {
    "unet": models.UNet(8, (1,), 1, ()),
    "mlp": models.MLP(32, 1),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mlp", "unet"])
def test_sequences_train_below_the_floor_of_the_mean(name, tmp_path):
    """What knows the data's mean alone is off by Var[x] = 1/2; the best linear denoiser at t = 0.2 by 0.10."""
    method = methods.denoising(
        models.of(NETWORKS[name]),
        processes.Gaussian(schedules.VP()),
        denoisers.V(),
        grid=functools.partial(grids.log_snr, n=6),
    )
    options = {"batch_size": 64, "log_every": 30, "sample_every": 1000, "chunk": 32, "samples": 32, "ema": "0.95"}
    trainer = runs.Trainer(
        method, data.arrays(waves()), optimizer=optax.adam(5e-3), workdir=tmp_path / "run", **options
    )
    run = trainer.train(90)
    x = waves(64)
    t, noise = 0.2, np.random.default_rng(1).normal(size=x.shape).astype(np.float32)
    alpha, sigma = (float(a) for a in schedules.VP()(t))
    denoise = run.denoiser()
    mean = jax.jit(jax.vmap(lambda x_t: denoise(x_t, t).mean))(alpha * x + sigma * noise)
    best_linear = 0.5 / (1 + 2 * (alpha / sigma) ** 2)  # two directions of variance 2 each
    assert 0.8 * best_linear < np.mean((mean - x) ** 2) < 0.5 * 0.5
    if name == "mlp":
        found = trainer.report(tmp_path / "report")
        assert {"1-NN accuracy, real", "exact W2", "sliced W2"} <= found["metrics"].keys()
        assert (tmp_path / "report" / "figures" / "samples.png").stat().st_size > 1000
        assert "left_out" not in found


@pytest.mark.slow
def test_a_volume_is_drawn_and_edited(tmp_path):
    """A run of volumes from an .npz file by a config's words."""
    x = np.random.default_rng(0).integers(0, 256, (40, 4, 4, 2, 1), np.uint8)
    np.savez(tmp_path / "x.npz", x=x)
    dataset = data.npz(str(tmp_path / "x.npz"), label=None)
    assert (dataset.shape, dataset.levels) == ((4, 4, 2, 1), 256)
    method = runs.assemble(
        network={"name": "UNet", "channels": 4, "multipliers": (1, 2), "attention": (2,)},
        grid={"name": "log_snr", "n": 2},
    )
    run = runs.Trainer(method, dataset, optimizer=optax.adam(1e-3), chunk=4).run()
    assert run.draw(3).shape == (3, 4, 4, 2, 1)
    found = run.restore(np.zeros((2, 2, 1, 1), np.float32), "downsample", 2, by="diffpir")
    assert found.x.shape == (2, 4, 4, 2, 1)


def test_an_npz_file_says_its_rank(tmp_path):
    file = str(tmp_path / "x.npz")
    np.savez(file, x=np.zeros((20, 6, 2), np.float32), vector=np.zeros((20, 6), np.float32))
    assert data.npz(file, label=None, rank=1).shape == (6, 2)
    assert data.npz(file, label=None).shape == (6, 2, 1)  # grey images, as ever
    assert data.npz(file, label=None, rank=2).shape == (6, 2, 1)
    assert data.npz(file, x="vector", label=None, rank=0).shape == (6,)
    assert data.npz(file, label=None, rank=1, standardize="channels").units.mean.shape == (2,)
    for rank, match in ((3, "expected 5 axes of examples of rank=3"), (4, "rank is 4"), (True, "rank is True")):
        with pytest.raises(ValueError, match=match):
            data.npz(file, label=None, rank=rank)
