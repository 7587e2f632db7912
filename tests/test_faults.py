"""The lists of planted faults fit the sources: what a fault changes stands there, and its tests are there."""

from __future__ import annotations

from pathlib import Path

import pytest
from faults import AREAS, Fault, faults

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("area", AREAS)
def test_what_a_fault_changes_stands_once_in_its_file(area: str) -> None:
    def times(fault: Fault) -> int:
        path = ROOT / fault.file
        return path.read_text().count(fault.old) if path.is_file() else -1

    listed = faults((area,))
    assert listed
    assert not [f"{fault.file}: {fault.old!r}" for fault in listed if times(fault) != 1]
    assert all(fault.old != fault.new for fault in listed)


@pytest.mark.parametrize("area", AREAS)
def test_the_tests_of_a_fault_are_there(area: str) -> None:
    """Beside them are options of pytest."""
    names = {name.split("::")[0] for fault in faults((area,)) for name in fault.tests}
    files = {name for name in names if name.startswith(("tests/", "benchmarks/"))}
    assert files
    assert not [name for name in files if not (ROOT / name).is_file()]


def test_no_fault_is_listed_twice() -> None:
    listed = [(fault.file, fault.old, fault.new) for fault in faults()]
    assert len(set(listed)) == len(listed)
