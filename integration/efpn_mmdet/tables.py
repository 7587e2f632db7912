"""The paper's tables with the config of each row, from the configs: ``python -m efpn_mmdet.tables``.

A config says which rows it is in a list ``table_rows`` of literal dicts::

    table_rows = [dict(table="1", row="ATSS", differences="", ours="12.5 / ...")]

``differences`` are those to the published setting, ``ours`` is left out until the config has been run.
``--write README.md`` puts the tables between the two marks in that file.
"""

from __future__ import annotations

import argparse
import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from .config_files import CONFIGS
from .paper import MISSING, PAPER, TITLES

BEGIN = "<!-- tables: python -m efpn_mmdet.tables --write integration/README.md -->"
END = "<!-- end of tables -->"
NOT_RUN = "not run"
_KEYS = {"table", "row", "differences", "ours"}


@dataclass(frozen=True)
class Row:
    """A row of a table and the config that stands for it."""

    table: str
    name: str
    config: str
    differences: str
    ours: str = NOT_RUN


def rows_of(path: Path, name: str) -> list[Row]:
    """What the ``table_rows`` of one file say; what it inherits does not count.

    Raises:
        ValueError: an unknown table, row or key.
    """
    rows = []
    for one in _literal(path, "table_rows") or []:
        if set(one) - _KEYS or not {"table", "row"} <= set(one):
            raise ValueError(f"{name}: table_rows: expected the keys {sorted(_KEYS)}, got {one}")
        if one["row"] not in PAPER.get(one["table"], {}):
            raise ValueError(
                f"{name}: table_rows: expected a row of the paper's tables, got {one['row']!r} in "
                f"table {one['table']!r}"
            )
        differences, ours = one.get("differences", ""), one.get("ours", NOT_RUN)
        rows.append(Row(one["table"], one["row"], name, differences, ours))
    return rows


def markdown(folder: Path | None = None) -> str:
    """All tables, and the configs that stand for no row.

    Raises:
        ValueError: a row of the paper that has neither a config nor a reason for having none.
    """
    folder = folder or CONFIGS
    names = [path.relative_to(folder).as_posix() for path in sorted(folder.glob("[!_]*/*.py"))]
    rows = {name: rows_of(folder / name, name) for name in names}
    lines = [line for table in PAPER for line in _table(table, rows)]
    lines += ["### Configs beside the tables", "", "| config | what it is |", "|---|---|"]
    lines += [
        f"| `{name}` | {_summary(folder / name)} |" for name, found in rows.items() if not found
    ]
    return "\n".join(lines) + "\n"


def _table(table: str, rows: dict[str, list[Row]]) -> Iterator[str]:
    title, columns = TITLES[table]
    yield from (f"### {title}", "")
    yield f"| row | config | paper: {columns} | ours | differences to the published setting |"
    yield "|---|---|---|---|---|"
    for name, figures in PAPER[table].items():
        found = [
            row for one in rows.values() for row in one if (row.table, row.name) == (table, name)
        ]
        if not found and (table, name) not in MISSING:
            raise ValueError(f"{title}: expected a config for the row {name!r}, found none")
        for row in found:
            yield f"| {name} | `{row.config}` | {figures} | {row.ours} | {row.differences} |"
        if not found:
            yield f"| {name} | none | {figures} | | {MISSING[table, name]} |"
    yield ""


def _summary(path: Path) -> str:
    """The comment at the top of a file, up to its first full stop."""
    comment = []
    for line in path.read_text().splitlines():
        if not line.startswith("#"):
            break
        comment.append(line.lstrip("# "))
    return " ".join(comment).split(". ")[0].rstrip(".")


def _literal(path: Path, name: str) -> object:
    """The value of a variable that a file sets to a literal, ``None`` if it does not."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", None) == name:
            # Configs write dict(key=value), which is no literal of Python.
            return [
                {word.arg: ast.literal_eval(word.value) for word in one.keywords}
                for one in node.value.elts
            ]
    return None


def write(path: Path) -> None:
    """Replace what stands between the marks of a file.

    Raises:
        ValueError: a file without them.
    """
    text = path.read_text()
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"--write: expected the lines {BEGIN} and {END} in {path}")
    path.write_text(f"{head}{BEGIN}\n\n{markdown()}\n{END}{tail}")


def main(argv: Sequence[str] | None = None) -> None:
    """Print the tables, or write them into a file."""
    parser = argparse.ArgumentParser(
        prog="python -m efpn_mmdet.tables", description=__doc__.splitlines()[0]
    )
    parser.add_argument(
        "--write", type=Path, help="replace what stands between the marks of this file"
    )
    args = parser.parse_args(argv)
    if args.write:
        write(args.write)
    else:
        print(markdown())


if __name__ == "__main__":
    main()
