"""Hooks of mkdocs (see mkdocs.yml): pages from files outside of docs, and from notebooks.

README.md is the first page of the site; CONTRIBUTING.md and CHANGELOG.md are pages too. Links to
files that are no page become text. A notebook is shown with its recorded outputs.
"""

from __future__ import annotations

import json
import posixpath
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
OUTSIDE = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md"}
OUTSIDE |= {"CHANGELOG.md": "changelog.md"}
SHIM = "https://unpkg.com/iframe-worker/shim"
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s#]*)(#[^)\s]*)?\)")


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that are not in docs."""
    from mkdocs.structure.files import File

    for name, page in OUTSIDE.items():
        # Their links begin at the root of the project, as if the page were beside docs.
        text = (ROOT / name).read_text()
        files.append(File.generated(config, page, content=linked(text, "", page)))
    for path in sorted((ROOT / "docs").glob("notebooks/*.ipynb")):
        page = f"notebooks/{path.stem}.md"
        files.append(File.generated(config, page, content=notebook(path)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Links from docs to files outside of it."""
    name = page.file.src_uri
    if name in OUTSIDE.values():
        return markdown
    return linked(markdown, posixpath.join("docs", posixpath.dirname(name)), name)


def on_post_page(output: str, page: Any, config: Any) -> str:
    """The script of the theme's offline search from here instead of the network."""
    up = "../" * page.url.count("/")
    return output.replace(SHIM, f"{up}assets/iframe-worker.js")


def on_post_template(output: str, template_name: str, config: Any) -> str:
    """The same for the page of missing pages."""
    return output.replace(SHIM, "assets/iframe-worker.js")


def linked(text: str, folder: str, page: str) -> str:
    """The links of a page in a folder of the project, as links between pages of the site."""

    def replace(match: re.Match[str]) -> str:
        image, label, target, place = match.groups()
        place = place or ""
        if not target or re.match(r"\w+:", target):
            return match[0]
        path = posixpath.normpath(posixpath.join(folder, target))
        if path in OUTSIDE:
            found = OUTSIDE[path]
        elif path.startswith("docs/") and (ROOT / path).is_file():
            found = path.removeprefix("docs/")
            if page != (shown := found.replace(".ipynb", ".md")):
                found = shown
        elif path == "examples":
            found = "gallery.md"
        else:
            return label
        here = posixpath.dirname(page)
        return f"{image}[{label}]({posixpath.relpath(found, here or '.')}{place})"

    parts = re.split(r"(^```.*?^```$)", text, flags=re.M | re.S)
    return "".join(part if part.startswith("```") else LINK.sub(replace, part) for part in parts)


def notebook(path: Path) -> str:
    """A notebook as Markdown: its text, code and outputs."""
    parts = []
    for cell in json.loads(path.read_text())["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "image/png" in data:
                picture = "".join(data["image/png"]).replace("\n", "")
                parts.append(f"![output](data:image/png;base64,{picture})")
            else:
                words = "".join(output.get("text", data.get("text/plain", [])))
                parts.append(f"```text\n{words.rstrip()}\n```")
    parts.append(f"[This notebook]({path.name})")
    return "\n\n".join(parts)
