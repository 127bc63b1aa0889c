"""The notebooks: made of their text twins, in two languages of one code, without outputs; executed headless, quickly.

pytest tests/test_notebooks.py             # three English ones, in the fast form, with this Python, in one kernel
pytest tests/test_notebooks.py -m slow     # the others so, and all as a reader sees them, each in its own: minutes
"""

import ast
import importlib.util
import json
import re
import sys

import pytest
import run_command

FOLDER = run_command.ROOT / "experiments" / "notebooks"
CAPTION = {"": "**What to see.**", ".zh": "**看点。**"}  # what the cell below a picture begins with
ARTICLES = "07_from_article_to_code"
JAX = {"jax", "jaxlib", "libtpu", "jax-cuda12-plugin", "jax-cuda12-pjrt", "flax", "optax", "numpy", "tensorflow"}


def loaded(path):
    """A module that no package has: what makes notebooks of twins, and what reads the code of pages."""
    spec = importlib.util.spec_from_file_location(f"of_notebooks_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


MAKE = loaded(FOLDER / "make.py")
TWINS = MAKE.twins()
ENGLISH = [twin for twin in TWINS if not twin.name.endswith(".zh.py")]
stem = lambda twin: twin.name.removesuffix(".py")


def cells(twin, kind=None):
    """The cells of a notebook, as it lies beside its twin."""
    found = json.loads(twin.with_suffix(".ipynb").read_text())["cells"]
    return [cell for cell in found if kind in (None, cell["cell_type"])]


def sources(twin, kind="code"):
    return ["".join(cell["source"]) for cell in cells(twin, kind)]


def test_there_are_eight_in_two_languages():
    names = [MAKE.name_of(twin) for twin in ENGLISH]
    assert [name[:2] for name in names] == [f"{i:02}" for i in range(1, 9)]
    assert [MAKE.name_of(twin) for twin in TWINS if twin not in ENGLISH] == names
    assert {path.name for path in FOLDER.glob("*.ipynb")} == {f"{stem(twin)}.ipynb" for twin in TWINS}


@pytest.mark.parametrize("twin", TWINS, ids=stem)
def test_a_notebook_is_what_its_twin_makes(twin):
    """By `python experiments/notebooks/make.py`: every cell, its id, and nothing that an execution leaves."""
    assert twin.read_text() == MAKE.told(twin)
    assert twin.with_suffix(".ipynb").read_text() == MAKE.notebook(MAKE.told(twin), MAKE.name_of(twin))
    for cell in cells(twin, "code"):
        assert cell["outputs"] == []
        assert cell["execution_count"] is None


@pytest.mark.parametrize("twin", ENGLISH, ids=stem)
def test_the_translation_has_the_same_code(twin):
    other = twin.with_name(f"{MAKE.name_of(twin)}.zh.py")
    assert sources(other) == sources(twin)
    assert [cell["id"] for cell in cells(other)] == [cell["id"] for cell in cells(twin)]
    assert [cell["cell_type"] for cell in cells(other)] == [cell["cell_type"] for cell in cells(twin)]
    for mine, theirs in zip(sources(twin, "markdown"), sources(other, "markdown")):
        levels = [re.findall(r"^#+", text, re.MULTILINE) for text in (mine, theirs)]
        assert levels[0] == levels[1], theirs
        assert re.search(r"[一-鿿]", theirs), theirs
        assert mine.startswith(CAPTION[""]) == theirs.startswith(CAPTION[".zh"])


def pip_arguments(code):
    """What a cell hands to pip: every list of a call that has "pip" and "install" in it, without what is computed."""
    lists = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.List)]
    named = {
        node.targets[0].id: node.value
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and isinstance(node.value, ast.List)
    }
    for one in lists:
        words = []
        for part in one.elts:
            spread = named[part.value.id].elts if isinstance(part, ast.Starred) else [part]
            words += [item.value for item in spread if isinstance(item, ast.Constant)]
        if {"pip", "install"} <= set(words):
            yield words[words.index("install") + 1 :]


