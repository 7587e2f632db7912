"""What a test says of an exception: its type and what its message contains."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest


def assert_raises(
    exception: type[Exception], fragments: tuple[str, ...], call: Callable[[], Any]
) -> None:
    with pytest.raises(exception) as caught:
        call()
    assert caught.type is exception
    for fragment in fragments:
        assert fragment in str(caught.value), str(caught.value)
