"""Makes pages of the library's public names from the source: signatures and docstrings; nothing is imported.

A package or module that `diffjax.__all__` names is a page. What its own `__all__` names and what it brings up from its
files (`import x as x`) is listed first; then each file with its functions and classes that have no underscore.
"""

import ast
import functools
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
LIBRARY = ROOT / "diffjax"
Definition = ast.FunctionDef | ast.ClassDef
SECTIONS = ("Args", "Attributes", "Returns", "Raises", "Yields", "Examples", "Example")


@functools.cache
def parsed(path: Path) -> ast.Module:
    """Reads a file of Python, once for all pages that name what is in it."""
    return ast.parse(path.read_text())


def listed(tree: ast.Module) -> list[str]:
    """The names of a module's `__all__`; none where it has none."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            return [str(name) for name in ast.literal_eval(node.value)]
    return []


def brought(tree: ast.Module) -> dict[str, str]:
    """The public names that a module imports from the library: name -> "diffjax.denoisers.targets.Eps"."""
    found = {}
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("diffjax"):
            found |= {
                a.asname or a.name: f"{node.module}.{a.name}"
                for a in node.names
                if a.asname == a.name or a.name in listed(tree)
            }
    return found


def definitions(tree: ast.Module) -> list[Definition]:
    """The public functions and classes of a module, as they stand in it."""
    return [n for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef) and not n.name.startswith("_")]


def signature(node: Definition) -> str:
    """Writes `name(arguments) -> result`, an argument a line where one line is too long; of a class its fields."""
    if isinstance(node, ast.ClassDef):
        bases = ", ".join(ast.unparse(base) for base in node.bases)
        head = f"class {node.name}({bases})" if bases else f"class {node.name}"
        fields = [ast.unparse(n) for n in node.body if isinstance(n, ast.AnnAssign) and not _private(n.target)]
        return "\n    ".join([head + (":" if fields else ""), *fields])
    result = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    line = f"{node.name}({ast.unparse(node.args)}){result}"
    if len(line) <= 88:
        return line
    return f"{node.name}(\n    " + ",\n    ".join(_arguments(node.args)) + f",\n){result}"


def _private(target: ast.expr) -> bool:
    return ast.unparse(target).startswith("_")


def _arguments(args: ast.arguments) -> list[str]:
    """One text for each argument, stars among them."""
    whole = ast.unparse(args)
    parts, depth, start = [], 0, 0
    for place, letter in enumerate(whole):
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and not depth:
            parts.append(whole[start:place].strip())
            start = place + 1
    return [*parts, whole[start:].strip()]


def escaped(text: str) -> str:
    """Escapes what Markdown would read in plain prose; code between backticks stays."""
    parts = re.split(r"(`[^`]+`)", text)
    return "".join(
        p if k % 2 else re.sub(r"[\\*_<>\[\]#$|~^]", lambda m: f"&#{ord(m[0])};", p) for k, p in enumerate(parts)
    )


def prose(docstring: str | None) -> str:
    """Writes a docstring as Markdown: paragraphs, sections of Args and the like as lists, what is indented as code."""
    made: list[str] = []
    for block in re.split(r"\n\s*\n", docstring or ""):
        lines = block.strip("\n").splitlines()
        head = lines[0].strip().rstrip(":") if lines else ""
        if head in SECTIONS and lines[0].strip().endswith(":"):
            made.append(f"**{head}**")
            made.append(_items(lines[1:]))
        elif lines and all(line.startswith("    ") for line in lines):
            made.append("```text\n" + "\n".join(line[4:] for line in lines) + "\n```")
        elif lines and lines[0].lstrip().startswith("- "):
            made.append("\n".join(re.sub(r"^(\s*- )?(.*)", lambda m: (m[1] or "") + escaped(m[2]), x) for x in lines))
        else:
            made.append(escaped(" ".join(line.strip() for line in lines)))
    return "\n\n".join(made)


def _items(lines: list[str]) -> str:
    """`name: text` over one or more lines each, as a list."""
    least = min((len(x) - len(x.lstrip()) for x in lines if x.strip()), default=0)
    items: list[str] = []
    for line in lines:
        if len(line) - len(line.lstrip()) > least and items:
            items[-1] += f" {line.strip()}"
        else:
            items.append(line.strip())
    named = [re.match(r"([\w*][\w*, .]*): (.*)", item, re.DOTALL) for item in items]
    return "\n".join(
        f"- `{m[1]}`: {escaped(m[2])}" if m and len(m[1]) < 80 else f"- {escaped(item)}"
        for m, item in zip(named, items)
    )


def first_line(docstring: str | None) -> str:
    """A docstring's first paragraph."""
    return " ".join((docstring or "").split("\n\n")[0].split())


