"""``python -m efpn_kernels doctor`` is ``efpn doctor``."""

import sys

from .cli import main

sys.exit(main())
