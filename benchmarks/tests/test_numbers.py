"""Tables and goals, from rows whose ratios are known."""

from __future__ import annotations

import pytest
import torch

from benchmarks import report
from benchmarks.goals import Goal, at_least, at_most, copy_share, goals_of
from benchmarks.records import (
    AUTOGRAD,
    COMPILE,
    COMPILE_MAX,
    COPY,
    EAGER,
    FLOOR,
    FORWARD,
    OURS,
    TRAINING,
    Row,
)
from benchmarks.shapes import CALL
from benchmarks.tests.rows import row

CHANNELS_LAST = {"memory_format": "channels_last"}

# Ours takes two thirds of the floor in one format and four thirds in the other.
ROWS = [
    row(OURS, 2.0, spread=0.1, error=1e-6, eager_error=4e-6, repeatable=True),
    row(EAGER, 7.0, error=4e-6),
    row(COMPILE, 5.0),
    row(COMPILE_MAX, 4.0),
    row(FLOOR, 3.0),
    row(AUTOGRAD, 1.0),
    row(OURS, 8.0, **CHANNELS_LAST),
    row(EAGER, 12.0, **CHANNELS_LAST),
    row(FLOOR, 6.0, **CHANNELS_LAST),
]


def cells(one: Row) -> dict[str, str]:
    return report.row_cells(one, ROWS)


def test_ours_is_so_many_times_faster_than_the_row_in_its_own_format() -> None:
    shown = [cells(one)["ours is"] for one in ROWS]
    assert shown == ["", "3.50x", "2.50x", "2.00x", "", "", "", "1.50x", ""]


def test_a_row_that_is_faster_than_ours_shows_less_than_one() -> None:
    rows = [row(OURS, 2.0), row(EAGER, 1.0)]
    assert report.row_cells(rows[1], rows)["ours is"] == "0.50x"


def test_of_several_backends_the_fastest_is_ours() -> None:
    rows = [row(OURS, 2.0, ran_on="cuda"), row(OURS, 1.0, ran_on="triton"), row(EAGER, 4.0)]
    assert report.speedup_over(rows[2], rows) == 4.0


def test_times_over_the_floor_are_of_the_rows_own_format() -> None:
    shown = [cells(one)["/ floor"] for one in ROWS]
    assert shown == ["0.67x", "2.33x", "1.67x", "1.33x", "", "0.33x", "1.33x", "2.00x", ""]


def test_cells_of_one_row() -> None:
    found = cells(ROWS[0])
    assert found["candidate"] == "efpn_kernels (cpu)"
    assert (found["time"], found["spread"]) == ("2 s", "10.0%")
    assert found["error"] == "1.0e-06"
    assert found["first call"] == found["kept"] == found["of copy"] == ""


def test_bandwidth_and_share_of_the_copy() -> None:
    """The copy moves 4 GB in a second; ours 6 GB in two; eager the same in six."""
    traffic = {"traffic_bytes": 6_000_000_000}
    rows = [
        row(OURS, 2.0, **traffic),
        row(EAGER, 6.0, **traffic),
        row(COPY, 1.0, traffic_bytes=4_000_000_000),
        row(AUTOGRAD, 1.0),
    ]
    shown = [(c["GB/s"], c["of copy"]) for c in (report.row_cells(one, rows) for one in rows)]
    assert shown == [("3.0", "75%"), ("1.0", "25%"), ("4.0", "100%"), ("", "")]
    assert [report.speedup_over(one, rows) for one in rows] == [None, 3.0, None, None]
    assert copy_share(rows[3], rows) is None


def test_memory_in_mebibytes() -> None:
    one = row(OURS, 1.0, saved_bytes=3 * 2**20, saved_own_bytes=2**19, peak_bytes=5 * 2**20)
    shown = report.row_cells(one, [one])
    assert (shown["kept"], shown["kept, own"], shown["peak"]) == ("3.0 MiB", "0.5 MiB", "5.0 MiB")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(2, "2 s"), (0.0123, "12.3 ms"), (4.5e-5, "45 us"), (1e-7, "0.10 us"), (1, "1 s")],
)
def test_durations(seconds: float, text: str) -> None:
    assert report.duration(seconds) == text


def test_columns_that_nobody_fills_are_left_out_and_figures_stand_right() -> None:
    lines = report.group_table([row(OURS, 1.0), row(EAGER, 2.0)]).splitlines()
    assert "kept" not in lines[0]
    assert "first call" not in lines[0]
    assert lines[0].split("|")[1].strip() == "candidate"
    assert lines[1].split("|")[3].strip().endswith("-:")  # times
    assert "2.00x" in lines[3]


