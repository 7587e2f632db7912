"""The configs that come with the package."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

CONFIGS = Path(__file__).resolve().parent / "configs"
"""Their folder."""


def find_config(name: str | Path) -> Path:
    """A config file: ``name`` itself, or that one of the package's, such as ``faster_rcnn/rfla_aitod.py``."""
    for path in (Path(name), CONFIGS / name):
        if path.is_file():
            return path
    raise FileNotFoundError(
        f"config: expected a file, or one of {CONFIGS} (`efpn configs` lists them), got {name}"
    )


def add_arguments(parser: ArgumentParser) -> None:
    """The options of ``efpn configs``."""
    parser.add_argument("name", nargs="?", help="print the path of this one alone")


def main(args: Namespace) -> None:
    """Print paths, to use as CONFIG or in a config's own ``_base_``."""
    if args.name:
        print(find_config(args.name))
        return
    for path in sorted(CONFIGS.glob("[!_]*/*.py")):
        print(path)
