"""Codes as data: the coordinate, its scale, its bits, its cache; latent diffusion by PCA is that of the rank-q law."""

import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import diffjax
from diffjax import analytic, codecs, data, draws, grids, samplers, schedules
from diffjax.data.coordinate import CHUNK
from diffjax.method import Drawn, Section
from diffjax.methods import tokens
from diffjax.metrics.judges import Floored

D, Q = 8, 3
AT = np.arange(D)
C = 0.9 ** np.abs(AT[:, None] - AT) * (1 + 0.5 * np.cos(AT))[:, None] * (1 + 0.5 * np.cos(AT))
LAM, AXES = (a[..., ::-1] for a in np.linalg.eigh(C))


def points(n=2 * D):
    """Sixteen points whose mean is 0 and whose covariance, of n - 1, is C."""
    root = np.linalg.cholesky(C) * np.sqrt((n - 1) / 2)
    return np.concatenate([root.T, -root.T])


def test_the_probabilistic_codec_by_its_numbers():
    """s^2, what means lose, the floor of any latent model of three numbers, and the likelihood, by linear algebra."""
    codec, s2 = codecs.probabilistic(points(), Q)
    assert s2 == pytest.approx(0.1016549, abs=1e-7)
    encode, W = (jax.jacobian(f)(jnp.zeros(n)) for f, n in ((codec.encode, D), (codec.decode, Q)))
    model = np.asarray(W @ W.T) + s2 * np.eye(D)
    log_p = -0.5 * (D * np.log(2 * np.pi) + np.linalg.slogdet(model)[1] + np.trace(np.linalg.solve(model, C)))
    assert log_p == pytest.approx(-6.4343429, abs=2e-6)
    M = np.asarray(W.T @ W) + s2 * np.eye(Q)
    np.testing.assert_allclose(encode, np.linalg.solve(M, np.asarray(W).T), atol=1e-6)
    std = np.asarray(codec.std(jnp.zeros(D)))
    np.testing.assert_allclose(np.diag(std**2), s2 * np.linalg.inv(M), atol=1e-6)
    drawn = encode @ C @ encode.T + np.diag(std**2)
    np.testing.assert_allclose(drawn, np.eye(Q), atol=1e-5)  # drawn codes are N(0, I),
    np.testing.assert_allclose(W @ drawn @ W.T + s2 * np.eye(D), model, atol=1e-5)  # and decoded the model's law
    lost = np.trace(W @ np.diag(std**2) @ W.T)
    assert lost == pytest.approx(0.2679134, abs=2e-6)  # of means alone
    assert lost == pytest.approx(float(((LAM[:Q] - s2) * s2 / LAM[:Q]).sum()), abs=1e-6)
    x = points()[3]  # E_q log p(x | u) less KL(q || N(0, I)) is log p(x): the bound of a linear autoencoder has no gap
    code = np.asarray(codec.encode(x))
    square = np.sum((x - codec.decode(code)) ** 2) + np.sum((std * np.linalg.norm(W, axis=0)) ** 2)
    kl = 0.5 * np.sum(code**2 + std**2 - 1 - 2 * np.log(std))
    bound = -0.5 * (D * np.log(2 * np.pi * s2) + square / s2) - kl
    assert bound == pytest.approx(scipy.stats.multivariate_normal(np.zeros(D), model).logpdf(x), abs=1e-4)
    best = codecs.principal(points(), Q)
    A = np.asarray(jax.jacobian(lambda x: best.decode(best.encode(x)))(jnp.zeros(D)))
    floor = np.trace(C - A @ C @ A.T)  # W2^2 of two Gaussians of the same axes: the discarded eigenvalues
    assert floor == pytest.approx(0.5082746, abs=1e-6)
    assert floor == pytest.approx(LAM[Q:].sum(), abs=1e-6)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("q", [Q, D])  # of all axes the codec is orthogonal