# ---- goals --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "measured", "met", "distance"),
    [
        (at_most, 0.99, True, "met"),
        (at_most, 1.0, True, "met"),
        (at_most, 1.25, False, "missed by 25%"),
        (at_least, 1.01, True, "met"),
        (at_least, 1.0, True, "met"),
        (at_least, 0.8, False, "missed by 20%"),
    ],
)
def test_met_or_missed_by(make: object, measured: float, met: bool, distance: str) -> None:
    (goal,) = make("x", measured, 1.0)
    assert (goal.met, goal.distance, goal.measured) == (met, distance, measured)
    assert make("x", None, 1.0) == []


def goals(rows: list[Row]) -> dict[str, tuple[float, str, bool]]:
    """What each goal measured, required, and whether it was met, by the end of its name."""
    return {
        goal.what.split(": ")[-1]: (round(goal.measured, 4), goal.required, goal.met)
        for goal in goals_of(rows)
    }


def test_goals_of_the_block_on_a_cpu() -> None:
    found = goals([one for one in ROWS if one.memory_format == "contiguous"])
    assert found["time / library floor"] == (0.6667, "<= 0.50", False)
    assert found["speed-up over eager"] == (3.5, ">= 3.00", True)
    other = goals([*ROWS[1:2], *ROWS[6:]])  # channels_last, and eager in the other format too
    assert other["time / library floor"][0] == 1.3333
    assert other["speed-up over eager"] == (1.5, ">= 3.00", False)
    assert goals([row(OURS, 1.0), row(FLOOR, 2.0)])["time / library floor"][2]


def test_goals_of_other_masks_and_dtypes_on_a_cpu() -> None:
    block = "AI-TOD 800x800, N=1, P2 200x200, hidden 256"
    rows = [row(OURS, 1.3, shape=f"{block}, gate 256"), row(FLOOR, 2.0, shape=f"{block}, gate 256")]
    assert goals(rows)["time / library floor"] == (0.65, "<= 0.65", True)
    rows = [row(OURS, 2.0, dtype="bfloat16"), row(EAGER, 1.0, dtype="bfloat16")]
    assert goals(rows)["speed-up over eager"] == (0.5, ">= 1.00", False)


@pytest.mark.parametrize(
    ("operator", "direction", "bound"),
    [
        ("EFPNBS", FORWARD, "0.60"),
        ("EFPNBS", TRAINING, "0.75"),
        ("CEM", FORWARD, "1.00"),
        ("CEM", TRAINING, "1.00"),
    ],
)
def test_goals_of_a_call(operator: str, direction: str, bound: str) -> None:
    group = {"operator": operator, "direction": direction, "shape": f"{CALL.label}, hidden 8"}
    found = goals([row(OURS, 1.0, **group), row(EAGER, 2.0, **group)])
    assert found["time / eager's"] == (0.5, f"<= {bound}", True)
    found = goals([row(OURS, 3.0, **group), row(EAGER, 2.0, **group)])
    assert found["time / eager's"] == (1.5, f"<= {bound}", False)


def test_goals_of_cem_on_a_cpu() -> None:
    group = {"operator": "CEM", "shape": "AI-TOD 800x800, N=1, P2 200x200", "traffic_bytes": 100}
    rows = [row(OURS, 2.0, **group), row(COMPILE, 1.5, **group), row(COPY, 1.0, **group)]
    found = goals(rows)
    assert found["share of copy bandwidth"] == (0.5, ">= 0.90", False)
    assert found["speed-up over torch.compile"] == (0.75, ">= 1.00", False)


def test_goals_of_training_and_of_memory() -> None:
    training = {"direction": TRAINING}
    ours = {"saved_bytes": 600, "saved_own_bytes": 20}
    eager = {"saved_bytes": 1000, "saved_own_bytes": 100}
    rows = [
        row(OURS, 4.0, **training, **ours),
        row(EAGER, 12.0, **training, **eager),
        row(FLOOR, 5.0, **training),
    ]
    found = goals(rows)
    assert found["time / library floor"][0] == 0.8
    assert found["speed-up over eager"][0] == 3.0
    kept = "memory kept for backward / eager's"
    assert found[f"{kept}, without own inputs and outputs"][::2] == (0.2, True)
    assert found[f"{kept}, with them"][::2] == (0.6, False)


