"""The site: it builds strictly, loads nothing from elsewhere, its links, anchors, search and pictures hold."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote, urlsplit

import chromium
import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
ENGLISH = sorted(DOCS.glob("*.md"))
CHINESE = sorted(DOCS.glob("zh/**/*.md"))
PAGES = [*ENGLISH, *CHINESE, *sorted(DOCS.glob("cards/*.md"))]
SHOWN = [*PAGES, ROOT / "README.md", ROOT / "README.zh-CN.md", *sorted(ROOT.glob("experiments/**/README.md"))]
name_of = lambda path: str(path.relative_to(ROOT))


@cache
def tool(name):
    """A module of docs/tools."""
    spec = importlib.util.spec_from_file_location(f"docs_{name}", DOCS / "tools" / f"{name}.py")
    sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[spec.name])
    return sys.modules[spec.name]


# Of the built site: half a minute. What builds it is looked at in every run, page by page, by the tests without this.
whole = pytest.mark.slow


def build(folder, **words):
    """Runs mkdocs, strictly, as CONTRIBUTING says."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, **words)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the built site."""
    folder = tmp_path_factory.mktemp("site")
    done = build(folder)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "WARNING" not in done.stderr
    return folder


class Read(HTMLParser):
    """What a page links to and loads, its anchors, its equations and its text outside of code.

    Attributes:
        links, loads: (what, where to); anchors: ids; tags: numbers beside equations; text: in pieces.
    """

    def __init__(self, path):
        super().__init__()
        self.links, self.loads, self.anchors, self.math, self.text, self._quiet = [], [], set(), 0, [], 0
        self.feed(re.sub(r'<span class="[^"]*">|</span>', "", path.read_text()))  # colours of code: most of the tags

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.anchors |= {given[name] for name in ("id", "name") if given.get(name)}
        self.math += tag == "math"
        self._quiet += tag in ("code", "script", "style")
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        if tag in ("script", "img", "iframe", "source", "video") and "src" in given:
            self.loads.append(given["src"])
        if tag == "link" and given.get("rel") in ("stylesheet", "icon", "preload", "preconnect", "modulepreload"):
            self.loads.append(given["href"])

    def handle_endtag(self, tag):
        self._quiet -= tag in ("code", "script", "style")

    def handle_data(self, data):
        if not self._quiet:
            self.text.append(data)


@pytest.fixture(scope="module")
def read(site):
    """What every page of the site holds."""
    return {path: Read(path) for path in site.rglob("*.html")}


@whole
def test_every_page_of_docs_is_on_the_site_and_in_its_navigation(site, read):
    front = {unquote(urlsplit(link).path) for link in read[site / "index.html"].links}
    pages = [path.relative_to(DOCS).with_suffix(".html").as_posix() for path in PAGES]
    assert not [page for page in pages if not (site / page).exists()]
    assert not [page for page in pages if "/" not in page and page not in front]
    assert {"reference/commands.html", "api/index.html", "repo/CONTRIBUTING.html", "zh/index.html"} <= front


@whole
def test_no_page_loads_anything_from_elsewhere(site, read):
    loads = {load for page in read.values() for load in page.loads}
    assert len(loads) > 10
    assert not [load for load in loads if re.match(r"(\w+:)?//", load)]
    sheets = [sheet.read_text() for sheet in site.rglob("*.css")]
    assert not [
        found for sheet in sheets for found in re.findall(r"(?:url\(|@import )[\"']?(?:https?:)?//[^)]*", sheet)
    ]


@whole
def test_internal_links_and_anchors_hold(site, read):
    """Paths are put together as text: a page's navigation alone has hundreds."""
    there = {str(path) for path in site.rglob("*") if path.is_file()}
    anchors, dead = {str(path): page.anchors for path, page in read.items()}, []
    for page, found in read.items():
        if page.name == "404.html":  # its links are from the root of a server
            continue
        for link in {*found.links, *found.loads}:
            at = urlsplit(link)
            if at.scheme or at.netloc:
                continue
            to = os.path.normpath(os.path.join(page.parent, unquote(at.path))) if at.path else str(page)
            to = to if to in anchors or f"{to}/index.html" not in there else f"{to}/index.html"
            top = at.fragment in ("", "__nav") or at.fragment.startswith("__")
            if to not in there or not (top or unquote(at.fragment) in anchors.get(to, ())):
                dead.append(f"{page.relative_to(site)}: {link}")
    assert not dead


