"""Finds what pages link to outside of docs/: it travels with the site, under repo/, at its own path.

A Markdown file is a page, another text file a page with its numbered lines, a folder a list of what is in it; the rest
(pictures, notebooks) is copied. Links are written for a checkout, `../configs/vpsde.py#L12`; here they are turned to
those places.
"""

import os
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
LINK = re.compile(r"(\]\()([^)\s#]+)((?:#[^)\s]*)?\))")
ID = re.compile(r"\(([a-z][a-z0-9_-]*\.[1-9][0-9]*)\)")
TEXT = {".py": "python", ".toml": "toml", ".txt": "text", ".sh": "bash", ".csv": "text", ".yml": "yaml", ".cff": "yaml"}
HIDDEN = {"__pycache__", ".git"}


def outside_code(text: str, change) -> str:
    """Applies a function to what is neither in a fence nor between backticks."""
    parts = re.split(r"(^```.*?^```[^\n]*$|`[^`\n]+`)", text, flags=re.DOTALL | re.MULTILINE)
    return "".join(part if place % 2 else change(part) for place, part in enumerate(parts))


def joined(text: str, change) -> str:
    """Applies a function to the text outside of fences, code in backticks included: links may have such text."""
    parts = re.split(r"(^```.*?^```[^\n]*$)", text, flags=re.DOTALL | re.MULTILINE)
    return "".join(part if place % 2 else change(part) for place, part in enumerate(parts))


def place(path: Path) -> str | None:
    """Where a file or folder of the repository stands in the site, "repo/configs/vpsde.py.md"; None: nowhere."""
    if not path.exists() or ROOT not in [path, *path.parents] or HIDDEN & set(path.parts):
        return None
    if path.is_relative_to(DOCS) and path.suffix in (".md", ".png", ".svg"):
        return path.relative_to(DOCS).as_posix()
    if path.is_dir() and path.is_relative_to(DOCS) and path.name == "cards":
        return f"{path.relative_to(DOCS).as_posix()}/index.md"  # which the build makes
    name = f"repo/{path.relative_to(ROOT).as_posix()}".removesuffix("/.")
    if path.is_dir():
        readme = path / "README.md"
        return f"{name}/README.md" if readme.exists() and path != ROOT else f"{name}/files.md"
    if path.suffix == ".md":
        return name
    return f"{name}.md" if path.suffix in TEXT or path.name == "LICENSE" else name


def source(src_uri: str) -> Path:
    """The file of the repository that a source of the site was made from, or would be."""
    return ROOT / src_uri.removeprefix("repo/") if src_uri.startswith("repo/") else DOCS / src_uri


def targets(text: str, home: Path) -> set[Path]:
    """The files and folders of the repository that a Markdown text, which lies in the folder `home`, links to."""
    found: set[Path] = set()

    def look(part: str) -> str:
        for match in LINK.finditer(part):
            if not re.match(r"[a-z]+:", match[2]):
                found.add(Path(os.path.normpath(home / match[2])))
        return part

    joined(text, look)
    return {path for path in found if path.exists()}


def turned(text: str, src_uri: str, home: Path | None = None) -> str:
    """Turns the links of a Markdown text to where their files stand in the site.

    Args:
        src_uri: the text's own place in the site's sources.
        home: the folder that its links are relative to; that of its file.
    """
    folder = home or source(src_uri).parent
    start = os.path.dirname(src_uri) or "."

    def one(match: re.Match[str]) -> str:
        if re.match(r"[a-z]+:", match[2]):
            return match[0]
        to = place(Path(os.path.normpath(folder / match[2])))
        if to is None:
            return match[0]  # for mkdocs to complain of
        tail = re.sub(r"^#L(\d+)(-L?\d+)?", r"#__codelineno-0-\1", match[3])
        return f"{match[1]}{os.path.relpath(to, start)}{tail}"

    return joined(text, lambda part: LINK.sub(one, part))


def page(path: Path) -> str:
    """The Markdown of a file or folder outside of docs/, with links as they are in it."""
    name = path.relative_to(ROOT).as_posix()
    if path.is_dir():
        kept = sorted(p for p in path.iterdir() if p.name not in HIDDEN and not p.name.startswith("."))
        lines = [f"- [{p.name}{'/' * p.is_dir()}]({p.name})" if linked(p) else f"- `{p.name}`" for p in kept]
        return f"# {name}/\n\n" + "\n".join(lines) + "\n"
    text = path.read_text()
    if path.suffix == ".md":
        return text
    language = TEXT.get(path.suffix, "text")
    front = f"---\nsearch: {{exclude: true}}\ntitle: {path.name}\n---\n"
    return f'{front}# {name}\n\n````{language} linenums="1"\n{text}\n````\n'


def linked(path: Path) -> bool:
    """Tells whether a list of a folder's files leads on to this one."""
    return path.suffix in TEXT or path.suffix == ".md"


def closure(texts: dict[Path, str]) -> dict[str, Path]:
    """Finds all that pages lead to outside of docs/, and what that leads to: place in the site -> file or folder.

    Args:
        texts: of each page's file its Markdown.
    """
    found: dict[str, Path] = {}
    waiting = [path for file, text in texts.items() for path in targets(text, file.parent)]
    while waiting:
        path = waiting.pop()
        at = place(path)
        if at is None or not at.startswith("repo/") or at in found:
            continue
        if path.is_dir() and at.endswith("/README.md"):
            path = path / "README.md"
        found[at] = path
        if path.is_dir() or path.suffix == ".md":
            waiting += targets(page(path), path if path.is_dir() else path.parent)
    return found


def equations() -> dict[str, list[tuple[Path, int]]]:
    """Finds the lines of the library whose comments carry the id of an equation: "ddim.1" -> [(file, line), ...]."""
    found: dict[str, list[tuple[Path, int]]] = {}
    for path in sorted((ROOT / "diffjax").rglob("*.py")):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            for name in ID.findall(line.partition("#")[2]):
                found.setdefault(name, []).append((path, number))
    return found


def with_lines(text: str, home: Path, carried: dict[str, list[tuple[Path, int]]]) -> str:
    """Writes below each numbered equation where it stands in the code, as links from a page in the folder `home`."""

    def one(match: re.Match[str]) -> str:
        lines = carried.get(match[1], [])
        link = lambda path, line: f"[`{path.relative_to(ROOT)}:{line}`]({os.path.relpath(path, home)}#L{line})"
        return match[0] + "".join(f"\n\n{', '.join(link(*at) for at in lines)}\n{{.carried}}" for _ in lines[:1])

    return re.sub(r"^\$\$[^$]*\\tag\{([^{}]*)\}[^$]*\$\$$", one, text, flags=re.MULTILINE)
