"""The command ``efpn``: ``doctor`` here, everything about detectors in :mod:`efpn_mmdet`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from .version import __version__

USAGE = """usage: efpn COMMAND ...

  doctor      what runs here, what does not, and the command that mends it
  train       train a detector from an mmdet config
  test        evaluate a checkpoint
  predict     boxes, scores and pictures for images
  convert     VisDrone and DOTA-v2 annotations to COCO json
  configs     paths of the mmdet configs that come with the package
  demo-data   build the small tiny-object data set
  demo        data, training, evaluation and pictures in one go

`efpn COMMAND --help` says more, `efpn --version` which version this is. All but doctor need the
extra `mmdet`."""
COMMANDS = tuple(line.split()[0] for line in USAGE.splitlines() if line.startswith("  "))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE)
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(f"efpn_kernels {__version__}")
        return 0
    if arguments[0] == "doctor":
        from . import env_report

        return env_report.main(arguments[1:])
    if arguments[0] not in COMMANDS:
        print(f"efpn: expected one of {', '.join(COMMANDS)}, got {arguments[0]!r}", file=sys.stderr)
        return 2
    try:
        from efpn_mmdet import cli
    except ModuleNotFoundError as error:
        print(
            f"efpn {arguments[0]}: needs the extra `mmdet` ({error}). "
            "integration/README.md says how to install it.",
            file=sys.stderr,
        )
        return 1
    return cli.main(arguments) or 0
