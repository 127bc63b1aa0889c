"""The index of the series: every tag of a docstring is in it, all in it is a tag; its commands are ones that run."""

import ast
import os
import re
import resource
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "docs" / "tools"))
import cards  # noqa: E402
import listings  # noqa: E402
import series  # noqa: E402

from diffjax import runs  # noqa: E402

ARTICLES = series.articles()
TAGS = series.tags()
ROWS = series.rows()
CARDS = {card.name: card for card in map(cards.read, cards.all_cards())}


def strings(path):
    """The strings and comments of a file of code, with the lines that they begin at."""
    with tokenize.open(path) as file:
        for token in tokenize.generate_tokens(file.readline):
            if token.type in (tokenize.STRING, tokenize.COMMENT):
                yield token.start[0], token.string


def test_every_mention_of_an_article_is_a_tag_of_a_docstring():
    """Whatever has the word and a number is read by `tags`, so that a slip such as 'kexue 9164(6)' is found."""
    said = re.compile(r"kexue[ :,.#]*\d+[^\s;,.]*")
    for path in sorted((ROOT / "diffjax").rglob("*.py")):
        name = str(path.relative_to(ROOT))
        if "kexue" not in path.read_text():
            continue
        for line, text in strings(path):
            for found in said.finditer(text):
                at = line + text[: found.start()].count("\n")
                number = int(re.search(r"\d+", found[0])[0])
                assert [tag for tag in TAGS if (tag.path, tag.line, tag.article) == (name, at, number)], (name, at)
                assert re.match(r"kexue \d{3,5}(?!\S*\()", found[0]), (name, at, found[0])


def test_every_tag_is_of_an_article_that_is_here():
    odd = {
        tag.article: f"{tag.path}:{tag.line}" for tag in TAGS if not getattr(ARTICLES.get(tag.article), "here", False)
    }
    assert not odd, f"{odd}: set here = true in docs/series.toml; run python docs/tools/series.py --write"


def test_every_article_that_is_here_has_a_tag():
    tagged = {tag.article for tag in TAGS}
    bare = {number for number, article in ARTICLES.items() if article.here} - tagged
    assert not bare, (
        f"no docstring names {bare}: set here = false in docs/series.toml; run python docs/tools/series.py --write"
    )
    assert len(tagged) >= 20


def test_every_equation_has_its_words_in_chinese():
    """docs/series.toml says in Chinese what each tag's equation says, and of nothing else."""
    for number, article in ARTICLES.items():
        equations = {str(tag.equation or "") for tag in TAGS if tag.article == number}
        does = f"[{number}.says] in docs/series.toml takes {sorted(equations)}; run python docs/tools/series.py --write"
        assert set(article.says) == equations, does
        assert all(re.search(r"[一-鿿]", text) for text in article.says.values()), number


def test_families_are_those_of_the_methods_page():
    assert {article.family for article in ARTICLES.values()} <= set(cards.families())
    assert set(series.WORDS["zh"]["families"]) == set(cards.families())


def test_the_series_comes_first_and_then_its_neighbours_each_by_number():
    """As the page says: an article of the series has the series' name in its Chinese title."""
    own = lambda number: ARTICLES[number].zh.startswith("生成扩散模型漫谈")
    assert list(ARTICLES) == sorted(ARTICLES, key=lambda number: (not own(number), number))
    assert 3 < sum(map(own, ARTICLES)) < len(ARTICLES)


def test_every_row_has_a_card_that_lists_its_file():
    """So its command runs the code of the row; a file without a card goes into the `files` of one that runs it."""
    assert not [row.tag for row in ROWS if not row.card or row.tag.path not in CARDS[row.card].files]


def test_a_card_that_the_table_names_is_the_row_s():
    """docs/series.toml's `card` and `command`: there, of a tag's file, and needed to get the row that is shown."""
    for number, article in ARTICLES.items():
        for equation, (name, command) in article.cards.items():
            of = [row for row in ROWS if (row.tag.article, str(row.tag.equation or "")) == (number, equation)]
            shell = series.shell(CARDS[name])
            assert command == 1 or command <= len(shell), (number, equation)
            assert (name, shell[command - 1] if shell else "") in [(row.card, row.command) for row in of], number


