"""Every code block of the README and of ``docs/`` runs, and every page says what is so.

The Python blocks of a page run one after the other in one namespace, in a process and a folder of their own. A block
that cannot run everywhere says why in its title.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

import efpn_kernels
from efpn_kernels import backends, functional

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# Titles of blocks that do not run here, or only where something is installed.
NEVER = ("installs", "takes minutes", "needs mmdet")
NEEDS = {
    "needs a GPU": lambda: torch.cuda.is_available(),
    "needs torchvision": lambda: _imports("torchvision"),
    "needs onnxruntime": lambda: all(map(find_spec, ("onnx", "onnxscript", "onnxruntime"))),
    "needs openvino": lambda: find_spec("openvino") is not None,
}
MOST_THAT_NEVER_RUN = 10


class Block(NamedTuple):
    language: str
    title: str
    code: str


def _imports(name: str) -> bool:
    command = [sys.executable, "-c", f"import {name}"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def blocks(page: Path) -> list[Block]:
    pattern = r'^( *)```(\w*)(?: title="([^"]*)")?\n(.*?)^\1```$'
    found = re.findall(pattern, page.read_text(), re.DOTALL | re.MULTILINE)
    assert len(found) * 2 == len(re.findall(r"^ *```", page.read_text(), re.MULTILINE))
    return [Block(language, title, textwrap.dedent(code)) for _, language, title, code in found]


def runs(block: Block) -> bool:
    return not block.title or (block.title in NEEDS and NEEDS[block.title]())


def execute(command: list[str], folder: Path) -> None:
    scripts = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": scripts}
    environment.pop(backends.ENVIRONMENT_VARIABLE, None)
    result = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr


def pages_with(language: str) -> list:
    pages = [page for page in PAGES if any(b.language == language for b in blocks(page))]
    return [pytest.param(page, id=page.name) for page in pages]


@pytest.mark.parametrize("page", pages_with("python"))
def test_the_python_blocks_of_a_page_run(page: Path, tmp_path: Path) -> None:
    code = [b.code for b in blocks(page) if b.language == "python" and runs(b)]
    if not code:
        pytest.skip("no block of this page runs here")
    script = tmp_path / "page.py"
    script.write_text("\n".join(code))
    execute([sys.executable, str(script)], tmp_path)


@pytest.mark.parametrize("page", pages_with("sh"))
def test_the_shell_blocks_of_a_page_run(page: Path, tmp_path: Path) -> None:
    code = [b.code for b in blocks(page) if b.language == "sh" and runs(b)]
    if not code:
        pytest.skip("no block of this page runs here")
    execute(["bash", "-euo", "pipefail", "-c", "\n".join(code)], tmp_path)


def test_a_block_that_fails_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "- a list\n\n    ```python\n    x = 1\n    ```\n\n```python\nassert x == 2\n```\n"
    )
    with pytest.raises(AssertionError, match="assert x == 2"):
        test_the_python_blocks_of_a_page_run(page, tmp_path)


def test_few_blocks_never_run() -> None:
    every = [block for page in PAGES for block in blocks(page)]
    for block in every:
        assert block.language in ("python", "sh"), block
        assert block.title in ("", *NEVER, *NEEDS), block
    assert sum(block.title in NEVER for block in every) <= MOST_THAT_NEVER_RUN


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) < 120


def test_every_public_name_is_in_the_reference() -> None:
    text = (ROOT / "docs/api.md").read_text()
    for name in efpn_kernels.__all__:
        if not name.startswith("__"):
            # The function `graphed` lives in a module of its name.
            assert re.search(rf"^::: efpn_kernels\.(graphed\.)?{name}$", text, re.MULTILINE), name
    assert all(getattr(functional, name).__doc__ for name in functional.__all__)


def test_every_variable_is_in_the_table() -> None:
    table = (ROOT / "docs/environment.md").read_text()
    sources = [ROOT / "setup.py", *(ROOT / "csrc").rglob("*")]
    sources += [*(ROOT / "efpn_kernels").rglob("*.py"), *(ROOT / "benchmarks").glob("*.py")]
    read = set()
    for path in sources:
        if path.suffix in (".py", ".cpp", ".h", ".cu", ".cuh"):
            read |= set(re.findall(r"EFPN_KERNELS_[A-Z_]*[A-Z]\b", path.read_text()))
    assert len(read) >= 6
    assert read <= set(re.findall(r"`([A-Z_]+)", table))


def test_every_page_is_in_the_navigation_and_on_the_front_page() -> None:
    navigation, front = ((ROOT / name).read_text() for name in ("mkdocs.yml", "docs/index.md"))
    for page in PAGES[1:]:
        assert f": {page.name}\n" in navigation
        assert page.name in ("index.md", "installing.md") or f"]({page.name})" in front


def test_links_lead_somewhere() -> None:
    """Also those that only exist on GitHub, which the site's own check does not see."""
    for page in [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "integration/README.md"]:
        for link in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
            if "://" not in link:
                assert (page.parent / link).exists(), f"{page.name}: {link}"
