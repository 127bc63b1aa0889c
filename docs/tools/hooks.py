"""What mkdocs calls while it builds the site: generated pages, links out of docs/, mathematics, languages."""

import importlib.util
import os
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def tool(name: str) -> ModuleType:
    """Loads a file beside this one, by a name that collides with nothing."""
    full = f"diffjax_docs_{name}"
    if full not in sys.modules:
        spec = importlib.util.spec_from_file_location(full, HERE / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        sys.modules[full] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[full])
    return sys.modules[full]


os.environ.setdefault("JAX_PLATFORMS", "cpu")
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))  # the commands are those of this checkout
sys.path.append(str(HERE))  # where `series` finds what it imports
repository, places, mathematics, series = map(tool, ("repository", "places", "mathematics", "series"))
IDEOGRAPHS = re.compile(r"(?<=[\u3000-\u9fff\uff00-\uffef])\n(?=[\u3000-\u9fff\uff00-\uffef])")
DOCS: Path = repository.DOCS
MADE: dict[str, str] = {}  # place in the site -> Markdown, of pages that no file of docs/ has
SERIES: dict[str, str] = {}  # place of a page of docs/ -> its Markdown with the lines of today
CARRIED: dict[str, list[tuple[Path, int]]] = {}  # id of an equation -> the lines of code that carry it
COPIED: dict[str, Path] = {}  # place -> file of the repository that is copied as it is


def on_config(config: Any) -> Any:
    """Makes what is generated, and the navigation of all that is there."""
    MADE.clear()
    COPIED.clear()
    MADE.update(places.indices())
    MADE.update(tool("api").pages())
    MADE["reference/commands.md"] = tool("commands").page()
    SERIES.update({path.removeprefix("docs/"): series.page(name, lines=True) for name, path in series.PAGES.items()})
    texts = {path: path.read_text() for path in DOCS.rglob("*.md")}
    texts |= {DOCS / place: text for place, text in SERIES.items()}
    CARRIED.clear()
    CARRIED.update(repository.equations())
    for path in {path for lines in CARRIED.values() for path, _ in lines}:
        MADE[repository.place(path)] = repository.page(path)
    asked = repository.closure({**texts, ROOT / "CONTRIBUTING.md": (ROOT / "CONTRIBUTING.md").read_text()})
    for place, path in {**asked, "repo/CONTRIBUTING.md": ROOT / "CONTRIBUTING.md"}.items():
        if place.endswith(".md"):
            MADE[place] = repository.page(path)
        else:
            COPIED[place] = path
    config.nav = places.nav(set(MADE))
    return config


def on_files(files: Files, config: Any) -> Files:
    """Adds what is generated, and the font of mathematics."""
    for place, text in MADE.items():
        files.append(File.generated(config, place, content=text))
    for place, path in COPIED.items():
        files.append(File.generated(config, place, abs_src_path=str(path)))
    for name, content in tool("assets").files().items():
        files.append(File.generated(config, f"assets/{name}", content=content))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Turns links out of docs/ to where their files are in the site; the index of the series has exact lines here."""
    markdown = SERIES.get(page.file.src_uri, markdown)
    if page.file.src_uri.startswith("zh/"):  # a line's end within Chinese text is no space
        markdown = repository.outside_code(markdown, lambda text: IDEOGRAPHS.sub("", text))
    source = repository.source(page.file.src_uri)
    markdown = repository.with_lines(markdown, source.parent, CARRIED)
    return repository.turned(markdown, page.file.src_uri)


def on_page_content(html: str, page: Any, config: Any, files: Files) -> str:
    """Draws the mathematics; puts a caption, the line of italics below a picture, into one figure with it."""
    lines = re.findall(r'id="(__codelineno-[\d-]+)"', html)  # which mkdocs does not see by itself
    page.present_anchor_ids = {*(page.present_anchor_ids or ()), *lines}
    try:
        return figures(mathematics.converted(html))
    except ValueError as error:
        raise PluginError(f"{page.file.src_uri}: {error}") from error


def figures(html: str) -> str:
    """Makes <figure> of a picture's paragraph and the paragraph in italics after it."""
    found = re.compile(r"<p>(<img [^>]*?/?>)</p>\s*<p><em>(.*?)</em></p>", re.DOTALL)
    return found.sub(r"<figure>\1<figcaption>\2</figcaption></figure>", html)


def on_post_page(output: str, page: Any, config: Any) -> str:
    """Says the language of the Chinese pages."""
    return (
        output.replace('<html lang="en"', '<html lang="zh-Hans"', 1) if page.file.src_uri.startswith("zh/") else output
    )
