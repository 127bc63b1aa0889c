"""Pictures: what is on them pixel by pixel, and how they are laid out."""

import numpy as np
import pytest
from PIL import Image

from diffjax import plots
from diffjax.plots import panels, pixels, style

GREY = np.random.default_rng(0).integers(0, 256, size=(6, 4, 5, 1))


def units(levels):
    """Floats in [-1, 1] of the levels 0 .. 255."""
    return levels / 127.5 - 1


def read(path):
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def find(picture, block):
    """Where a block of pixels (h, w, 3) stands in a picture: (row, column) of its corner; every place."""
    h, w = block.shape[:2]
    if h > picture.shape[0] or w > picture.shape[1]:
        return []
    rows, columns = picture.shape[0] - h + 1, picture.shape[1] - w + 1
    likely = np.ones((rows, columns), bool)
    for y in np.linspace(0, h - 1, 9).astype(int):  # some pixels sort out most places
        for x in np.linspace(0, w - 1, 9).astype(int):
            likely &= picture[y : y + rows, x : x + columns, 0] == block[y, x, 0]
    return [at for at in np.argwhere(likely) if (picture[at[0] : at[0] + h, at[1] : at[1] + w] == block).all()]


def squares(image, scale):
    """Every pixel of (H, W, C) as scale x scale equal ones, by another route than the library's: Kronecker's."""
    return np.stack([np.kron(image[..., c], np.ones((scale, scale), int)) for c in (0, 0, 0)], -1)


@pytest.mark.parametrize("dpi", [40, 110])
def test_images_are_enlarged_by_whole_pixels_and_never_resampled(dpi, tmp_path, monkeypatch):
    """2 x 3 images of 5 x 4 pixels in a room of at most 880: every one stands there in squares of some size s."""
    monkeypatch.setattr(style, "LAYOUT", {"layout": "none", "dpi": dpi})
    plots.samples(tmp_path / "a.png", {"samples": units(GREY), "held out": units(GREY[::-1])}, columns=3)
    picture = read(tmp_path / "a.png")
    assert picture.shape[1] <= style.WIDTH
    scale = next(s for s in range(25, 0, -1) if len(find(picture, squares(GREY[0], s))))
    assert scale >= 10, "a notebook's width is used"
    for image in GREY:
        places = find(picture, squares(image, scale))
        assert len(places) == 2, "once among the samples, once among the held-out"
    first, second = (find(picture, squares(GREY[i], scale)) for i in (0, 1))
    assert (second[0] - first[0]).tolist() == [0, 6 * scale], "five pixels and a gap of one apart, in one row"


def test_a_frame_of_a_walk_has_its_estimate_below(tmp_path):
    """Two frames of one walk: x_t above, x_0 below, in the same column; a frame within [-1, 1] is not rescaled."""
    walk, seen = units(GREY[:2])[:, None], units(GREY[2:4])[:, None]
    plots.filmstrip(tmp_path / "a.png", walk, [0.5, 0.0], seen)
    picture = read(tmp_path / "a.png")
    scale = next(s for s in range(25, 0, -1) if len(find(picture, squares(GREY[0], s))))
    at = [find(picture, squares(GREY[i], scale)) for i in range(4)]
    assert [len(places) for places in at] == [1] * 4
    (x0, x1, e0, e1) = (places[0] for places in at)
    assert (e0 - x0).tolist() == (e1 - x1).tolist() == [5 * scale, 0]
    assert (x1 - x0).tolist() == [0, 6 * scale]


def test_noise_that_outgrows_the_range_is_scaled_to_it(tmp_path):
    """The largest of a frame's numbers becomes 1, and white; half of it is then at 0.5: round(1.5 * 127.5) = 191."""
    frame = np.zeros((1, 1, 4, 5, 1))
    frame[..., 0, 0, 0], frame[..., 1, 1, 0] = 40.0, 20.0
    plots.filmstrip(tmp_path / "a.png", frame, [1.0])
    expected = np.full((4, 5, 1), 128)
    expected[0, 0], expected[1, 1] = 255, 191
    picture = read(tmp_path / "a.png")
    assert any(len(find(picture, squares(expected, s))) for s in range(25, 0, -1))