def test_the_path_of_9497_is_what_its_command_trains_on():
    """A Gaussian process would be another file's code."""
    (row,) = [row for row in ROWS if row.tag[:2] == (9497, 2)]
    config = re.search(r"--config=(\S+)", row.command)[1]
    assert row.tag.path == "diffjax/processes/path.py"
    assert runs.load(str(ROOT / config)).process.name.startswith("path.")


@pytest.mark.parametrize("language", ["", ".zh"])
def test_notebook_7_has_a_section_for_each_article(language):
    text = (ROOT / f"experiments/notebooks/07_from_article_to_code{language}.py").read_text()
    sections = re.split(r"^# ## \[(\d+)\]", text, flags=re.MULTILINE)[1:]
    assert set(map(int, sections[::2])) == {tag.article for tag in TAGS}
    assert (
        all(re.search(r"^ *(assert |np\.testing\.assert_)", text, re.MULTILINE) for text in sections[1::2]) or language
    )


@pytest.mark.parametrize("tag", TAGS, ids=lambda tag: f"{tag.article}-{tag.equation}-{Path(tag.path).stem}-{tag.line}")
def test_file_line_and_symbol_exist(tag):
    """The line has the number, the symbol's docstring holds the line, and the words say something without the tag."""
    text = (ROOT / tag.path).read_text()
    assert str(tag.article) in text.splitlines()[tag.line - 1]
    node = ast.parse(text)
    for name in [] if tag.symbol == "module" else tag.symbol.split("."):
        (node,) = [child for child in node.body if getattr(child, "name", None) == name]
    first = node.body[0]
    assert first.lineno <= tag.line <= first.end_lineno
    assert str(tag.article) in ast.get_docstring(node)
    assert len(tag.says.split()) >= 3
    assert not re.search(r"\(\)|\( |;\)|^[,;.)]", tag.says)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_pages_are_what_the_generator_makes(language):
    """After a change: python docs/tools/series.py --write."""
    page = (ROOT / series.PAGES[language]).read_text()
    assert page == series.page(language)
    assert not re.search(r"\.py:\d", page)
    assert re.search(r"diffjax/samplers/sde\.py:\d+", series.page(language, lines=True))


def test_the_pages_have_equal_rows():
    """Rows of both languages come in one order; equation, file and command are equal, but for a heading's name."""
    rows = lambda page: [line.split(" | ") for line in page.splitlines() if re.match(r"\| +[(\[|]", line)]
    english, chinese = rows(series.page("en")), rows(series.page("zh").replace("#命令", "#command"))
    kept = lambda row: (row[0], *row[2:4]) if len(row) > 3 else row[0]
    assert list(map(kept, english)) == list(map(kept, chinese))
    assert len(english) == len(TAGS) + sum(not article.here for article in ARTICLES.values())


def test_every_cell_is_one_cell():
    """A '|' in the words would make a column more."""
    for line in series.page("en").splitlines():
        if line.startswith("| "):
            assert len(re.findall(r"(?<!\\)\|", line)) in (6, 4), line


@pytest.mark.parametrize("command", sorted({row.command for row in ROWS if row.command}))
def test_every_command_is_one_that_runs(command):
    """Read by its own parser, its config resolved."""
    assert not list(listings.wrong_shell(command))


def test_a_row_without_a_command_leads_to_python():
    """The card's section has a block, under the heading that the page's link has."""
    bare = {row.card for row in ROWS if not row.command}
    assert bare
    for name in bare:
        assert CARDS[name].blocks[0][0] == "python"
        for language, path in series.PAGES.items():
            card = cards.read(ROOT / path.replace("series.md", f"cards/{name}.md"))
            assert card.headings[1].lower() == series.WORDS[language]["command"]


def test_every_row_has_something_measured():
    assert not [row.tag for row in ROWS if not row.measured]


def test_names_of_tests_that_rows_have_are_there():
    named = {name for row in ROWS for name in re.findall(r"test_\w+\.py", row.measured)}
    assert named
    assert not [name for name in named if not (ROOT / "tests" / name).is_file()]


def run(*argv, lang=""):
    """The tool as a process that cannot import jax: (exit status, stdout, stderr, seconds of CPU)."""
    code = (
        "import runpy, sys; sys.modules['jax'] = None; sys.path.insert(0, sys.argv[1]); sys.argv = sys.argv[2:];"
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    tool = ROOT / "docs/tools/series.py"
    seconds = lambda: sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
    began = seconds()
    spoken = {name: value for name, value in os.environ.items() if name not in ("LC_ALL", "LC_MESSAGES", "LANG")}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tool.parent), str(tool), *argv],
        env={**spoken, "PYTHONUTF8": "1", **({"LANG": lang} if lang else {})},
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout, done.stderr, seconds() - began


