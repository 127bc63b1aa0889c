"""Data of any scale, standardised for a run and brought back; steps that are skipped; pictures of any channels."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffjax import data, plots, runs, training
from diffjax.config import ConfigError
from diffjax.method import Method, Turn, per_example

WHOLE_REPORTS = True


@pytest.mark.parametrize(
    ("how", "shape", "axes"),
    [
        ("entries", (90, 3), 0),
        ("whole", (90, 3), None),
        ("channels", (90, 4, 4, 2), (0, 1, 2)),
        ("entries", (90, 1), 0),
    ],
)
def test_standardised_data_comes_back(how, shape, axes, tmp_path):
    rng = np.random.default_rng(0)
    x = 1000 + 100 * rng.normal(size=shape) * (1 + np.arange(shape[-1]))
    np.savez(tmp_path / "x.npz", x=x)
    dataset = data.npz(str(tmp_path / "x.npz"), label=None, standardize=how)
    plain = data.arrays(x)
    train = plain.train.gather(np.arange(len(plain.train))).x
    seen = dataset.train.gather(np.arange(len(plain.train))).x
    np.testing.assert_allclose(seen.mean(axes), 0, atol=1e-4)
    np.testing.assert_allclose(seen.std(axes), 1, rtol=1e-4)
    np.testing.assert_allclose(dataset.to_data(seen), train, rtol=1e-6)
    undone = data.undone(dataset)
    np.testing.assert_allclose(undone.held_out.gather(np.arange(4)).x, plain.held_out.gather(np.arange(4)).x, rtol=1e-6)
    mean, sd = train.mean(axes, dtype=np.float64), train.std(axes, dtype=np.float64)
    by_hand = (plain.held_out.gather(np.arange(4)).x - mean) / sd  # by the training part's numbers
    np.testing.assert_allclose(dataset.held_out.gather(np.arange(4)).x, by_hand, atol=1e-4)
    assert dataset.fingerprint != plain.fingerprint
    assert dataset.log_scale == pytest.approx(np.log(np.broadcast_to(sd, shape[1:])).sum(), rel=1e-6)
    if len(shape) == 4:
        shown = dataset.shown(train)
        assert (shown.min(), shown.max()) == (-1, pytest.approx(1))


def test_a_constant_entry_is_shifted_and_not_blown_up():
    x = np.stack([np.full(50, 7.0), np.linspace(-3, 5, 50)], 1)
    dataset = data.standardize(data.arrays(x), "entries")
    assert (dataset.train.gather(np.arange(45)).x[:, 0] == 0).all()
    assert dataset.units.scale[0] == 1
    assert (dataset.to_data(np.zeros((1, 2)))[:, 0] == 7).all()


def test_what_has_units_of_its_own_is_refused(tmp_path):
    x = np.random.default_rng(1).normal(size=(30, 4, 4, 1))
    np.savez(tmp_path / "b.npz", x=np.zeros((30, 4, 4, 1), np.uint8), z=np.zeros((30, 4, 4, 1)), f=x)
    cases: list[tuple[dict[str, Any], str]] = [
        ({"standardize": "entries"}, "uint8: pixels become"),
        ({"x": "f", "standardize": "pixel"}, "expected entries, channels, whole"),
        ({"x": "f", "z": "z", "standardize": "whole"}, "and not its z"),
    ]
    for options, why in cases:
        with pytest.raises(ValueError, match=why):
            data.npz(str(tmp_path / "b.npz"), label=None, **options)
    with pytest.raises(ValueError, match="and not its y"):
        data.standardize(data.arrays(x, y=x), "whole")
    with pytest.raises(ValueError, match="without endpoints"):
        data.pairs("npz", path=str(tmp_path / "b.npz"), x="f", label=None, standardize="whole")


def test_units_are_kept_with_the_run(tmp_path):
    """The file may change afterwards: samples come back by what the run was trained with; training is refused."""
    make = lambda scale: data.standardize(data.arrays(scale * np.arange(40.0).reshape(20, 2)), "entries")
    first, other = make(1), make(2)
    assert data.keep(first, tmp_path) == data.keep(first, tmp_path) == ""
    assert "its data changed" in data.keep(other, tmp_path)
    u = np.ones((1, 2))
    np.testing.assert_array_equal(data.kept_units(other, tmp_path).to_data(u), first.to_data(u))
    assert not np.allclose(other.to_data(u), first.to_data(u))
    assert data.kept_units(other, None) is other
    workdir = tmp_path / "run"
    runs.Trainer(numbers(), first, optimizer=optax.sgd(0.1), workdir=workdir, **SHORT).close()
    assert (workdir / "units.npz").exists()
    np.savez(workdir / "units.npz", **other.units._asdict())
    with pytest.raises(ConfigError, match="its data changed"):
        runs.Trainer(numbers(), first, optimizer=optax.sgd(0.1), workdir=workdir, **SHORT)


def test_a_run_draws_in_the_units_of_its_data():
    dataset = data.standardize(data.arrays(5 + 2 * np.random.default_rng(2).normal(size=(200, 2))), "entries")
    method = numbers()._replace(draw=lambda params, request, key, given: jnp.asarray([0.0, 1.0]))
    run = runs.Trainer(method, dataset, optimizer=optax.sgd(0.1), **SHORT).run()
    drawn = run.draw(3)
    np.testing.assert_allclose(drawn[0], dataset.units.mean + dataset.units.scale * [0, 1], rtol=1e-6)
    assert drawn.shape == (3, 2)


SHORT: dict[str, Any] = dict(steps=8, log_every=4, batch_size=4, chunk=4, nonfinite="skip")


def numbers():
    """A method of one parameter."""
    loss = lambda params, keys, example, index, size: (jnp.sum(params**2), {})
    init = lambda key, example: jnp.ones(())
    return Method(init, (Turn(per_example(loss)),), lambda params, request, key, given: jnp.zeros(2))


def window(finite):
    """Metrics of a window in which these steps are finite."""
    numbers = {name: np.where(finite, 1.0, np.nan) for name in training.GUARDED}
    return [{**numbers, "finite": np.asarray(finite)}]


@pytest.mark.parametrize(
    ("finite", "policy", "complete", "ends"),
    [
        ([False, False], "skip", True, True),
        ([False, False], "skip", False, False),  # a part of a window, at a checkpoint
        ([False, True], "skip", True, False),
        ([False, True], "stop", True, True),
        ([True, True], "stop", True, False),
    ],
)
def test_a_window_without_a_finite_step_is_the_end(finite, policy, complete, ends):
    check = lambda: training.check_finite(window(finite), 40, policy, complete)
    if not ends:
        assert check() == finite.count(False)
        return
    with pytest.raises(training.NonFiniteError, match="loss is nan at step 40") as error:
        check()
    assert ("no step from 40 to 41 was finite" in str(error.value)) == (policy == "skip")


def test_skipped_steps_are_said_and_have_a_limit(capsys, tmp_path):
    """One labelled batch in two is NaN: counted; from then on all are: the run ends, and says where."""
    x = np.random.default_rng(3).normal(size=(40, 2)).astype(np.float32)
    some = numbers()._replace(turns=(Turn(per_example(nan_where(lambda key: jax.random.bernoulli(key, 0.5)))),))
    trained = runs.Trainer(some, data.arrays(x), optimizer=optax.sgd(0.1), **{**SHORT, "batch_size": 1}).train()
    skipped = int(trained.state.skipped)
    assert 0 < skipped < 8
    assert f", {skipped} skipped" in capsys.readouterr().out
    every = numbers()._replace(turns=(Turn(per_example(nan_where(lambda key: True))),))
    with pytest.raises(training.NonFiniteError, match="no step from 0 to 3 was finite"):
        runs.Trainer(every, data.arrays(x), optimizer=optax.sgd(0.1), **SHORT).train()


def nan_where(bad):
    """The loss of one parameter, NaN where a key says so."""
    return lambda params, keys, example, index, size: (jnp.where(bad(keys.step), jnp.nan, jnp.sum(params**2)), {})


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
def test_images_of_any_channels_are_drawn(channels, tmp_path):
    x = np.random.default_rng(4).uniform(-1, 1, size=(3, 6, 5, channels))
    board = plots.pictures(x[0])
    if channels in (2, 5):
        assert board.shape == (6, 5 * channels, 1)
        for c in range(channels):
            np.testing.assert_array_equal(board[:, 5 * c : 5 * c + 5, 0], x[0, ..., c])
    else:
        assert board is not None
        np.testing.assert_array_equal(board, x[0])
    plots.save_image(tmp_path / "a.png", plots.to_pixels(board), min_width=1)
    plots.samples(tmp_path / "b.png", {"a": x})
    plots.filmstrip(tmp_path / "c.png", np.stack([x, x]), [1.0, 0.0])
    assert all((tmp_path / f"{name}.png").stat().st_size for name in "abc")


def test_numbers_that_are_none_are_drawn_without_a_warning(tmp_path):
    x = np.array([[0.0], [np.nan], [np.inf], [1.0]])
    plots.samples(tmp_path / "a.png", {"a": x, "none": np.full((2, 1), np.nan)})
    assert plots.to_pixels(np.array([np.nan, -np.inf, np.inf, 0.0])).tolist() == [0, 0, 255, 128]