def test_latent_diffusion_by_principal_axes_is_that_of_the_law_of_their_rank(q):
    """DDIM in 20 steps by exact denoisers of codes and of examples: decoded, the walks are one, row by row."""
    schedule = schedules.VP()
    ts, U, mean = grids.log_snr(schedule, n=20, t_min=1e-3), AXES[:, :q].copy(), np.linspace(-1, 1, D)
    law = lambda mean, basis: analytic.GaussianMixture(
        np.zeros(1), mean[None], LAM[None, :q], basis[None], mean.shape
    ).denoiser(schedule)
    walk = samplers.sampling_fn(samplers.ancestral.ddim(schedule), ts, draws.visible)
    z, (alpha, _) = np.random.default_rng(0).normal(size=D), (np.asarray(a) for a in schedule(ts[0]))
    u, codes = walk(law(np.zeros(q), np.eye(q)), jax.random.key(0), U.T @ z)
    x, states = walk(law(mean, U), jax.random.key(0), z + alpha * mean)
    codec = codecs.linear(U, mean, (D,))
    np.testing.assert_allclose(codec.decode(u), x, atol=1e-12)
    assert codes.shape == (20, q)
    alphas = np.array([float(schedule(t)[0]) for t in ts[1:]])
    along = (np.asarray(states) - alphas[:, None] * mean) @ U
    np.testing.assert_allclose(codes, along, atol=1e-12)


def _orthogonal(n=D):
    Q_, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(n, n)))
    return codecs.linear(Q_.astype(np.float32), np.zeros(n, np.float32), (n,))


def base(n=150, d=D, **options):
    x = np.random.default_rng(3).normal(size=(n, d)).astype(np.float32) * np.arange(1, d + 1, dtype=np.float32)
    return data.arrays(x, label=np.arange(n) % 3, **options)


def test_the_identity_is_the_data_itself_bit_for_bit():
    own = base()
    made = data.latents(codecs.identity(), own, scale=None)
    for part in ("train", "held_out"):
        at = np.arange(len(getattr(own, part)))
        one, other = getattr(own, part).gather(at), getattr(made, part).gather(at)
        np.testing.assert_array_equal(one.x, other.x)
        np.testing.assert_array_equal(one.given["label"], other.given["label"])
        np.testing.assert_array_equal(made.to_data(other.x), one.x)
    assert (made.shape, made.classes, made.levels) == (own.shape, 3, None)


@pytest.mark.parametrize("scale", ["channels", "whole", 2.5, None])
@pytest.mark.parametrize("stored", [True, False])
def test_codes_are_scaled_over_the_training_data_and_come_back(scale, stored):
    own, codec = base(), _orthogonal()
    made = data.latents(codec, own, scale=scale, stored=stored)
    at = np.array([5, 0, 77, 5])
    x = own.train.gather(np.arange(len(own.train))).x
    axes = np.asarray(codec.encode.args[0], np.float64)
    code = x @ axes
    shift, size = {"channels": (code.mean(0), code.std(0)), "whole": (code.mean(), code.std())}.get(
        scale, (0, scale or 1)
    )
    np.testing.assert_allclose(made.train.gather(at).x, ((code - shift) / size)[at], atol=2e-5)
    np.testing.assert_allclose(made.to_data(made.train.gather(at).x), x[at], atol=2e-5)
    np.testing.assert_allclose(made.units.to_units(x[:3]), ((code - shift) / size)[:3], atol=2e-5)
    undone = data.undone(made.of_label(1))
    np.testing.assert_array_equal(undone.train.gather(np.arange(4)).x, own.of_label(1).train.gather(np.arange(4)).x)
    assert undone.shape == own.shape == made.seen_shape


def test_drawn_codes_have_the_variance_that_means_lack():
    own = base(n=4000)
    x = own.train.gather(np.arange(len(own.train))).x
    codec, _ = codecs.probabilistic(x, Q)
    means, drawns = (data.latents(codec, own, sampled=s, scale=None) for s in (False, True))
    mean, drawn, at = means.train, drawns.train, np.arange(len(own.train))
    lam = np.linalg.eigvalsh(np.cov(x.T))[::-1]
    s2 = lam[Q:].mean()
    np.testing.assert_allclose(mean.gather(at).x.var(0), 1 - s2 / lam[:Q], atol=1e-3)
    np.testing.assert_allclose(drawn.gather(at).x.var(0), 1, atol=0.06)
    late = data.latents(codec, own, sampled=True, scale=None, stored=False)
    np.testing.assert_array_equal(late.train.gather(at[70:75]).x, drawn.gather(at[70:75]).x)  # by place, whoever else
    noise = lambda part: getattr(late, part).gather(at[:100]).x - getattr(means, part).gather(at[:100]).x
    both = noise("train") * noise("held_out") / (s2 / lam[:Q])
    assert abs(np.mean(both)) < 4 / np.sqrt(300)  # of variance 1 each, and of examples apart


