"""Tools of those who change the kernels: see ``README.md`` in this folder."""

import sys
from pathlib import Path

# What checks the kernels is shared with the tests.
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "csrc"))