def test_lines_of_code_have_anchors_that_links_reach():
    """A link to ../diffjax/x.py#L12 of a checkout leads to line 12 here."""
    turned = tool("repository").turned(
        "[a](../configs/vpsde.py#L12) `[b](c.md)`\n```\n[d](../README.md)\n```\n", "choose.md"
    )
    assert turned.startswith("[a](repo/configs/vpsde.py.md#__codelineno-0-12)")
    assert "[d](../README.md)" in turned


@whole
def test_mathematics_is_drawn_by_the_page_itself(read):
    assert sum(page.math for page in read.values()) > 20
    for path, page in read.items():
        assert not re.search(r"\$\$|\\\(|\\\[|\\tag|\\frac", "".join(page.text)), path.name


@whole
@pytest.mark.parametrize("path", [path for path in PAGES if r"\tag{" in path.read_text()], ids=name_of)
def test_every_numbered_equation_has_its_number_and_anchor(site, path):
    page = (site / path.relative_to(DOCS).with_suffix(".html")).read_text()
    for tag in re.findall(r"\\tag\{([^}]*)\}", re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)):
        assert f'id="eq-{tag}"' in page
        assert f">({tag})</a>" in page


@whole
def test_a_card_leads_to_the_lines_that_carry_its_equations(site):
    """Every id of a line of code is a link of its card to that line's anchor."""
    page = (site / "cards" / "ddim.html").read_text()
    for number, line in enumerate((ROOT / "diffjax" / "samplers" / "ancestral.py").read_text().splitlines(), 1):
        if re.search(r"#.*\(ddim\.\d\)", line):
            assert f'href="../repo/diffjax/samplers/ancestral.py.html#__codelineno-0-{number}"' in page
    assert page.count('class="carried"') >= 3
    with_lines = tool("repository").with_lines
    assert with_lines("$$\nx \\tag{a.1}\n$$\n", DOCS, {}) == "$$\nx \\tag{a.1}\n$$\n"
    carried = {"a.1": [(ROOT / "diffjax" / "host.py", 3)]}
    assert "[`diffjax/host.py:3`](../diffjax/host.py#L3)" in with_lines("$$\nx \\tag{a.1}\n$$\n", DOCS, carried)


@whole
@pytest.mark.parametrize("path", ["series.html", "zh/series.html"])
def test_the_index_of_the_series_leads_to_lines(site, path):
    """Here it has the exact lines, which name the article; headings of a card have anchors in their own script."""
    rows = (site / path).read_text().split("<h2 ")[1:]
    where = re.compile(r'href="[./]*repo/(\S+)\.html#__codelineno-0-(\d+)"><code>(\S+):(\d+)</code>')
    found = [
        (article, *at)
        for part in rows
        for article in re.findall(r"archives/(\d+)", part)[:1]
        for at in where.findall(part)
    ]
    assert len(found) > 100
    for article, linked, anchor, name, line in found:
        assert (linked, anchor) == (name, line)
        assert article in (ROOT / name).read_text().splitlines()[int(line) - 1]
    heading = "命令" if path.startswith("zh") else "command"
    assert f'href="cards/ito.html#{heading}"' in (site / path).read_text()


def test_every_equation_of_every_page_can_be_drawn():
    """Pages of both languages have many in common."""
    plain = lambda path: re.sub(r"```.*?```|`[^`\n]*`", "", path.read_text(), flags=re.DOTALL)
    found = {
        one for path in PAGES for one in re.findall(r"\$\$(.+?)\$\$|(?<![\\\\$])\$([^$\n]+)\$", plain(path), re.DOTALL)
    }
    mathematics = tool("mathematics")
    for display, inline in found:
        assert "<math" in (mathematics.equation(display) if display else mathematics.mathml(inline))
    assert len(found) > 500


