"""The networks of published weights: parity with the published architectures in NumPy, counts, clocks, bad input."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import transformers, unets

from diffjax import calculus, host, models, schedules, weights
from diffjax.models import unet as own_unet
from diffjax.models.clocks import published_time
from diffjax.models.published_unet import PRESETS, smooth_down, smooth_up
from diffjax.pretrained import ddpm, dit, score_sde
from diffjax.pretrained.files import Entry, File
from diffjax.pretrained.maps import problems


def shapes(module, shape, **given):
    """The network of a module, and the shapes of its parameters."""
    net = models.of(module)
    return net, jax.eval_shape(net.init, jax.random.key(0), jnp.zeros(shape, jnp.float32), jnp.float32(0), given)


def filled(named, leaves, like, dtype=np.float64):
    """The parameters that a map makes of arrays under published names."""
    entries = {name: Entry(array.shape, "float32", lambda: None) for name, array in named.items()}
    file = File("made.safetensors", "safetensors", entries)
    assert problems(file, leaves) == []
    made = {}
    for ours, leaf in leaves.items():
        made[ours] = leaf.make(*(named[next(n for n in names if n in named)] for names in leaf.sources)).astype(dtype)
    return weights.place(like, made)


def ours(net, params, x, c, **given):
    """F of x (C, H, W), channels first too."""
    found = host.run_once(lambda *args: net.apply(*args, given), params, jnp.asarray(x.transpose(1, 2, 0)), c)
    return np.asarray(found, np.float64).transpose(2, 0, 1)


IMAGE = np.random.default_rng(1).standard_normal((3, 8, 8))
SMALL = dict(channels=8, multipliers=(1, 2), blocks=1)


def test_ddpm_is_the_published_network(x64):
    """The step that ends at log-SNR c has the index that the network is told; both generations of names are read."""
    net, like = shapes(module := models.PublishedUNet.preset("ddpm", groups=2, **SMALL), (8, 8, 3))
    named, index = unets.Weights(0), 371
    expected = unets.diffusers(named, IMAGE, index, (8, 16), 1, (1,), groups=2)
    c = calculus.log_snr(schedules.Tabulated.linear(), (index + 1) / 1000)
    params = filled(named, ddpm.leaves(module, like), like)
    np.testing.assert_allclose(ours(net, params, IMAGE, c), expected, rtol=0, atol=1e-10)
    assert np.abs(expected).max() > 0.1
    words = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
    newer = {re.sub("|".join(words), lambda found: words[found[0]], name): array for name, array in named.items()}
    assert newer.keys() != named.keys()
    jax.tree.map(np.testing.assert_array_equal, filled(newer, ddpm.leaves(module, like), like), params)


SONG, SMOOTH = (dict.fromkeys(("fir", "pyramid", "fourier"), kind) for kind in (False, True))
CONTINUOUS = {  # preset -> (log-SNR, what the network is told, what the oracle is made with)
    "ddpmpp": (lambda: calculus.log_snr(schedules.VP(), 0.37), 999 * 0.37, SONG),
    "ncsnpp": (lambda: -2 * np.log(3.4), np.log(1.7), SMOOTH),
    "ncsnpp_edm": (lambda: -2 * np.log(3.4), np.log(3.4) / 4, SMOOTH),
}
slow = lambda *values: pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.slow
@pytest.mark.parametrize("preset", CONTINUOUS)
def test_score_sde_is_the_published_network(x64, preset):
    """NCSN++ takes x_t itself, which ours is given divided by sqrt(1 + sigma^2), and gives minus eps."""
    at, told, kinds = CONTINUOUS[preset]
    own = preset == "ncsnpp"
    net, like = shapes(module := models.PublishedUNet.preset(preset, raw=own, **SMALL), (8, 8, 3))
    named = unets.Weights(0)
    expected = unets.ncsnpp(named, IMAGE, told, 8, (1, 2), 1, (1,), **kinds)
    given = IMAGE / np.sqrt(1 + 3.4**2) if own else IMAGE
    params = filled(named, score_sde.torch_leaves(module, like, negative=own), like)
    found = ours(net, params, given, jnp.float64(at()))
    np.testing.assert_allclose(found, -expected if own else expected, rtol=0, atol=1e-10)
    assert np.abs(expected).max() > 0.1


def flax_names(named, module):
    """PyTorch's names and layouts as Flax has them, by the structure of NCSNpp: modules numbered by class."""
    order = sorted({int(re.match(r"all_modules\.(\d+)", name)[1]) for name in named})
    count, made = {}, {}
    for number in order:
        own = {n.split(".", 2)[2]: a for n, a in named.items() if n.startswith(f"all_modules.{number}.")}
        if "W" in own:
            kind = "GaussianFourierProjection"
        elif any(n.startswith("NIN") for n in own):
            kind = "AttnBlockpp"
        elif any(n.startswith("GroupNorm") for n in own):
            kind = "ResnetBlockBigGANpp"
        elif "Conv2d_0.weight" in own:
            kind = "Downsample"
        else:
            kind = {1: "GroupNorm", 2: "Dense", 4: "Conv"}[own["weight"].ndim]
        at = f"{kind}_{count.setdefault(kind, 0)}"
        count[kind] += 1
        for name, array in own.items():
            *inner, last = name.split(".")
            if last == "weight":
                last = {1: "scale", 2: "kernel", 4: "weight" if kind == "Downsample" else "kernel"}[array.ndim]
                array = {1: array, 2: array.T, 4: array.transpose(2, 3, 1, 0) if array.ndim == 4 else array}[array.ndim]
            made["/".join([at, *inner, last])] = array
    return made


