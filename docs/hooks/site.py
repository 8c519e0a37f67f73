"""The site's pages that are not in docs/: lists made of the code, studies, notebooks, files that pages link to."""

import posixpath
import re
from pathlib import Path
from typing import Any

import cells
import reference
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
LINK = re.compile(r"(\]\()([^)#:\s]+)(#[^)\s]*)?(\))")
"""a Markdown link to a file: parts around, path and anchor"""
PAGES = [*sorted(ROOT.glob("experiments/*/README.md")), *sorted(ROOT.glob("notebooks/*.ipynb"))]
"""those outside docs/"""


def on_config(config: MkDocsConfig) -> None:
    made = {place: text for place, text in reference.pages()}
    config.extra["made"] = made
    assert isinstance(config.nav, list)
    lists = [{Path(place).stem.capitalize(): place} for place in made if place.startswith("reference/")]
    api = [{Path(place).name.removesuffix(".md"): place} for place in made if place.startswith("api/")]
    config.nav += [{"Reference": lists}, {"API": api}]
    for title, folder in (("Studies", "experiments"), ("Notebooks", "notebooks")):
        own = [path for path in PAGES if ROOT / folder in path.parents]
        told = [{path.parent.name if path.suffix == ".md" else path.stem: site_place(path)} for path in own]
        config.nav.append({title: told})


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Adds what was made, the pages outside docs/, and every other file that a page links to or shows."""
    for place, text in config.extra["made"].items():
        files.append(File.generated(config, place, content=text))
    own = [Path(file.abs_src_path) for file in files.documentation_pages() if file.abs_src_path]
    for page in [*own, *PAGES]:
        text = markdown_of(page)
        if page in PAGES:
            files.append(File.generated(config, site_place(page), content=moved(text, page)))
        for there in (repository_path(page, link[2]) for link in LINK.finditer(text)):
            if there.is_file() and there not in PAGES and files.get_file_from_path(site_place(there)) is None:
                files.append(File.generated(config, site_place(there), abs_src_path=str(there)))


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Links of docs/ as they are in the repository become those of the site."""
    source = page.file.abs_src_path
    return moved(markdown, Path(source)) if source else markdown


def markdown_of(page: Path) -> str:
    return cells.as_markdown(page) if page.suffix == ".ipynb" else page.read_text("utf-8")


def moved(text: str, page: Path) -> str:
    """The text of a page with its links as the site has them."""

    def link(found: re.Match[str]) -> str:
        place = site_place(repository_path(page, found[2]))
        relative = posixpath.relpath(place, posixpath.dirname(site_place(page)) or ".")
        return f"{found[1]}{relative}{found[3] or ''}{found[4]}"

    return LINK.sub(link, text)


def repository_path(page: Path, link: str) -> Path:
    """The file that a link of the page `page` leads to; of a folder its README.md."""
    there = Path(posixpath.normpath((page.parent / link).as_posix()))
    return there / "README.md" if there.is_dir() else there


def site_place(path: Path) -> str:
    """Where a file of the repository is in the site."""
    inside = path.relative_to(ROOT)
    inside = inside.relative_to("docs") if inside.parts[0] == "docs" else inside
    return (inside.with_suffix(".md") if inside.suffix == ".ipynb" else inside).as_posix()
