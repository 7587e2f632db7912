"""Two runs of known times: what is slower is named and fails, what is noise or the machine's part does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import compare, report
from benchmarks.records import EAGER, FLOOR, OURS, Row
from benchmarks.tests.rows import row

ENVIRONMENT = {"device_type": "cpu", "device": "a processor", "cpu_capability": "AVX512"}
ENVIRONMENT |= {"threads": 2, "limits": "", "size": "quick"}
ENVIRONMENT |= dict.fromkeys(("torch", "python", "efpn_kernels", "date", "commit"), "1")


def run(folder: Path, rows: list[Row], **changes: object) -> str:
    report.write_json(folder, ENVIRONMENT | changes, rows, [])
    return str(folder)


@pytest.fixture
def compared(tmp_path: Path):
    def code(old: list[Row], new: list[Row], *options: str, **changes: object) -> int:
        arguments = run(tmp_path / "old", old), run(tmp_path / "new", new, **changes)
        return compare.main([*arguments, *options])

    return code


BASE = [row(OURS, 1.0), row(EAGER, 3.0), row(FLOOR, 2.0)]


@pytest.mark.parametrize(
    ("ours", "code"), [(1.0, 0), (1.04, 0), (1.06, 1), (0.5, 0)], ids=["same", "4%", "6%", "faster"]
)
def test_five_percent(compared, ours: float, code: int) -> None:
    assert compared(BASE, [row(OURS, ours), *BASE[1:]]) == code


def test_the_limit_can_be_set(compared) -> None:
    slower = [row(OURS, 1.5), *BASE[1:]]
    assert compared(BASE, slower, "--limit", "60") == 0
    assert compared(BASE, slower, "--limit", "40") == 1


def test_a_slower_machine_is_not_our_fault(compared) -> None:
    """All of it takes a fifth longer; the floor tells, and eager where there is none."""
    slower = [row(one.variant, 1.2 * one.median_s) for one in BASE]
    assert compared(BASE, slower) == 0
    assert compared(BASE[:2], slower[:2]) == 0
    # The floor counts before eager, and a faster machine does not hide what was lost.
    assert compared(BASE, [row(OURS, 1.2), row(EAGER, 3.0), row(FLOOR, 2.4)]) == 0
    assert compared(BASE, [row(OURS, 1.0), row(EAGER, 3.0), row(FLOOR, 1.6)]) == 1


def test_the_spread_is_granted(compared) -> None:
    noisy = [row(OURS, 1.1, spread=0.2), *BASE[1:]]
    assert compared(BASE, noisy) == 0  # 5 % and half of the quartiles' distance, 10 %
    assert compared(BASE, [row(OURS, 1.16, spread=0.2), *BASE[1:]]) == 1
    noisy_floor = [row(OURS, 1.1), row(EAGER, 3.0), row(FLOOR, 2.0, spread=0.2)]
    assert compared(BASE, noisy_floor) == 0


def test_cases_are_told_apart(compared, capsys: pytest.CaptureFixture) -> None:
    """By shape, format and backend; the slow one is named."""
    variants = [{}, {"memory_format": "channels_last"}, {"ran_on": "triton"}, {"shape": "another"}]
    old = [row(OURS, 1.0, **one) for one in variants]
    for i, one in enumerate(variants):
        new = list(old)
        new[i] = row(OURS, 1.3, **one)
        assert compared(old, new) == 1
        said = capsys.readouterr().out
        assert said.count("slower: ") == 1
        assert "4 cases" in said
        assert "1.300" in said


def test_a_case_that_is_gone_is_not_lost_silently(compared, capsys: pytest.CaptureFixture) -> None:
    old = [*BASE, row(OURS, 1.0, shape="another")]
    assert compared(old, BASE) == 1
    assert "missing: EFPNBS | another" in capsys.readouterr().out
    assert compared(old, BASE, "--partial") == 0
    assert compared(BASE, old) == 0, "more is no fault"


@pytest.mark.parametrize("change", [{"device": "another"}, {"threads": 1}, {"limits": "X=avx2"}])
def test_runs_of_different_machines_are_not_compared(compared, change: dict) -> None:
    assert compared(BASE, BASE, **change) == 2


def test_runs_without_a_common_case_are_not_compared(compared) -> None:
    assert compared(BASE, [row(OURS, 1.0, shape="another")]) == 2


def test_what_is_no_report_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as end:
        compare.main([str(tmp_path), str(tmp_path)])
    assert end.value.code == 2


def test_a_committed_report_compared_with_itself() -> None:
    for path in sorted((Path(compare.__file__).parent / "results").glob("*/report.json")):
        assert compare.main([str(path), str(path.parent)]) == 0