def test_flax_and_pytorch_files_make_equal_parameters():
    """The map of Flax's names, whose layout is ours, against that of PyTorch's, which parity holds."""
    _, like = shapes(module := models.PublishedUNet.preset("ncsnpp", **SMALL), (8, 8, 3))
    named = unets.Weights(0)
    unets.ncsnpp(named, IMAGE, 0.5, 8, (1, 2), 1, (1,), fir=True, pyramid=True, fourier=True)
    one = filled(named, score_sde.torch_leaves(module, like), like)
    other = filled(flax_names(named, module), score_sde.flax_leaves(module, like), like)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(("kind", "scan"), [("dit", False), slow("dit", True), slow("sit", False), slow("sit", True)])
def test_dit_and_sit_are_the_published_network(kind, scan):
    """DiT gives eps and a second map; SiT's velocity goes the other way, and its second map is not used."""
    sizes = dict(patch=2, width=16, depth=2, heads=2, classes=3, scan=scan)
    outputs, sign = (2, 1) if kind == "dit" else (1, -1)
    module = models.DiT(**sizes, outputs=outputs, embedding="chain" if kind == "dit" else "signal")
    x = np.random.default_rng(2).standard_normal((4, 6, 6))
    net, like = shapes(module, (6, 6, 4), label=jnp.int32(0))
    named, told = unets.Weights(0), 371 if kind == "dit" else 0.3
    expected = transformers.dit(named, x, told, 1, 16, 2, 2, 2, classes=3)[: 4 * outputs]
    schedule, t = (schedules.Tabulated.linear(), 0.372) if kind == "dit" else (schedules.Rectified(), 0.7)
    params = filled(named, dit.leaves(module, like, sign=sign), like, np.float32)
    found = ours(net, params, x.astype(np.float32), calculus.log_snr(schedule, t), label=jnp.int32(1))
    np.testing.assert_allclose(found, sign * expected, rtol=0, atol=3e-5)
    assert np.abs(expected).max() > 0.1


def test_the_filters_of_ncsnpp_are_upfirdn():
    """(1, 3, 3, 1) along both axes: zeros between places on the way up, every second place on the way down."""
    x = jnp.asarray(IMAGE.transpose(1, 2, 0), jnp.float32)
    first = lambda y: np.asarray(y).transpose(2, 0, 1)
    taps = unets.FILTER
    np.testing.assert_allclose(first(smooth_up(x)), unets.filtered(IMAGE, 2 * taps, up=2, pad=(2, 1)), atol=1e-6)
    np.testing.assert_allclose(first(smooth_down(x)), unets.filtered(IMAGE, taps, down=2, pad=(1, 1)), atol=1e-6)
    wide = first(smooth_down(x, zeros=2, stride=1))
    np.testing.assert_allclose(wide, unets.filtered(IMAGE, taps, pad=(2, 2)), atol=1e-6)