def of_method(node: ast.FunctionDef) -> list[str]:
    """Writes a method with its docstring below; nothing for one without."""
    docstring = ast.get_docstring(node)
    said = f"> {prose(docstring)}".replace("\n", "\n> ")
    return [f"`{node.name}({ast.unparse(node.args)})`", said] if docstring else []


def entry(dotted: str, node: Definition) -> str:
    """A function, or a class with its public methods, as a section."""
    lines = [f"### `{node.name}` {{ #{dotted} }}", f"```python\n{signature(node)}\n```", prose(ast.get_docstring(node))]
    for method in node.body if isinstance(node, ast.ClassDef) else []:
        if isinstance(method, ast.FunctionDef) and re.match(r"[^_]|__call__$", method.name):
            lines += of_method(method)
    return "\n\n".join(line for line in lines if line.strip())


def files(name: str) -> dict[str, Path]:
    """The modules of a public name of the library: dotted name -> file; the package itself first.

    What it brings up from a file that has no page of its own, such as `diffjax.tabulated`, is documented with it.
    """
    folder = LIBRARY / name
    found = {f"diffjax.{name}": folder / "__init__.py" if folder.is_dir() else LIBRARY / f"{name}.py"}
    found |= {f"diffjax.{name}.{path.stem}": path for path in sorted(folder.glob("*.py")) if path.stem[0] != "_"}
    for dotted in brought(parsed(found[f"diffjax.{name}"])).values():
        module = dotted.rpartition(".")[0]
        path = LIBRARY / f"{module.removeprefix('diffjax.')}.py"
        if module.count(".") == 1 and path.exists() and module.removeprefix("diffjax.") not in modules():
            found[module] = path
    return found


def modules() -> list[str]:
    """The packages and modules that `diffjax.__all__` names."""
    return [
        n for n in listed(parsed(LIBRARY / "__init__.py")) if (LIBRARY / n).is_dir() or (LIBRARY / f"{n}.py").exists()
    ]


def homes() -> dict[str, str]:
    """Every object that has a place on a page: "diffjax.denoisers.targets.Eps" -> "denoisers"."""
    return {
        f"{dotted}.{node.name}": name
        for name in modules()
        for dotted, path in files(name).items()
        for node in definitions(parsed(path))
    }


def summary(name: str, tree: ast.Module, known: dict[str, str]) -> str:
    """The table of what a package names and brings up, with where it is."""
    rows = []
    for public, dotted in sorted(brought(tree).items(), key=lambda item: item[0].lower()):
        if dotted in known:
            page = "" if known[dotted] == name else f"{known[dotted]}.md"
            rows.append(f"| [`{public}`]({page}#{dotted}) | `{dotted.rpartition('.')[0]}` |")
        elif dotted in files(name):
            rows.append(f"| [`{public}`](#{dotted}) | a module |")
    return "\n".join([f"| `diffjax.{name}` | from |", "|---|---|", *rows]) if rows else ""


def page(name: str, known: dict[str, str]) -> str:
    """The page of a package or module."""
    lines = [f"# diffjax.{name}"]
    for place, (dotted, path) in enumerate(files(name).items()):
        tree = parsed(path)
        if place:
            lines.append(f"## `{dotted}` {{ #{dotted} }}")
        lines += [prose(ast.get_docstring(tree)), "" if place else summary(name, tree, known)]
        lines += [entry(f"{dotted}.{node.name}", node) for node in definitions(tree)]
    return "\n\n".join(line for line in lines if line) + "\n"


def index() -> str:
    """The page that lists the pages, and what `import diffjax` has beside them."""
    rows = []
    for name in modules():
        tree = parsed(next(iter(files(name).values())))
        rows.append(f"| [`diffjax.{name}`]({name}.md) | {escaped(first_line(ast.get_docstring(tree)))} |")
    text = "What is public, from the docstrings: of every package the names that it brings up, then its files."
    return "\n".join(["# API", "", text, "", "| | |", "|---|---|", *rows, ""])


def pages() -> dict[str, str]:
    """Place in the site -> Markdown."""
    parsed.cache_clear()  # `mkdocs serve` makes the pages anew after an edit
    known = homes()
    return {"api/index.md": index(), **{f"api/{name}.md": page(name, known) for name in modules()}}