def _parity():
    """A codec of whole codes: the sign of each entry."""
    return codecs.Codec(lambda x: (x > 0).astype(jnp.int32), lambda k: 2.0 * k.astype(jnp.float32) - 1)


def test_whole_codes_are_tokens_without_a_scale():
    made = data.latents(_parity(), base())
    found = made.train.gather(np.arange(9))
    assert found.x.dtype == np.int32
    np.testing.assert_array_equal(made.to_data(found.x), np.where(base().train.gather(np.arange(9)).x > 0, 1, -1))
    late = data.latents(_parity(), base(), stored=False)
    np.testing.assert_array_equal(late.train.gather(np.arange(9)).x, found.x)


def test_a_vocabulary_with_tokens_that_no_code_stands_for_is_refused():
    """What the model draws of them could not be decoded."""
    counted = codecs.Codec(_parity().encode, _parity().decode, codes=2)
    tokens.check_tokens(data.latents(counted, base()), 2)
    tokens.check_tokens(data.latents(_parity(), base()), 3)  # nobody says how many there are
    with pytest.raises(ValueError, match=r"^The vocabulary is 3, but latents of .* codec of 2 codes.*: set voc.*=2 \("):
        tokens.check_tokens(data.latents(counted, base()), 3)


def test_bits_do_not_depend_on_how_many_are_decoded_together():
    made = data.latents(_orthogonal(), base())
    u = made.train.gather(np.arange(CHUNK + 9)).x
    np.testing.assert_array_equal(made.to_data(u)[-9:], made.to_data(u[-9:]))


def test_a_cache_is_of_one_codec_and_one_data_set(tmp_path):
    file, own = tmp_path / "codes.npz", base()
    first = data.latents(_orthogonal(), own, cache=str(file))
    again = data.latents(_orthogonal(), own, cache=str(file))
    np.testing.assert_array_equal(again.train.gather(np.arange(5)).x, first.train.gather(np.arange(5)).x)
    assert first.fingerprint == again.fingerprint
    flips = lambda sign: codecs.Codec(lambda x: sign * x, lambda u: sign * u)  # no numbers of their own
    told = [data.latents(codec, own, scale=None).fingerprint for codec in (flips(1.0), flips(-1.0), flips(1.0))]
    assert told[0] == told[2] != told[1]
    shifted = codecs.scaled(_orthogonal(), 1.0, 1.0)
    for codec, of in ((shifted, own), (_orthogonal(), base(n=151))):
        with pytest.raises(
            ValueError, match=r"codes\.npz holds codes of another codec or other data \(checksum .*\): r"
        ):
            data.latents(codec, of, cache=str(file))
    assert codecs.checksum(_orthogonal()) != codecs.checksum(codecs.scaled(_orthogonal(), 0.0, 2.0))
    assert data.latents(_orthogonal(), own, scale=2.0).fingerprint != first.fingerprint


def test_samples_are_judged_beside_decoded_training_examples():
    judge = lambda drawn, dataset: [Section({"metrics": {"mean": {"value": float(np.mean(drawn.x)), "floor": 0.0}}})]
    own = base()._replace(judge=judge)
    half = codecs.Codec(lambda x: x, lambda u: 0.5 * u)
    made = data.latents(half, own, scale=None)
    assert isinstance(made.judge, Floored)
    seen = data.undone(made)
    sections = seen.judge(Drawn(np.full((7, D), 3.0), {}), seen)
    x = own.train.gather(own.places("train", 7)).x
    assert sections[-1].results == {"decoded": {"mean": pytest.approx(0.5 * x.mean(), rel=1e-5)}}
    assert f"| mean | 3.0000 | {0.5 * x.mean():.4f} |" in sections[-1].text