CLOCK = {  # clock -> (schedule, t -> what the published network is told)
    "chain": (schedules.Tabulated.linear(), lambda t: 1000 * t - 1),
    "cosine_chain": (schedules.Tabulated.cosine(), lambda t: 1000 * t - 1),
    "vp": (schedules.VP(), lambda t: 999 * t),
    "ve": (schedules.VE(0.02, 100.0), lambda t: np.log(0.01 * 5000.0**t)),
    "edm": (schedules.EDM(80.0), lambda t: np.log(t) / 4),
    "signal": (schedules.Rectified(), lambda t: 1 - t),
}


@pytest.mark.parametrize("clock", CLOCK)
def test_what_a_network_is_told_is_a_function_of_the_log_snr(x64, clock):
    schedule, told = CLOCK[clock]
    ts = np.asarray([1, 2, 37, 500, 998]) / 1000
    alpha, sigma = (np.asarray(a, np.float64) for a in calculus.amplitudes(schedule, ts))
    found = published_time(clock, jnp.asarray(2 * np.log(alpha / sigma)))
    np.testing.assert_allclose(found, [told(t) for t in ts], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("clock", CLOCK)
@pytest.mark.parametrize("end", [np.inf, -np.inf])
def test_what_a_network_is_told_is_finite_at_the_ends(clock, end):
    told = float(published_time(clock, jnp.float32(end)))
    assert np.isfinite(told)
    if "chain" in clock:
        assert told == (0 if end > 0 else 999)


PLAIN = {name: field.default for name, field in models.PublishedUNet.__dataclass_fields__.items()}


def count_of(preset):
    """Parameters of a preset by the structure of the papers."""
    return count({**PLAIN, **PRESETS[preset]}, 3)


def count(of, channels, own=False):
    """Of the attributes of a `PublishedUNet`: (in k^2 + 1) out a convolution, 2 C a norm, and so on.

    Args:
        own: of a `UNet` with these: its second norms have no parameters.
    """
    widths, wide = [of["channels"] * m for m in of["multipliers"]], 4 * of["channels"]
    last, inside = len(widths) - 1, of["resample"] == "block"
    conv, dense = lambda a, b, k=3: a * b * k * k + b, lambda a, b: a * b + b

    def block(a, b, resampled=False):
        skip = dense(a, b) if a != b or (resampled and not of["modulated"]) else 0
        return 2 * a + conv(a, b) + dense(wide, b * (1 + of["modulated"])) + 2 * b * (not own) + conv(b, b) + skip

    attention = lambda c: 2 * c + 4 * dense(c, c)
    total = dense(of["channels"] * (2 if of["features"] == "fourier" else 1), wide) + dense(wide, wide)
    total += of["channels"] * (of["features"] == "fourier") + wide * ((of["classes"] or -1) + 1)
    total += conv(channels, of["channels"])
    skips, at, shown = [of["channels"]], of["channels"], channels
    for level, width in enumerate(widths):
        for _ in range(of["blocks"]):
            total += block(at, width) + attention(width) * (level in of["attention"])
            at = width
            skips.append(at)
        if level < last:
            total += block(at, at, True) if inside else conv(at, at)
            total += conv(shown, at) * of["pyramid"]
            shown = at
            skips.append(at)
    total += 2 * block(at, at) + attention(at)
    for level in reversed(range(last + 1)):
        for i in range(of["blocks"] + 1):
            total += block(at + skips.pop(), widths[level])
            at = widths[level]
            total += attention(at) * (level in of["attention"] and (of["everywhere"] or i == of["blocks"]))
        total += (block(at, at, True) if inside else conv(at, at)) * (level > 0)
    return total + 2 * at + conv(at, channels * of["outputs"])


@pytest.mark.parametrize(
    ("preset", "size", "thousands"), [("digits", 8, 204), slow("mnist", 28, 340), slow("cifar10", 32, 59786)]
)
def test_presets_of_our_own_u_net(preset, size, thousands):
    """The count by the structure, and in thousands."""
    channels, own = 3 if size == 32 else 1, dict(own_unet.PRESETS[preset])
    levels = [i for i in range(len(own["multipliers"])) if size // 2**i in own["attention"]]
    made = {**PLAIN, **own, "attention": levels, "resample": "block", "modulated": True, "everywhere": False}
    _, like = shapes(models.UNet.preset(preset), (size, size, channels))
    assert sum(leaf.size for leaf in jax.tree.leaves(like)) == count(made, channels, own=True)
    assert round(count(made, channels, own=True) / 1000) == thousands


MILLIONS = {"ddpm": 35.7, "ddpm_256": 113.7, "ddpmpp": 61.8, "ddpmpp_edm": 55.7, "ncsnpp": 62.8, "adm_64": 295.9}


@pytest.mark.parametrize("preset", [name if name == "ddpm" else slow(name) for name in PRESETS])
def test_presets_have_as_many_parameters_as_the_papers_networks(preset):
    """The count by the structure; in millions those that the papers and their users report."""
    count = count_of(preset)
    if preset in MILLIONS:
        assert round(count / 1e6, 1) == MILLIONS[preset]
    module = models.PublishedUNet.preset(preset)
    _, like = shapes(module, (32, 32, 3), **({"label": jnp.int32(0)} if module.classes else {}))
    assert sum(leaf.size for leaf in jax.tree.leaves(like)) == count
    assert set(like) == {name for _, name in module.parts()}


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: models.PublishedUNet.preset("ncsn"), "There is no PublishedUNet 'ncsn': nearest is 'ncsnpp"),
        (lambda: models.PublishedUNet(attention=(4,)), "attention at levels [4]: expected some of 0 to 3"),
        (lambda: models.PublishedUNet(clock="karras"), "clock = 'karras' is unknown; choose from chain"),
        (lambda: models.PublishedUNet(resample="conv"), "resample = 'conv' is unknown"),
        (lambda: models.PublishedUNet(head_width=48), "head_width = 48 does not divide the 256 channels"),
        (lambda: models.PublishedUNet(channels=2), "channels = 2: expected at least 4"),
        (lambda: models.PublishedUNet(blocks=0), "blocks = 0: expected a positive integer"),
        (lambda: shapes(models.PublishedUNet(**SMALL), (9, 8, 3)), "whose sides 2 divides, got shape (9, 8, 3)"),
        (lambda: shapes(models.PublishedUNet(**SMALL), (8, 3)), "takes images (H, W, C)"),
        (lambda: models.UNet.preset("cifar"), "There is no UNet 'cifar': nearest is 'cifar10'"),
    ],
)
def test_what_is_refused(make, text):
    with pytest.raises(ValueError, match=re.escape(text)) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_the_augmentation_joins_the_features_of_the_noise_level():
    """Of features h + A' a the first layer W' makes W' h plus a constant, which its bias can hold as well."""
    sizes = dict(SMALL, groups=2)
    told, untold = (models.PublishedUNet.preset("ddpmpp_edm", augment=n, **sizes) for n in (3, 0))
    label, c, x = jnp.asarray([0.5, -1.0, 2.0]), jnp.float32(0.3), jnp.asarray(IMAGE.transpose(1, 2, 0), jnp.float32)
    params = told.init(jax.random.key(0), x, c)["params"]
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    params = tree.unflatten([0.2 * jax.random.normal(key, leaf.shape) for key, leaf in zip(keys, leaves, strict=True)])
    plain = {name: part for name, part in params.items() if name != "augment"}
    shift = label @ params["augment"]["kernel"] @ plain["time_0"]["kernel"]
    moved = plain | {"time_0": plain["time_0"] | {"bias": plain["time_0"]["bias"] + shift}}
    expected = untold.apply({"params": moved}, x, c)
    np.testing.assert_allclose(told.apply({"params": params}, x, c, augment=label), expected, atol=1e-4)
    assert np.abs(expected - untold.apply({"params": plain}, x, c)).max() > 1e-2
    np.testing.assert_array_equal(told.apply({"params": params}, x, c), untold.apply({"params": plain}, x, c))
    with pytest.raises(ValueError, match=r"label of shape \(2,\), but the network has augment = 3"):
        told.apply({"params": params}, x, c, augment=jnp.zeros(2))
