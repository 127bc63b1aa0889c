"""The README and the pages of docs/ and experiments/: every file, link and command that they name is there."""

import re
import shlex
from pathlib import Path

import pytest

from diffjax import runs

ROOT = Path(__file__).parents[1]
PAGES = sorted(ROOT.glob("docs/*.md"))
STUDIES = sorted(ROOT.glob("experiments/**/README.md"))
DOCUMENTS = [ROOT / "README.md", ROOT / "README.zh-CN.md", ROOT / "CONTRIBUTING.md", *PAGES, *STUDIES]
OTHERS = [ROOT / "CHANGELOG.md", *sorted(ROOT.glob("docs/cards/*.md")), *sorted(ROOT.glob("docs/zh/**/*.md"))]
MADE_UP = {"diffjax/methods/diagonal.py", "configs/diagonal.py", "configs/NAME.py"}  # of a reader, and of extending.md
name_of = lambda path: str(path.relative_to(ROOT))


def links(path):
    """What a document links to or shows, without anchors and the web."""
    plain = re.sub(
        r"\$\$.+?\$\$|\$[^$\n]+\$", "", path.read_text(), flags=re.DOTALL
    )  # v[i](t) of an equation is no link
    found = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", plain)
    return [link for link in found if not re.match(r"https?:", link)]


def test_the_readme_is_one_screen():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 100


def outline(path):
    """What a document shows that no language changes: levels of headings, blocks of code, pictures, rows of tables."""
    text = path.read_text()
    plain = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    return {
        "headings": re.findall(r"^#+", plain, re.MULTILINE),
        "blocks": re.findall(r"^```.*?^```$", text, re.DOTALL | re.MULTILINE),
        "pictures": re.findall(r"!\[[^\]]*\]\(([^)]+)\)", plain),
        "rows": [line.count("|") for line in plain.splitlines() if line.startswith("|")],
        "numbers": sorted(re.findall(r"\d+\.\d+|\b[0-9a-f]{7}\b", plain)),
    }


def test_the_readme_in_chinese_says_what_the_readme_says():
    """Headings, code, pictures, tables and figures are equal; each links the other in its first lines."""
    english, chinese = ROOT / "README.md", ROOT / "README.zh-CN.md"
    assert outline(english) == outline(chinese)
    for path, other in ((english, chinese), (chinese, english)):
        assert f"]({other.name})" in "".join(path.read_text().splitlines(keepends=True)[:5])
    words = re.sub(r"`[^`]*`", "", re.sub(r"^```.*?^```$", "", chinese.read_text(), flags=re.DOTALL | re.MULTILINE))
    assert len(re.findall(r"[一-鿿]", words)) > 500


@pytest.mark.parametrize("document", [*DOCUMENTS, *OTHERS], ids=name_of)
def test_links_and_pictures_are_there(document):
    assert not [link for link in links(document) if not (document.parent / link).exists()]


def test_every_page_of_docs_is_linked_from_the_readme():
    linked = {(ROOT / link).resolve() for link in links(ROOT / "README.md")}
    assert not {page.name for page in PAGES if page.resolve() not in linked}


def test_every_picture_of_docs_is_shown_somewhere():
    shown = {(document.parent / link).resolve() for document in DOCUMENTS for link in links(document)}
    assert not {picture.name for picture in ROOT.glob("docs/*.png") if picture.resolve() not in shown}


def test_every_study_is_linked_from_the_results():
    """A folder with what was measured has one line in docs/results.md; tools of the tests have none."""
    linked = {(ROOT / "docs" / link).resolve() for link in links(ROOT / "docs" / "results.md")}
    studies = {path for path in STUDIES if "\n## Measured" in path.read_text()}
    assert len(studies) >= 10
    assert not {name_of(path) for path in studies if path.resolve() not in linked} - {"experiments/mutation/README.md"}


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_files_of_the_library_that_are_named_are_there(document):
    """diffjax/...py, and scripts, tests and configs by their path."""
    named = re.findall(r"(?<![\w/])((?:diffjax|experiments|configs|tests)/[\w/]+\.(?:py|md|sh))", document.read_text())
    assert not {name for name in named if not (ROOT / name).exists()} - MADE_UP


def test_every_config_is_a_recipe_with_its_command():
    text = (ROOT / "docs" / "methods.md").read_text()
    for path in (ROOT / "configs").glob("*.py"):
        (row,) = re.findall(rf"^\| `{path.name}`: .+$", text, re.MULTILINE)
        assert f"--config=configs/{path.name}" in row


COMMANDS = {
    (name_of(document), line.split("#")[0].strip())
    for document in DOCUMENTS
    for line in re.findall(r"python -m diffjax\.main ([^`\n]+)", document.read_text().replace("\\\n", " "))
}


@pytest.mark.parametrize(("document", "command"), sorted(COMMANDS))
def test_every_command_of_a_config_is_one_that_runs(document, command):
    """The config and what it sets are resolved, as a start does; those of a workdir need one."""
    words = shlex.split(command)
    configs = [word.partition("=")[2] for word in words if word.startswith("--config=")]
    if not configs or configs[0].partition(":")[0] in MADE_UP or configs[0].endswith(".json"):
        return
    changes = [word.removeprefix("--config.") for word in words if word.startswith("--config.")]
    assert runs.load(str(ROOT / configs[0]), changes).name