class _Run:
    """What a run of a codec gives: its parts' codec, its data, and a file of itself."""

    def __init__(self, codec, dataset):
        self.params, self.data = None, dataset
        self.method = SimpleNamespace(parts=SimpleNamespace(codec=lambda params: codec))

    def export(self, path):
        path.write_text("numbers")


def test_a_workdir_keeps_its_codec_and_draws_with_it_when_the_first_is_gone(tmp_path, monkeypatch, capsys):
    runs = {"runs/a": _Run(_orthogonal(), base()), str(tmp_path / "codec.safetensors"): _Run(_orthogonal(), base())}
    monkeypatch.setattr(diffjax, "open", lambda path: runs[path])
    made = data.latents("runs/a")
    assert data.keep(made, tmp_path) == ""
    assert (tmp_path / "codec.safetensors").is_file()
    assert data.keep(made, tmp_path) == ""  # a start that goes on
    facts = (tmp_path / "codec.json").read_text()
    for name, by, same in (
        ("shift", 1e-4, True),
        ("shift", 1e-2, False),
        ("scale", 1e-4, True),
        ("scale", 1e-2, False),
    ):
        told = json.loads(facts)
        told[name] = (np.asarray(told[name]) + by * np.asarray(told["scale"])).tolist()  # in units of the scale
        (tmp_path / "codec.json").write_text(json.dumps(told))
        assert (data.keep(made, tmp_path) == "") is same
    (tmp_path / "codec.json").write_text(facts)
    u = made.train.gather(np.arange(4)).x
    card = json.loads(json.dumps(data.card(made)))
    gone = data.of_card(card, str(tmp_path / "data.json"), "runs/a is gone")
    np.testing.assert_allclose(gone.to_data(u), made.to_data(u), rtol=1e-6)
    assert (gone.shape, gone.seen_shape) == (made.shape, made.seen_shape)
    assert data.undone(gone) is gone
    runs["runs/a"] = _Run(codecs.identity(), base())  # trained further, say
    other = data.latents("runs/a")
    assert "the codec or its scale are others than when this run began" in data.keep(other, tmp_path)
    kept = data.kept_units(other, tmp_path)
    np.testing.assert_allclose(kept.to_data(u), made.to_data(u), rtol=1e-6)
    np.testing.assert_allclose(kept.train.gather(np.arange(4)).x, u, rtol=1e-5)  # encoded again, by the kept codec
    own = base().held_out.gather(np.arange(len(base().held_out))).x
    np.testing.assert_array_equal(data.undone(kept).held_out.gather(np.arange(len(own))).x, own)
    found = {k: v for part in kept.judge(Drawn(own, {}), data.undone(kept)) for k, v in part.results.items()}
    assert found["metrics"]["exact W2"]["value"] < 1e-3
    assert "the codec is not the one this run was trained with" in capsys.readouterr().out
    runs[str(tmp_path / "codec.safetensors")] = runs["runs/a"]
    with pytest.raises(ValueError, match=r"codec\.safetensors is another codec \(\w+\) than the one that"):
        data.of_card(card, str(tmp_path / "data.json"), "runs/a is gone")
    (tmp_path / "codec.safetensors").unlink()
    with pytest.raises(ValueError, match=r"decoded by .*codec\.safetensors, which is not there: copy it"):
        data.of_card(card, str(tmp_path / "data.json"), "runs/a is gone")
    object_alone = data.latents(_orthogonal(), base())
    assert data.keep(object_alone, tmp_path / "none") == ""
    assert "the codec is an object that no file holds" in capsys.readouterr().out