def moves_jax(words):
    """What of pip's arguments could replace the jax that is there; None: nothing."""
    if "-c" not in words or not (run_command.ROOT / words[words.index("-c") + 1].partition("/")[2]).is_file():
        return "no constraints"
    for word in words:
        name, _, extras = re.sub(r"[<>=!~;].*", "", word).partition("[")
        if name.strip().lower() in JAX:
            return word
        if set(extras.rstrip("]").split(",")) & {"cuda", "tpu", "test", "benchmarks"}:
            return word
        if word in ("-U", "--upgrade", "--force-reinstall", "-I", "--ignore-installed", "--pre"):
            return word
    return None


@pytest.mark.parametrize("twin", TWINS, ids=stem)
def test_the_first_cell_leaves_jax_alone(twin):
    first, *others = sources(twin)
    assert first == (FOLDER / "first_cell.py").read_text().rstrip("\n")
    (words,) = pip_arguments(first)
    assert moves_jax(words) is None
    assert not [code for code in others if re.search(r"\bpip\b.*\binstall\b", code) and list(pip_arguments(code))]
    assert not [code for code in others if re.search(r"^\s*[!%]", code, re.MULTILINE)]


@pytest.mark.parametrize(
    "words",
    [
        ["-c", "a/constraints/colab.txt", "jax[cuda12]", "./a"],
        ["-c", "a/constraints/colab.txt", "./a[ode,tpu]"],
        ["-c", "a/constraints/colab.txt", "-U", "./a"],
        ["-c", "a/constraints/nothing.txt", "./a"],
        ["./a[ode]"],
    ],
)
def test_the_check_sees_what_would_move_jax(words):
    assert moves_jax(words)


@pytest.mark.parametrize("twin", ENGLISH, ids=stem)
def test_a_notebook_ends_with_an_assertion(twin):
    """In the last code cell: there is no `assert True`, and none that reads nothing which the notebook has made."""
    last = ast.parse(sources(twin)[-1])
    called = {ast.unparse(node.func) for node in ast.walk(last) if isinstance(node, ast.Call)}
    asserted = [node for node in ast.walk(last) if isinstance(node, ast.Assert)]
    assert asserted or called & {"np.testing.assert_allclose", "np.testing.assert_array_equal"}
    for node in asserted:
        assert any(isinstance(part, ast.Name) for part in ast.walk(node.test))