def test_a_class_is_a_row():
    """Class 1 at 0, 2, 4 and class 3 at 1 of five images: two of each at most, on rows of two cells."""
    at, places = panels._by_class(np.array([1, 3, 1, 0, 1]), np.array([1, 3]), 2)
    assert at.tolist() == [0, 2, 1]
    assert places.tolist() == [0, 1, 2]
    board = plots.tile(units(GREY[at]), 2, places=places)
    assert board.shape == (2 * 5 + 1, 2 * 6 + 1, 1)
    np.testing.assert_array_equal(board[1:5, 7:12], GREY[2])
    np.testing.assert_array_equal(board[6:10, 1:6], GREY[1])
    assert (board[6:10, 7:12] == 255).all(), "class 3 has no second example"


@pytest.mark.parametrize(
    ("labels", "rows"),
    [
        ({}, None),  # nothing is labelled
        ({"a": [2, 2], "b": [2]}, None),  # one row would be all
        ({"a": [5, 0], "b": [7, 0]}, [0, 5, 7]),
        ({"a": np.arange(100)}, [round(i * 99 / 15) for i in range(16)]),  # no more rows than a screen has
    ],
)
def test_the_classes_that_have_a_row(labels, rows):
    found = panels._classes(dict.fromkeys(("a", "b"), GREY), labels)
    assert rows == (None if found is None else found.tolist())
    assert panels._classes({"a": np.zeros((3, 2))}, {"a": [0, 1, 2]}) is None, "points have no rows"


def test_names_of_classes_are_text_whatever_they_hold(tmp_path):
    """Dollars, which matplotlib takes for mathematics, line ends, characters that no font has, hundreds of them."""
    names = ["$x^$", "a\nb", "\u4e94\U0001f408", "n" * 300]
    labels = {"samples": np.arange(4)}
    plots.samples(tmp_path / "a.png", {"samples": units(GREY[:4])}, labels=labels, names=names)
    assert read(tmp_path / "a.png").shape[1] <= style.WIDTH
    assert panels._short(3, names) == "n" * 15 + "…"
    assert panels._short(4, names) == "4"


def test_what_is_not_shown_is_said():
    panel = panels._panel("samples", np.zeros((300, 8, 8, 1)), 400, (64, None), None, None)
    assert (panel.name + panel.more, panel.board.shape) == ("samples, first 64 of 300", (73, 73, 1))
    large = panels._panel("x", np.zeros((9, 900, 700, 3)), 400, (64, None), None, None)
    assert (large.more, large.scale, large.size) == (", first 2 of 9", 1, (702, 1803))


def test_of_volumes_the_middle_slices_are_shown():
    """Slice 2 of depth 5, 3 of 6: place D // 2; of a trajectory (frames, N, D, H, W, C) too."""
    volumes = np.random.default_rng(1).uniform(-1, 1, size=(4, 5, 3, 4, 1))
    panel = panels._panel("a", volumes, 400, (64, None), None, None)
    np.testing.assert_array_equal(panel.board, plots.tile(volumes[:, 2], 2))
    assert panel.more == ", middle slices"
    walk = np.random.default_rng(2).uniform(size=(7, 2, 6, 3, 4, 1))
    np.testing.assert_array_equal(panels._slices(walk), walk[:, :, 3])
    np.testing.assert_array_equal(panels._slices(walk[:, :, 0]), walk[:, :, 0])


def axes():
    return style.axes(style.figure(300, 300), (30, 30, 240, 240))


def test_sequences_are_lines_one_above_the_other():
    """Five of nine sequences of two channels: ten lines, those of the next one range and a tenth lower."""
    x = np.random.default_rng(3).normal(size=(9, 20, 2))
    found = axes()
    panels._points(found, x, "red")
    lines = [line.get_ydata() for line in found.get_lines()]
    assert len(lines) == 10
    step = 1.1 * (x[:5].max() - x[:5].min())
    for i in range(5):
        np.testing.assert_allclose(lines[2 * i + 1], x[i, :, 0] - i * step)
        np.testing.assert_allclose(lines[2 * i], x[i, :, 1] - i * step)
    greys = {line.get_color() for line in found.get_lines()}
    assert len(greys) == 2
    assert all(0 < float(grey) < 1 for grey in greys)
    assert found.get_xlabel() == "5 of 9 sequences"


def test_channels_that_are_not_drawn_are_said():
    found = axes()
    panels._points(found, np.zeros((2, 6, 28)), "red")
    assert len(found.get_lines()) == 2 * 8
    assert found.get_xlabel() == "2 of 2 sequences, channels 1 to 8 of 28"