FLAT = codecs.Codec(lambda x: x * jnp.arange(D, dtype=jnp.float32), lambda u: u)
ENDLESS = codecs.Codec(lambda x: x / 0.0, lambda u: u)
WHOLE = codecs.Codec(lambda x: (x > 0).astype(jnp.int32), lambda u: u.astype(jnp.float32))
BELOW = codecs.Codec(lambda x: jnp.full(x.shape, -3, jnp.int32), lambda u: u.astype(jnp.float32))
LOST = codecs.Codec(lambda x: jnp.full(x.shape, -1, jnp.int32), lambda u: u.astype(jnp.float32))
SCALED = data.standardize(base(), "entries")
IMAGES = data.arrays(np.zeros((20, 4, 4, 1), np.uint8))
BAD = {
    "another shape": (lambda: data.latents(_orthogonal(), IMAGES), r"This codec takes no examples \(4, 4, 1\) of .*"),
    "no codec": (lambda: data.latents(3.0, base()), r"Got float as a codec, expected the workdir .*"),
    "no data": (lambda: data.latents(_orthogonal()), r"A codec that is an object says nothing of .*"),
    "of a word": (lambda: data.latents(_orthogonal(), 3), r"of is 3, expected a data set, its name or .*"),
    "of no such name": (lambda: data.latents(_orthogonal(), "digit"), r"There is no data set 'digit' to .*'digits'.*"),
    "of own code": (lambda: data.latents(_orthogonal(), "os:getcwd"), r"There is no data set 'os:getcwd' to encode.*"),
    "no such option": (lambda: data.latents(_orthogonal(), base(), sampeld=True),
                       r"latents has no option 'sampeld': nearest is 'sampled'; .*"),
    "an option of no": (lambda: data.latents(_orthogonal(), "digits", size=3), r"data\.digits has no option 'size'.*"),
    "scale 0": (lambda: data.latents(_orthogonal(), base(), scale=0), r"scale is 0, expected channels, .*"),
    "not finite": (lambda: data.latents(_orthogonal(), base(), scale=float("nan")), r"scale is nan, expected .*"),
    "a word": (lambda: data.latents(_orthogonal(), base(), scale="entries"), r"scale is 'entries', .*"),
    "a scale of whole codes": (lambda: data.latents(WHOLE, base(), scale=3.0), r"scale is 3\.0, but this codec's .*"),
    "a word for whole codes": (lambda: data.latents(WHOLE, base(), scale="entries"), r"scale is 'entries', .*"),
    "a cache of nothing": (lambda: data.latents(_orthogonal(), base(), stored=False, scale=None, cache="a.npz"),
                           r"cache names a file, but codes are made whenever they are gathered: .*"),
    "a cache of a function": (lambda: data.latents(WHOLE, base(), cache="a.npz"), r"cache names a file, but this .*"),
    "whole and not finite": (lambda: data.latents(LOST, base()),
                             r"The code of example 0 holds -1, expected .* from 0 on \(-1 stands .*\)\."),
    "negative": (lambda: data.latents(BELOW, base()), r"The code of example 0 holds -3, expected .* from 0.*"),
    "gathered and not finite": (lambda: data.latents(ENDLESS, base(), False, None, False).train.gather(np.arange(3)),
                                r"The code of example 0 holds (nan|-?inf), expected finite numbers\."),
    "points": (lambda: data.latents(_orthogonal(), base(), sampled=True), r"sampled is True, but this .*"),
    "mirrors": (lambda: data.latents(codecs.identity(), IMAGES._replace(flip=True)), r"arrays mirrors .*"),
    "constant": (lambda: data.latents(FLAT, base()),
                 r"Channel 0 of the codes is 0 for all \d+ training examples: it has no scale\."),
    "nan": (lambda: data.latents(ENDLESS, base()), r"The code of example 0 holds .*"),
    "units": (lambda: data.latents(codecs.identity(), SCALED), r"arrays has units of .*"),
    "size": (lambda: codecs.probabilistic(points(), D), r"The size of a code is 8, expected at most 7\."),
    "flat": (lambda: codecs.probabilistic(points() * (AT < 2), 2), r"The examples have no variance beside their .*"),
    "few": (lambda: codecs.probabilistic(points()[:8], 2), r"8 examples of 8 entries have no covariance .*"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_refuses_bad_input_in_one_line(name):
    make, message = BAD[name]
    with pytest.raises(ValueError, match=f"^{message}$"):
        make()


def test_what_needs_pixels_says_so():
    made = data.latents(_orthogonal(), base())
    with pytest.raises(ValueError, match=r"^This run is of codes, whose density says nothing of examples .*"):
        _ = made.log_scale
    with pytest.raises(ValueError, match=r"^This run is of codes, and a codec is no mean and scale: .*"):
        _ = made.units.affine
    with pytest.raises(ValueError, match=r"^no/such/run holds no run \(it is not there\): .*"):
        data.latents("no/such/run")
