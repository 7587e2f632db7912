"""The benchmark of whole detectors, on an image so small that it only has to run."""

from __future__ import annotations

import pytest

from benchmarks.bench_detector import CONFIGS, FUSED, Setting, measure


def test_every_form_is_measured_in_both_directions() -> None:
    pytest.importorskip("mmdet")
    entries = measure(Setting("cpu", image_size=64, images=1, rounds=1), lambda text: None)
    found = [(one.variant, one.direction, one.part) for one in entries]
    assert len(set(found)) == len(found) == 2 * 2 * len(CONFIGS)
    assert all(one.median_s > 0 for one in entries)
    assert any(one.variant == FUSED and one.memory.saved for one in entries)
