"""The pictures show the rows: lengths of bars and places of points are read back from the figures."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("matplotlib")

from benchmarks import plots
from benchmarks.records import COMPILE, EAGER, FLOOR, OURS, TRAINING
from benchmarks.tests.rows import row

CHANNELS_LAST = {"memory_format": "channels_last"}


def test_bars_are_as_long_as_the_times() -> None:
    rows = [
        row(OURS, 0.002),
        row(EAGER, 0.006),
        row(FLOOR, 0.003),
        row(OURS, 0.004, **CHANNELS_LAST),
        row(FLOOR, 0.005, **CHANNELS_LAST),
    ]
    figure = plots.block_times(rows)
    (panel,) = figure.axes
    assert panel.get_xlabel() == "time [ms]"
    labels = [label.get_text() for label in panel.get_yticklabels()]
    bars = [bar.get_width() for bar in panel.patches]
    assert list(zip(labels, bars, strict=True)) == [
        ("efpn_kernels (cpu)", pytest.approx(2.0)),
        ("eager", pytest.approx(6.0)),
        ("efpn_kernels (cpu)", pytest.approx(4.0)),
    ]
    floors = [line for line in panel.lines if line.get_label() == FLOOR]
    assert [line.get_xdata()[0] for line in floors] == pytest.approx([3.0, 5.0])
    # Each beside the bars of its own format.
    centres = [bar.get_y() + bar.get_height() / 2 for bar in panel.patches]
    for line, (first, last) in zip(floors, ((0, 1), (2, 2)), strict=True):
        low, high = sorted(line.get_ydata())
        assert low < centres[first] <= centres[last] < high


def test_points_stand_at_the_speed_ups() -> None:
    rows = [row(OURS, 2.0), row(EAGER, 7.0), row(COMPILE, 1.0), row(FLOOR, 3.0)]
    (panel,) = plots.speedups(rows).axes
    found = {points.get_label(): points.get_offsets()[0][0] for points in panel.collections}
    assert found == {EAGER: 3.5, COMPILE: 0.5}


def test_points_of_the_loss_are_elements_in_a_second() -> None:
    group = {"operator": "DCLoss", "direction": TRAINING}
    rows = [
        row(OURS, 0.5, shape="2 048 elements", **group),
        row(OURS, 2.0, shape="1 000 000 elements", **group),
        row(OURS, 9.0, shape="1 000 000 elements", cache="cold", **group),
    ]
    (panel,) = plots.loss_throughput(rows).axes
    (line,) = panel.lines
    assert list(line.get_xdata()) == [2048, 1_000_000]
    assert list(line.get_ydata()) == [4096, 500_000]


def test_bars_of_memory_are_own_and_then_the_rest() -> None:
    saved = {"saved_bytes": 5 * 2**20, "saved_own_bytes": 2 * 2**20}
    (panel,) = plots.kept_memory([row(OURS, 1.0, direction=TRAINING, **saved)]).axes
    own, rest = panel.patches
    assert (own.get_x(), own.get_width()) == (0, 2)
    assert (rest.get_x(), rest.get_width()) == (2, 3)


def test_small_calls_and_other_clocks_stay_out_of_the_pictures(tmp_path: Path) -> None:
    rows = [row(OURS, 1.0, shape="one call, N=1"), row(OURS, 1.0, clock="events")]
    assert plots.block_times(rows) is None
    assert plots.speedups(rows) is None
    assert plots.kept_memory(rows) is None
    environment = dict.fromkeys(("device", "torch", "python", "efpn_kernels", "date", "commit"), "")
    environment |= {"device_type": "cpu", "cpu_capability": "", "threads": 1}
    (tmp_path / "speedup.png").write_text("of an older run")
    assert plots.draw(tmp_path, environment, rows) == []
    assert not (tmp_path / "speedup.png").exists()
