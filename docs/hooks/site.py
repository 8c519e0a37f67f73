"""The site's pages that are not in docs/: lists made of the code, the studies, and the files that pages link to."""

import posixpath
import re
from pathlib import Path
from typing import Any

import reference
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
LINK = re.compile(r"(\]\()([^)#:\s]+)(#[^)\s]*)?(\))")
"""a Markdown link to a file: parts around, path and anchor"""


def on_config(config: MkDocsConfig) -> None:
    made = {place: text for place, text in reference.pages()}
    config.extra["made"] = made
    assert isinstance(config.nav, list)
    lists = [{Path(place).stem.capitalize(): place} for place in made if place.startswith("reference/")]
    api = [{Path(place).name.removesuffix(".md"): place} for place in made if place.startswith("api/")]
    studies = sorted((ROOT / "experiments").glob("*/README.md"))
    told = [{study.parent.name: study.relative_to(ROOT).as_posix()} for study in studies]
    config.nav += [{"Reference": lists}, {"API": api}, {"Studies": told}]


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Adds what was made, the studies, and every file outside docs/ that a page links to or shows."""
    for place, text in config.extra["made"].items():
        files.append(File.generated(config, place, content=text))
    pages = [Path(file.abs_src_path or "") for file in files.documentation_pages() if file.abs_src_path]
    pages += sorted((ROOT / "experiments").glob("*/README.md"))
    for page in pages:
        near = [page] if ROOT / "experiments" in page.parents else []
        for there in [*near, *(repository_path(page, link[2]) for link in LINK.finditer(page.read_text("utf-8")))]:
            place = site_place(there)
            if there.is_file() and files.get_file_from_path(place) is None:
                files.append(File.generated(config, place, abs_src_path=str(there)))


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, **_: Any) -> str:
    """Links as they are in the repository become those of the site."""
    if page.file.src_uri in config.extra["made"]:
        return markdown
    source = Path(page.file.abs_src_path or "")

    def moved(link: re.Match[str]) -> str:
        place = site_place(repository_path(source, link[2]))
        relative = posixpath.relpath(place, posixpath.dirname(page.file.src_uri) or ".")
        return f"{link[1]}{relative}{link[3] or ''}{link[4]}"

    return LINK.sub(moved, markdown)


def repository_path(page: Path, link: str) -> Path:
    """The file that a link of the page `page` leads to; of a folder its README.md."""
    there = Path(posixpath.normpath((page.parent / link).as_posix()))
    return there / "README.md" if there.is_dir() else there


def site_place(path: Path) -> str:
    """Where a file of the repository is in the site."""
    inside = path.relative_to(ROOT)
    return (inside.relative_to("docs") if inside.parts[0] == "docs" else inside).as_posix()