@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize("direction", [FORWARD, TRAINING])
def test_goals_of_the_block_on_a_gpu(batch: int, direction: str) -> None:
    """Kernels alone, cold, bfloat16, channels_last; other rows answer no goal of it."""
    shape = f"AI-TOD 800x800, N={batch}, P2 200x200, hidden 256"
    group = {"shape": shape, "direction": direction, "dtype": "bfloat16", **CHANNELS_LAST}
    graph = {"clock": "graph", "cache": "cold"}
    rows = [
        row(OURS, 3.0, ran_on="cuda", **group, **graph),
        row(EAGER, 6.0, **group, **graph),
        row(COMPILE_MAX, 4.5, **group, **graph),
        row(FLOOR, 2.0, **group, **graph),
    ]
    (floor,) = [goal for goal in goals_of(rows) if goal.what.endswith("/ library floor")]
    assert (floor.measured, floor.met) == (1.5, False)
    assert f"N={batch}, cuda" in floor.what
    (eager,) = [goal for goal in goals_of(rows) if goal.what.endswith("over eager")]
    assert (eager.measured, eager.met) == (2.0, True)
    tuned = [goal for goal in goals_of(rows) if "max-autotune" in goal.what]
    assert [goal.measured for goal in tuned] == ([1.5] if direction == FORWARD else [])
    for change in ({"clock": "events", "cache": "warm"}, {"dtype": "float32"}):
        others = [row(o.variant, o.median_s, **(group | graph | change)) for o in rows]
        assert not [goal for goal in goals_of(others) if "floor" in goal.what]


def test_goals_of_cem_and_the_loss_on_a_gpu() -> None:
    graph = {"clock": "graph", "cache": "cold", "traffic_bytes": 1000}
    for operator, shape, direction in (
        ("CEM", "AI-TOD 800x800, N=1, P2 200x200", FORWARD),
        ("DCLoss", "10 000 000 elements", FORWARD),
        ("DCLoss", "10 000 000 elements", TRAINING),
    ):
        group = {"operator": operator, "shape": shape, "direction": direction, **graph}
        rows = [row(OURS, 1.25, ran_on="cuda", **group), row(COPY, 1.0, **group)]
        (goal,) = [goal for goal in goals_of(rows) if "copy" in goal.what]
        assert (round(goal.measured, 4), goal.met) == (0.8, False)
        rows = [row(OURS, 1.0, ran_on="cuda", **group), row(COPY, 1.0, **group)]
        (goal,) = [goal for goal in goals_of(rows) if "copy" in goal.what]
        assert goal.met


def test_goals_of_the_loss_on_a_cpu() -> None:
    group = {"operator": "DCLoss", "direction": TRAINING}
    small = group | {"shape": "2 048 elements"}
    found = goals([row(OURS, 1.0, **small), row(EAGER, 2.5, **small)])
    assert found["time / eager's"] == (0.4, "<= 0.40", True)
    large = {"operator": "DCLoss", "direction": FORWARD, "shape": "10 000 000 elements"}
    found = goals([row(OURS, 2.0, **large), row(COMPILE, 1.0, **large)])
    assert found["speed-up over torch.compile"] == (0.5, ">= 1.00", False)


def test_the_worst_error_counts_one_ulp_granted() -> None:
    eps = torch.finfo(torch.float32).eps
    rows = [
        row(OURS, 1.0, error=eps + 3e-6, eager_error=2e-6, repeatable=True),
        row(OURS, 1.0, error=eps / 2, eager_error=2e-6, repeatable=False),
        row(EAGER, 1.0, error=1.0, eager_error=1e-9),
    ]
    found = goals(rows)
    assert found["worst error over one ulp / eager's error"][::2] == (1.5, False)
    assert found["share of results that are bitwise repeatable"][::2] == (0.5, False)
    rows[1] = row(OURS, 1.0, error=0.0, eager_error=1e-6, repeatable=True)
    assert goals(rows)["share of results that are bitwise repeatable"][::2] == (1.0, True)


def test_a_result_of_which_nothing_is_known_is_not_repeatable() -> None:
    assert not goals([row(OURS, 1.0)])["share of results that are bitwise repeatable"][2]


def test_the_goals_table_says_what_was_measured() -> None:
    lines = report.goals_table(
        [Goal("first", "<= 1.20", 1.5, False), Goal("second", ">= 2.00", 2.5, True)]
    ).splitlines()
    assert [cell.strip() for cell in lines[2].split("|")[1:-1]] == ["first", "≤ 1.20", "1.50", "missed by 25%"]  # fmt: skip
    assert [cell.strip() for cell in lines[3].split("|")[1:-1]] == ["second", "≥ 2.00", "2.50", "met"]  # fmt: skip
