"""What lets a run go on in a fresh process: after a fault of the device, a crash, or a cut.

After some errors (an illegal access, an assertion on the device) every further call of the process fails.
Such a process notes who was running, leaves with :data:`LOST`, and is started again with ``--continue``:
what has been measured is kept, who was running is left out, and the rest is measured.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

LOST = 75
"""Exit code: the device is lost to this process; start another one with ``--continue``."""

DIED = "not timed: the process died or was stopped while it ran"


class DeviceLost(Exception):
    """No further call of this process can succeed."""


def poisoned(device: str) -> bool:
    """Whether the device refuses even the smallest work: the error before was a sticky one."""
    if device != "cuda":
        return False
    import torch  # by now it is loaded: those who only look at files need not wait for it

    try:
        torch.cuda.synchronize()
        return torch.ones((), device=device).add_(1).item() != 2
    except Exception:
        return True


class Marker:
    """Says on disk what runs now: whoever finds it knows what a dead process was doing."""

    def __init__(self, path: Path | None) -> None:
        self.path = path

    def set(self, what: dict[str, Any]) -> None:
        """``what`` starts now."""
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text(json.dumps(what))

    def clear(self) -> None:
        """Nothing runs."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)

    def left_behind(self) -> dict[str, Any] | None:
        """What a dead process was doing; asked once."""
        if self.path is None or not self.path.exists():
            return None
        what = json.loads(self.path.read_text())
        self.clear()
        return what
