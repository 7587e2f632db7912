"""Brings files of the repository that lie outside of ``docs/`` into the site, where links lead to them.

On GitHub a page of ``docs/`` links to ``../integration/README.md``. On the site that file stands beside the pages,
under its path in the repository.
"""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
PATTERNS = (
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "csrc/derivation.md",
    "integration/README.md",
    "integration/*.jpg",
    "benchmarks/kernels/thread_split.md",
    "benchmarks/kernels/winograd_tiles.md",
    "benchmarks/results/*/*.md",
    "benchmarks/results/*/*.png",
    "benchmarks/results/*/d*.json",
)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files."""
    for pattern in PATTERNS:
        for path in sorted(ROOT.glob(pattern)):
            name = path.relative_to(ROOT).as_posix()
            files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Make links relative to the site."""
    path = page.file.src_uri
    if "/" in path or path in PATTERNS:  # from outside of docs/ into it
        return re.sub(r"\]\(((?:\.\./)*)docs/", r"](\1", markdown)
    return re.sub(r"\]\(\.\./", "](", markdown)
