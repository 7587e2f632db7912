"""The command ``efpn``: ``doctor`` here, everything about detectors in :mod:`efpn_mmdet`."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from .version import __version__

USAGE = """usage: efpn COMMAND ...

  doctor      what runs here, what does not, and the command that fixes it; --test checks the results
  train       train a detector from an mmdet config
  test        evaluate a checkpoint
  predict     boxes, scores and pictures for images
  convert     VisDrone and DOTA-v2 annotations to COCO json
  configs     paths of the mmdet configs that come with the package
  similarity-constants  what SimD, DotD and NWD need of a config's data set and anchors
  demo-data   build the small tiny-object data set
  demo        data, training, evaluation and pictures in one go

`efpn COMMAND --help` says more, `efpn --version` which version this is. All but doctor need the
extra `mmdet`."""
COMMANDS = tuple(line.split()[0] for line in USAGE.splitlines() if line.startswith("  "))
# mmcv has no wheel for today's PyTorch: it compiles.
INSTALL_MMDET = """    pip install 'setuptools<80' wheel ninja psutil
    MMCV_WITH_OPS=1 pip install --no-build-isolation --no-deps {mmcv}
    pip install {others}"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE)
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(f"efpn_kernels {__version__}")
        return 0
    if arguments[0] not in COMMANDS:
        print(f"efpn: expected one of {', '.join(COMMANDS)}, got {arguments[0]!r}", file=sys.stderr)
        return 2
    try:
        if arguments[0] == "doctor":
            from . import doctor as command
        else:
            from efpn_mmdet import cli as command
    except ModuleNotFoundError as error:
        print(f"efpn {arguments[0]}: {_how_to_install(error)}", file=sys.stderr)
        return 1
    return command.main(arguments[1:] if arguments[0] == "doctor" else arguments) or 0


def _how_to_install(missing: ModuleNotFoundError) -> str:
    if missing.name == "torch":
        return "needs PyTorch, which is not installed; run: pip install 'torch>=2.11'"
    if missing.name == "efpn_mmdet":  # Python runs sources that are not installed
        root = shlex.quote(str(Path(__file__).resolve().parent.parent))
        return f"needs the package to be installed; run: pip install --no-build-isolation -e {root}"
    requirements = metadata.requires("efpn_kernels") or []
    extra = [line.split(";")[0].strip() for line in requirements if re.search("extra.*mmdet", line)]
    mmcv = next((name for name in extra if name.startswith("mmcv")), "mmcv")
    others = " ".join(f"'{name}'" for name in extra if name != mmcv)
    return (
        f"needs mmdet ({missing}). To install it:\n{INSTALL_MMDET.format(mmcv=mmcv, others=others)}"
    )
