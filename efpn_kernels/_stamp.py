"""What a compiled library says of itself: the version and the schemas that it was made for.

The build puts it into the library, the package reads it before it loads one. Both run this file, the
build without torch: nothing but the standard library is imported.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import json
import mmap
import re
from collections.abc import Iterable
from pathlib import Path

PACKAGE = Path(__file__).parent
MARK = b"efpn_kernels library "


@functools.cache
def version() -> str:
    """The version of these sources."""
    found = re.search(r'__version__ = "(.+)"', (PACKAGE / "version.py").read_text("utf-8"))
    assert found is not None
    return found[1]


@functools.cache
def schemas() -> str:
    """A hash of the schemas of all operators: of the constants in ``ops`` that speak of tensors."""
    found = []
    for file in sorted((PACKAGE / "ops").glob("*.py")):
        for statement in ast.parse(file.read_text("utf-8")).body:
            text = _text(statement) if isinstance(statement, ast.Assign | ast.AnnAssign) else ""
            found += [text] if "Tensor " in text else []
    return hashlib.sha256("\n".join(found).encode()).hexdigest()[:12]


def _text(node: ast.AST) -> str:
    """All strings below a node, one behind the other."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    return "".join(map(_text, _children(node)))


def _children(node: ast.AST) -> Iterable[ast.AST]:
    if isinstance(node, ast.Dict):  # its fields are all keys, then all values
        return (child for pair in zip(node.keys, node.values) for child in pair if child)
    return ast.iter_child_nodes(node)


def source(**facts: object) -> str:
    """C for an object file that carries the stamp of these sources and ``facts``."""
    text = json.dumps({"version": version(), "schemas": schemas(), **facts})
    literal = json.dumps(MARK.decode() + text)
    return f"__attribute__((used)) static const char efpn_kernels_stamp[] = {literal};\n"


def read(library: Path) -> dict[str, str]:
    """The stamp of a library, without loading it; empty where it has none.

    Raises:
        OSError: for a file that cannot be read.
    """
    with library.open("rb") as file:
        if library.stat().st_size == 0:
            return {}
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            begin = content.find(MARK)
            if begin < 0:
                return {}
            begin += len(MARK)
            return json.loads(content[begin : content.find(b"\0", begin)])


def mismatch(stamp: dict[str, str]) -> str | None:
    """What a library was made for, where that is not these sources."""
    if not stamp:
        return "carries no version"
    if stamp["version"] != version():
        return f"was built for version {stamp['version']}, this is {version()}"
    if stamp["schemas"] != schemas():
        return f"was built for other schemas of the kernels ({stamp['schemas']}, here {schemas()})"
    return None