def test_what_is_generated_can_be_made_and_every_page_has_its_place(monkeypatch):
    hooks, config = tool("hooks"), SimpleNamespace()
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    hooks.on_config(config)
    placed = json.dumps(config.nav)
    assert not [path.name for path in PAGES if path.relative_to(DOCS).as_posix() not in placed]
    assert {"reference/commands.md", "api/index.md", "repo/CONTRIBUTING.md"} <= set(hooks.MADE)
    assert "diffjax.samplers.ancestral.ddim" in hooks.MADE["api/samplers.md"]


def test_what_the_converter_does_not_know_stops_the_build():
    mathematics = tool("mathematics")
    with pytest.raises(ValueError, match=r"has \\frobnicate, which latex2mathml does not know"):
        mathematics.mathml(r"x + \frobnicate y")
    with pytest.raises(ValueError, match=r"tags 1, 2; give each its own"):
        mathematics.equation(r"x \tag{1} y \tag{2}")
    made = mathematics.equation(r"\begin{aligned} \hat x &= \mathrm{d} t \\ y &= \log z \end{aligned} \tag{a.1}")
    assert "&amp;=" not in made.partition("data-search-exclude")[2]
    assert '<mi mathvariant="normal">&#x00064;</mi>' in made  # an upright d
    assert 'id="eq-a.1"' in made


@whole
def test_search_finds_ddim_and_the_chinese_of_score_matching(site):
    index = json.loads((site / "search" / "search_index.json").read_text())
    assert index["config"]["lang"] == ["en", "zh"]
    texts = [f"{page['title']} {page['text']}" for page in index["docs"]]
    assert sum("DDIM" in text for text in texts) > 3
    assert any("\u200b得分\u200b匹配\u200b" in f"\u200b{text}\u200b" or "得分\u200b匹配" in text for text in texts)
    assert not [page["location"] for page in index["docs"] if page["location"].endswith(".py.html")]


@pytest.mark.parametrize("path", [path for path in SHOWN if "\n![" in path.read_text()], ids=name_of)
def test_every_picture_has_a_caption(path):
    """A line in italics below it, which says what to see."""
    for picture, after in re.findall(
        r"^!\[[^\]]*\]\(([^)]*)\)\n(.*?)(?=\n\n\S|\Z)", f"{path.read_text()}\n", re.S | re.M
    ):
        caption = re.match(r"\n\*([^*].{30,}?)\*(?!\*)", after + "\n", re.DOTALL)
        assert caption, f"{picture}: a line *in italics* below it says what to see"


@pytest.mark.parametrize("path", CHINESE, ids=name_of)
def test_chinese_pages_have_the_headings_of_the_english_ones(path):
    outline = lambda page: [
        len(level) for level in re.findall(r"^(#+) ", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL), re.M)
    ]
    twin = DOCS / path.relative_to(DOCS / "zh")
    assert twin.exists(), f"there is no {name_of(twin)}"
    assert outline(path) == outline(twin)


@pytest.mark.parametrize("name", ["tutorial.md", "choose.md", "index.md"])
def test_chinese_pages_give_the_same_commands_and_code(name):
    blocks = lambda path: re.findall(r"```\w+\n(.*?)```", path.read_text(), re.DOTALL)
    bare = lambda block: re.sub(r"[ ]+# .*", "", block)
    assert [*map(bare, blocks(DOCS / name))] == [*map(bare, blocks(DOCS / "zh" / name))]


@whole
def test_the_command_reference_has_every_flag_and_field(site):
    from diffjax import main
    from diffjax.runs import settings
    from diffjax.sweeps import __main__ as sweeps

    page = (site / "reference" / "commands.html").read_text()
    flags = {name for made in (main.parser(), sweeps.parser()) for a in made._actions for name in a.option_strings}
    assert len(flags) > 20
    assert not [flag for flag in flags if f"<code>{flag}</code>" not in page]
    config = settings.defaults(settings.GROUPS)
    assert not [group for group in config if f"--config.{group}" not in page]
    assert "--config.checkpoint.every" in page


