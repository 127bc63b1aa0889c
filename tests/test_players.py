"""Two players of one method: moved by name, donated, averaged where they are served, equal on any devices."""

import subprocess
import sys
import warnings

import jax
import numpy as np
import optax
import pytest
from own_objects import PLAIN, both, trainer, two_players
from run_command import environment

from diffjax import allocator
from diffjax import players as players_of
from diffjax.method import Method, Turn


def test_after_a_step_the_old_state_is_donated():
    for one in (trainer(), trainer(two_players(), PLAIN, both())):
        old = one.state
        one.train(1)
        moved = jax.tree.leaves((old.params, old.opt_state, old.ema))
        assert len(moved) > 5
        assert {leaf.is_deleted() for leaf in moved} == {bool(allocator.donating(0))}
        assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(one.state))


def test_players_move_with_optimizers_of_their_own_and_what_is_served_is_averaged():
    one = trainer(two_players(), PLAIN, both())
    assert set(one.state.opt_state) == {"critic", "generator"}
    assert set(one.state.ema.averages["0.999"]) == {"generator"}
    run = one.train(10)
    assert set(run.params) == {"generator"}
    assert run.draw(3).shape == (3, 2)
    assert np.abs(run.state.params["critic"]["w"]).max() > 1e-3


def players(out):
    """Five steps of both players on one device, on two, and by pmap; what a child process runs."""
    found = {}
    for backend, devices in (("jit", 1), ("jit", 2), ("pmap", 2)):
        one = trainer(two_players(), PLAIN, both(), backend=backend, devices=devices, batch_size=8)
        assert one.mesh.size == devices
        state = one.train(5).state
        for i, leaf in enumerate(jax.tree.leaves(jax.device_get((state.params, state.ema, state.opt_state)))):
            found[f"{backend}{devices}/{i:02}"] = leaf
    np.savez(out, **found)


@pytest.mark.slow  # test_parallel has one player on devices
def test_two_players_do_not_depend_on_devices_or_backend(tmp_path):
    out = tmp_path / "out.npz"
    command = [sys.executable, __file__, "players", str(out)]
    done = subprocess.run(command, env=environment(2), capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    found = dict(np.load(out))
    names = sorted(name.partition("/")[2] for name in found if name.startswith("jit1/"))
    assert len(found) == 3 * len(names)
    assert len(names) > 10
    for name in names:
        for other in ("jit2", "pmap2"):
            np.testing.assert_allclose(found[f"{other}/{name}"], found[f"jit1/{name}"], rtol=1e-5, atol=1e-6)


def turned(*turns):
    return Method(lambda key, example: {}, tuple(Turn(None, moves, by=by) for moves, by in turns), lambda *a: None)


ONE, TWO = optax.sgd(1.0), optax.sgd(2.0)


@pytest.mark.parametrize(
    ("turns", "said"),
    [
        ([("a", ONE), ("a", None)], "Turns move a by the run's and by its own optimizer, expected one"),
        ([("a", None), (("b", "a"), ONE)], "Turns move a by the run's and by its own"),
        ([("a", ONE), ("a", TWO)], "Turns move a by different ones of their own"),
        ([("a", "sgd")], "A turn of a has 'sgd' as its own optimizer, expected optax's"),
        ([(None, ONE)], "has an optimizer of its own, but moves all parameters"),
        ([(None, None), ("a", ONE)], "One turn moves all parameters, another a: name the players"),
    ],
)
def test_turns_that_do_not_go_together_are_refused(turns, said):
    method = turned(*turns)
    zeros = {name: np.zeros(2, np.float32) for name in "ab"}
    for check, options in ((players_of.check_players, zeros), (players_of.check_optimizers, optax.adam(1e-3))):
        with pytest.raises(ValueError, match=said) as found:
            check(method, options)
        assert "\n" not in str(found.value)


def test_optimizers_that_nobody_uses_are_refused():
    """Of a run whose players are moved by their turns' own there is none to give."""
    method, check = turned(("a", ONE), ("b", TWO), ("a", ONE)), players_of.check_optimizers
    with pytest.raises(ValueError, match=r"every player is moved by one of its turn's own: give \{\}"):
        check(method, optax.adam(1e-3))
    with pytest.raises(ValueError, match="Got optimizers for c, expected"):
        check(method, {"c": optax.adam(1e-3)})
    check(method, {})
    assert players_of.with_own(method, {}) == {"a": ONE, "b": TWO}
    check(turned(("a", ONE), ("b", None)), optax.adam(1e-3))
    with pytest.raises(ValueError, match="this method names no players"):
        check(turned((None, None)), {})


if __name__ == "__main__":
    warnings.simplefilter("error")
    jax.config.update("jax_numpy_rank_promotion", "raise")
    jax.config.update("jax_numpy_dtype_promotion", "strict")
    globals()[sys.argv[1]](*sys.argv[2:])