def test_points_beside_each_other_have_one_range():
    """Points from -1 to 3 and from 0 to 9 in x, 0 to 1 in y: a square around (4, 0.5), a little wider than 10."""
    one, other = axes(), axes()
    panels._points(one, np.array([[-1.0, 0.0], [3.0, 1.0], [np.nan, 7.0]]), "red")
    panels._points(other, np.array([[0.0, 0.0], [9.0, 1.0]]), "red")
    panels._share_limits([one, other])
    for found in (one, other):
        np.testing.assert_allclose(np.mean(found.get_xlim()), 4.0)
        np.testing.assert_allclose(np.mean(found.get_ylim()), 0.5)
        assert np.ptp(found.get_xlim()) == pytest.approx(np.ptp(found.get_ylim())) == pytest.approx(10.6)


@pytest.mark.parametrize(
    "shape", [(5, 1), (5, 2), (5, 7), (5, 9, 2), (5, 4, 3, 1), (5, 4, 3, 2), (5, 3, 4, 5, 1), (5, 3, 4, 5, 2)]
)
def test_every_shape_of_data_has_a_panel_and_a_walk(shape, tmp_path):
    x = np.random.default_rng(4).normal(size=shape)
    x.flat[0] = np.nan
    plots.samples(tmp_path / "a.png", {"samples": x, "held out": x[:3]})
    plots.filmstrip(tmp_path / "b.png", np.stack([x, x]), [1.0, 0.0], np.stack([x, x]))
    plots.filmstrip(tmp_path / "c.png", np.stack([x, x]), [1.0, 0.0])
    for name in "abc":
        assert read(tmp_path / f"{name}.png").shape[1] <= style.WIDTH


def brute_force(places, step):
    """The nearest places in squares, at least `step` apart in this order, by SLSQP."""
    from scipy import optimize

    places = np.asarray(places, float)
    between = {"type": "ineq", "fun": lambda y: np.diff(y) - step}
    start = places[0] + 2 * step * np.arange(len(places))
    return optimize.minimize(lambda y: ((y - places) ** 2).sum(), start, constraints=[between], tol=1e-12).x


@pytest.mark.parametrize("places", [[3.0], [0, 100, 200], [0, 1, 2, 50, 51], [5, 5, 5, 5], [0, 9, 11, 12, 40, 44]])
def test_names_at_line_ends_move_as_little_as_they_can(places):
    np.testing.assert_allclose(style.apart(places, 10.0), brute_force(places, 10.0), atol=1e-4)
    assert len(style.apart([], 10.0)) == 0


def test_lines_have_their_names_at_their_ends():
    """The name stands at the height of the line's last finite point, to the right of the axes."""
    found = axes()
    found.plot([0, 1], [0.0, 1.0])
    style.name_ends(found, [("one", 1.0, 0.25, "red"), ("lost", 1.0, np.nan, "red"), ("two", 1.0, 1.0, "blue")])
    size = np.asarray(found.figure.bbox.size)
    said = {text.get_text(): np.asarray(text.get_position()) * size for text in found.figure.texts}
    assert set(said) == {"one", "two"}
    for name, y in (("one", 0.25), ("two", 1.0)):
        assert said[name][1] == pytest.approx(found.transData.transform((1.0, y))[1])
        assert said[name][0] > found.get_window_extent().x1


def test_curves_of_every_kind_are_drawn(tmp_path):
    """NaN where a bin is empty, a curve without any number, a grid of one time."""
    nothing = [np.nan] * 3
    plots.loss_by_time(tmp_path / "a.png", [0, 0.3, 0.6, 1], {"held out": [1, np.nan, 0.1], "train": nothing})
    plots.training_curve(tmp_path / "b.png", [10, 20, 30], {"loss": [1, 0.5, 0.2], "grad_norm": nothing})
    t = np.linspace(0, 1, 50)
    plots.schedule(tmp_path / "c.png", t, 1 - t, t, [1.0])
    plots.normality(tmp_path / "d.png", {"held out": np.linspace(-2, 2, 99)})
    panels_of = {"left": {"a": ([1, 2], [1, 2]), "b": ([1, 2], [2, 1])}, "right": {"a": ([], [])}}
    plots.lines(tmp_path / "e.png", panels_of, accent=["a"], xlabel="n", yscale="log")
    for name in "abcde":
        assert read(tmp_path / f"{name}.png").shape[1] <= style.WIDTH


def test_the_library_of_plots_is_what_reports_ask_for():
    """Kinds of figures of sections are names of functions here."""
    for kind in ("filmstrip", "schedule", "loss_by_time", "training_curve", "samples", "normality"):
        assert kind in plots.__all__
        assert callable(getattr(plots, kind))
    assert pixels.enlarged(GREY[0], 3).shape == (12, 15, 1)