@whole
def test_the_api_has_every_public_name(site):
    """What a package's __all__ names is documented, or leads to where it is."""
    import diffjax

    for name in tool("api").modules():
        page = (site / "api" / f"{name}.html").read_text()
        module = getattr(diffjax, name)
        missing = [public for public in getattr(module, "__all__", ()) if f"<code>{public}</code>" not in page]
        assert not missing, name
    assert 'id="diffjax.samplers.ancestral.ddim"' in (site / "api" / "samplers.html").read_text()


def test_docstrings_become_markdown_that_says_the_same():
    prose = tool("api").prose(
        "Computes x_t * 2.\n\n    a = b_c\n\nArgs:\n    w: 1 is off;\n        or more.\n    *x, y: both."
    )
    assert prose == (
        "Computes x&#95;t &#42; 2.\n\n```text\na = b_c\n```\n\n**Args**\n\n- `w`: 1 is off; or more.\n- `*x, y`: both."
    )


def test_cards_find_their_place_by_family(tmp_path, monkeypatch):
    places = tool("places")
    card = "---\ntitle: {}\nfamily: {}\n---\n# {}\n\nIt walks. It is for tests. Nothing else.\n\n## Equations\n"
    for title, family in (("Zeta", "Samplers"), ("Alpha", "Samplers"), ("Beta", "Training"), ("Other", "Unheard of")):
        (tmp_path / f"{title.lower()}.md").write_text(card.format(title, family, title))
    found = places.cards(tmp_path)
    assert {f: [p.stem for p in paths] for f, paths in found.items()} == {
        "Samplers": ["alpha", "zeta"],
        "Training": ["beta"],
        "Unheard of": ["other"],
    }
    assert "- [Zeta](zeta.md): It walks.\n" in places.index(tmp_path, "Cards", "")


PHONE, DESK = 390, 1280
LOOKED_AT = ("index", "tutorial", "choose", "dictionary", "extending", "hardware", "methods", "results", "runs")
LOOKED_AT += ("reference/commands", "api/samplers", "zh/tutorial", "zh/choose", "repo/experiments/nfe/index")


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if not chromium.BINARY:
        pytest.skip("there is no chromium on this machine")
    page = chromium.Page(tmp_path_factory.mktemp("browser"))
    yield page
    page.close()


@pytest.mark.slow
@pytest.mark.parametrize("width", [PHONE, DESK])
def test_pages_read_in_a_browser(site, browser, width):
    """No page is wider than the screen, mathematics has a size, pictures are there, nothing is asked of the network."""
    cards = [path.relative_to(site).with_suffix("").as_posix() for path in sorted(site.glob("cards/*.html"))]
    for name in (*LOOKED_AT, *cards):
        browser.open(f"file://{site}/{name}.html", width)
        browser.wait("!document.querySelector('.md-search').hidden")  # the site's own script has run
        assert browser.run("document.documentElement.scrollWidth") <= width, name
        sizes = browser.run(
            "[...document.querySelectorAll('math')].map(m => m.getBoundingClientRect()).map(r => [r.width, r.height])"
        )
        assert all(w > 3 and h > 5 for w, h in sizes), name
        assert len(sizes) > 5 or name not in ("tutorial", "choose", "zh/choose")
        assert browser.run("[...document.images].every(i => i.complete && i.naturalWidth > 0)"), name
        assert not [url for url in browser.requests if not url.startswith(("file:", "data:"))], name


@pytest.mark.slow
@pytest.mark.parametrize("width", [PHONE, DESK])
@pytest.mark.parametrize("word", ["DDIM", "得分匹配"])
def test_the_search_box_finds(site, browser, width, word):
    browser.open(f"file://{site}/methods.html", width)
    browser.wait("!document.querySelector('.md-search').hidden")
    browser.run("document.querySelector('#__search').click()")
    field = "document.querySelector('[data-md-component=search-query]')"
    browser.run(f"{field}.focus(), {field}.value = {json.dumps(word)}")
    browser.run(f"['keyup', 'input'].map(kind => {field}.dispatchEvent(new Event(kind, {{bubbles: true}})))")
    browser.wait("document.querySelectorAll('.md-search-result__link').length > 0")
    found = browser.run("[...document.querySelectorAll('.md-search-result__article')].map(a => a.textContent).join()")
    assert word in found.replace("\u200b", "")