def test_9228_is_found_at_once():
    """A reader who knows the number alone gets the file, the equation and a command, without jax, in seconds."""
    status, out, err, seconds = run("9228")
    assert (status, err) == (0, "")
    assert seconds < 2
    block = next(block for block in out.split("\n\n") if "(13)" in block and "samplers/sde.py" in block)
    place, line = re.search(r"(diffjax/samplers/sde\.py):(\d+)$", block, re.MULTILINE).groups()
    assert "kexue 9228 (13)" in (ROOT / place).read_text().splitlines()[int(line) - 1]
    assert re.search(r"^  python -m diffjax\.main .+", block, re.MULTILINE)


def test_an_article_that_is_not_yet_here_says_its_family():
    later = next((article for article in ARTICLES.values() if not article.here), None)
    if later is None:
        pytest.skip("every article is here")
    status, out, _, _ = run(f"https://kexue.fm/archives/{later.number}")
    assert status == 0
    assert f"not yet; its family: {later.family}" in out


@pytest.mark.parametrize(("argv", "lang"), [(["--lang=zh"], ""), ([], "zh_CN.UTF-8"), (["--lang=zh"], "en_US.UTF-8")])
def test_9257_in_chinese(argv, lang):
    """Title and statements of docs/series.toml, the figure of the Chinese card; English is not said."""
    status, out, err, _ = run("9257", *argv, lang=lang)
    article = ARTICLES[9257]
    assert (status, err) == (0, "")
    assert out.startswith(f"9257 {article.zh}\n")
    assert all(says in out for says in article.says.values())
    assert "docs/zh/cards/classifier-guidance.md" in out
    assert article.en not in out


def test_the_statement_of_9257_ends_as_a_sentence():
    says = [tag.says for tag in TAGS if tag[:2] in ((9257, 18), (9257, 19))]
    assert says == ["score + w grad potential(x_t, t), that is, mean + w sigma^2 / alpha grad potential."] * 2
    assert not [tag for tag in TAGS if re.search(r"[,;:]\.", tag.says)]


def test_help_says_how_it_is_used():
    for word in ("--help", "-h"):
        status, out, err, _ = run(word)
        assert (status, err) == (0, "")
        assert "python docs/tools/series.py 9228" in out
    status, out, err, _ = run("--lang=fr")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "en or zh" in err


@pytest.mark.parametrize(
    ("argv", "near"), [(["9229"], "9228"), (["10"], "1045"), (["ddim"], "9119"), (["9228", "1"], "9228")]
)
def test_an_article_that_is_not_here_is_one_line_with_the_nearest(argv, near):
    status, out, err, _ = run(*argv)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"error: no article '{' '.join(argv)}' here; the nearest are ")
    assert near in err


def test_nearest_numbers():
    assert series.nearest(9229, [9119, 9209, 9228, 9245, 9246]) == [9228, 9245, 9246]  # 1, 16 and 17 away; 9209 is 20


DOC = '''"""Reads x (Song et al. 2021, eq. 6; kexue 9209 (8), 9228). It is y = 1.

    a     b = c        (kexue 9245 (10, 16))
    d     e
          (kexue 9246)

In the words of kexue 9119 this is "tear down". Last (kexue 9152 (4)):

    p = q
"""


class A:
    """Holds z (kexue 9164 (6))."""

    def f(self):
        """No tag: kexue's own."""
'''


def test_tags_of_a_docstring(tmp_path):
    """Article, equation, words, line and symbol, by hand."""
    (tmp_path / "diffjax").mkdir()
    (tmp_path / "diffjax/a.py").write_text(DOC)
    first, last = "Reads x (Song et al. 2021, eq. 6).", "Last: p = q"
    words = 'In the words of kexue 9119 this is "tear down".'
    assert [tag[:3] + tag[4:] for tag in series.tags(tmp_path)] == [
        (9119, None, words, 7, "module"),
        (9152, 4, last, 7, "module"),
        (9164, 6, "Holds z.", 14, "A"),
        (9209, 8, first, 1, "module"),
        (9228, None, first, 1, "module"),
        (9245, 10, "a: b = c", 3, "module"),
        (9245, 16, "a: b = c", 3, "module"),
        (9246, None, "d: e", 5, "module"),
    ]