def tagged():
    """The numbers of the articles that docstrings of diffjax/ name: "kexue 9181 (6), 9228"."""
    one = r"\d{4,5}(?: \(\d+\))?"
    for path in sorted((run_command.ROOT / "diffjax").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                for found in re.findall(rf"kexue ({one}(?:[,;]\s+{one})*)", ast.get_docstring(node, clean=False) or ""):
                    yield from re.findall(r"\b(\d{4,5})(?!\))", found)


def test_every_article_of_the_docstrings_has_a_cell():
    """A cell that begins with `# kexue NUMBER` and asserts something, below one that links the article."""
    (twin,) = (twin for twin in ENGLISH if MAKE.name_of(twin) == ARTICLES)
    code = {m[1]: text for text in sources(twin) if (m := re.match(r"# kexue (\d+)\n", text))}
    named = set(tagged())
    assert len(named) >= 20
    assert named <= set(code), f"no cell in {ARTICLES} for {sorted(named - set(code))}"
    for number, text in code.items():
        assert "assert" in text, number
    linked = re.findall(r"## \[(\d+)\]\(https://kexue\.fm/archives/(\d+)\)", "\n".join(sources(twin, "markdown")))
    assert all(a == b for a, b in linked)
    assert [a for a, _ in linked] == list(code)


@pytest.fixture(scope="module")
def kernel(tmp_path_factory):
    """The manager of one kernel for all notebooks in their fast form: JAX starts once, not eight times.

    `executed` empties it before each, so that none finds a name of another; in `-m slow` each has its own kernel.
    """
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    env = environment(tmp_path_factory.mktemp("kernel"), DIFFJAX_NOTEBOOK="fast")
    first = nbclient.NotebookClient(nbformat.v4.new_notebook(), kernel_name="python3")
    with first.setup_kernel(env=env):
        yield first.km


def environment(folder, **more):
    """What a kernel is started with: pictures go where IPython's own backend has them."""
    env = {name: value for name, value in run_command.environment().items() if name not in ("MPLBACKEND", "PWD")}
    return {**env, "IPYTHONDIR": str(folder / "ipython"), **more}


def executed(twin, folder, kernel=None):
    """The notebook after a run in a folder, in an emptied kernel or in its own; raises what a cell raises."""
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    notebook = nbformat.reads(twin.with_suffix(".ipynb").read_text(), 4)
    new_cell, made = nbformat.v4.new_code_cell, notebook.cells
    begin = f"%reset -f\nimport os\nos.chdir({str(folder)!r})\ndel os"
    probe = "import sys, jax; print(sys.executable, jax.default_backend())"
    notebook.cells = [new_cell(begin), *made, new_cell(probe)]
    client = nbclient.NotebookClient(notebook, km=kernel, kernel_name="python3", timeout=3600)
    try:
        client.execute(env=environment(folder))
    finally:
        if kernel:  # which goes on
            client.kc.stop_channels()
    assert notebook.cells[-1].outputs[0].text.split() == [sys.executable, "cpu"]
    return made


def check_pictures(cells):
    """Every picture stands above a cell that says what to see; gives their number."""
    below = [*cells[1:], None]
    pictures = 0
    for cell, after in zip(cells, below):
        if any("image/png" in output.get("data", {}) for output in cell.get("outputs", [])):
            pictures += 1
            assert after is not None, cell.source
            assert after.source.startswith(CAPTION[""]), cell.source
    return pictures


PICTURES = {"01": 1, "02": 2, "03": 6, "04": 2, "05": 4, "06": 2, "07": 0, "08": 2}  # cells that show one, fast
# What these run is run by default elsewhere: `test_pages_run` trains and judges moons as the tutorial does, the tables
# of samplers have 02's walks, `test_likelihood_command` and `test_edit_commands` what 05 asks of a run, `test_trainer`
# and `test_parallel` the accelerators' one, `test_sweeps_run` and `test_sweeps_calls` the sweep's, and what 07 asserts
# of an article is asserted by the tests of its card.
ELSEWHERE = ("01", "02", "05", "06", "07", "08")


@pytest.mark.parametrize(
    "twin",
    [pytest.param(t, marks=pytest.mark.slow if t.name.startswith(ELSEWHERE) else ()) for t in ENGLISH],
    ids=stem,
)
def test_a_notebook_runs_and_its_pictures_have_captions(twin, kernel, tmp_path):
    assert check_pictures(executed(twin, tmp_path, kernel)) == PICTURES[twin.name[:2]]


@pytest.mark.parametrize("twin", ENGLISH, ids=stem)
def test_names_and_keywords_of_a_notebook_are_there(twin):
    """Of diffjax, in all its cells, run or not; a name and a keyword that are not are seen."""
    wrong = loaded(run_command.ROOT / "docs" / "tools" / "listings.py").wrong_python
    code = "\n".join(sources(twin))
    assert list(wrong(code)) == []
    (name,) = wrong(f"{code}\nimport diffjax\ndiffjax.nothing_of_the_kind\n")
    (word,) = wrong(f"{code}\nimport diffjax\ndiffjax.open('runs', nothing_of_the_kind=1)\n")
    assert "nothing_of_the_kind" in name
    assert "nothing_of_the_kind" in word


@pytest.mark.slow
@pytest.mark.parametrize("twin", ENGLISH, ids=stem)
def test_a_notebook_runs_as_a_reader_sees_it(twin, tmp_path):
    check_pictures(executed(twin, tmp_path))


def test_a_notebook_without_an_accelerator_says_what_it_leaves_out(tmp_path):
    """Beside the execution above: the plain path is taken on a CPU, and said in words."""
    (twin,) = (twin for twin in ENGLISH if twin.name.startswith("06"))
    text = "\n".join(sources(twin))
    assert 'ACCELERATED = jax.default_backend() != "cpu"' in text
    assert "no accelerator: left out are" in text


def test_a_mistake_in_a_notebook_is_seen(kernel, tmp_path):
    """The runner itself: a cell that fails fails the run, with the cell's own words."""
    nbclient = pytest.importorskip("nbclient")
    twin = tmp_path / "09_broken.py"
    twin.write_text("# %%\nassert 1 + 1 == 3, 'the sum'\n")
    twin.with_suffix(".ipynb").write_text(MAKE.notebook(twin.read_text(), "broken"))
    with pytest.raises(nbclient.exceptions.CellExecutionError, match="the sum"):
        executed(twin, tmp_path, kernel)
