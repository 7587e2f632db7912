"""The GPU check rehearsed on a CPU: parts that pass, fail, hang, crash and lose their device."""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from benchmarks.kernels import gpu_check, gpu_parts, gpu_process, gpu_results
from benchmarks.kernels.gpu_process import Part, run_part
from benchmarks.kernels.gpu_results import LARGEST, TABLE

ROOT = Path(__file__).resolve().parents[2]

ENVIRONMENT = {"device_type": "cpu", "device": "a stub", "commit": "abc", "torch": "2"}
ENVIRONMENT |= {"python": "3", "efpn_kernels": "0", "date": "today"}
ENVIRONMENT |= {"cpu_capability": "a", "threads": 1}

# Cases a..d of a table; `b` does what the first argument says, in every process that meets it.
TABLE_PART = f"""
import os, signal, sys, time
from benchmarks.kernels import table
how, path, *options = sys.argv[1:]
lost = []
table.poisoned = lambda device: bool(lost)
def case(name):
    if name == "b" and how == "crash":
        os.kill(os.getpid(), signal.SIGKILL)
    if name == "b" and how == "hang":
        time.sleep(600)
    if name == "b" and how == "lose":
        lost.append(1)
    if lost:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")
    if name == "b" and how == "error":
        raise ValueError("only this case")
    return {{"us": 1.0, "process": os.getpid()}}
from pathlib import Path
rows = table.Table(Path(path), {ENVIRONMENT!r}, "--continue" in options)
for name in "abcd":
    rows.measure({{"case": name}}, lambda: case(name))
sys.exit(any("error" in row for row in rows.rows))
"""

TESTS = """
import pytest
from benchmarks.kernels import outcomes

lost = []
outcomes.poisoned = lambda device: bool(lost)

@pytest.mark.parametrize("number", range(12))
def test_number(number):
    if number == 3:
        lost.append(number)
    assert not lost, "CUDA error: an illegal memory access was encountered"
    assert number != 7, "seven"
    if number == 9:
        import os, signal
        os.kill(os.getpid(), signal.SIGKILL)
"""

REPORT_PART = f"""
import sys
from pathlib import Path
from benchmarks import report
from benchmarks.records import Row
key = ("EFPNBS", "AI-TOD 800x800, N=1, hidden 256", "bfloat16", "forward", "cold", "graph")
rows = [Row(*key, variant, "channels_last", ran_on, ran_on, *(seconds,) * 4, (seconds,), 1, None)
        for variant, ran_on, seconds in (("efpn_kernels", "cuda", 1.0), ("library floor", None, 2.0))]
report.write_json(Path(sys.argv[1]), {ENVIRONMENT!r}, rows, [])
"""


WRITING_PART = """
import json, sys
open(sys.argv[1], "w").write(json.dumps({"rows": [{"launches": 5}]}))
"""


def python(code: str, *arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-c", code, *arguments)


def table_part(work: Path, how: str, seconds: float = 60) -> Part:
    return Part(how, python(TABLE_PART, how, str(work / how / TABLE)), seconds, continues=True)


def part_of_tests(work: Path, file: Path, *options: str) -> Part:
    command = (sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", str(file), *options)
    plugin = ("-p", "benchmarks.kernels.outcomes", f"--outcomes={work / 'tests'}")
    return Part("tests", (*command, *plugin), 120, continues=True)


def read(path: Path) -> dict:
    return json.loads(path.read_text())


def statuses(folder: Path) -> dict[str, str]:
    return {one["part"]: one["status"] for one in read(folder / "parts.json")["parts"]}


def test_a_whole_check(tmp_path: Path) -> None:
    """Whatever a part does, the others run, and what it found before is in the folder."""
    file = tmp_path / "test_planted.py"
    file.write_text(TESTS)

    def parts(work: Path) -> list[Part]:
        return [
            Part("fails", python("print('no compiler'); raise SystemExit(3)"), 20),
            part_of_tests(work, file),
            Part("kernels", python(TABLE_PART, "pass", str(work / "kernels" / TABLE)), 60),
            table_part(work, "error"),
            table_part(work, "lose"),
            table_part(work, "crash"),
            table_part(work, "hang", 12),
            Part("block", python(REPORT_PART, str(work / "block")), 60),
            Part("trace", python(WRITING_PART, str(work / "trace" / TABLE)), 30),
            Part("noisy", python("print('x' * 20_000_000)"), 30),
            Part("after", python("print('heard all the same')"), 30),
            Part("absent", ("no-such-program",), 5, needs="no-such-program"),
        ]

    folder = tmp_path / "results"
    assert gpu_check.check(folder, parts, minutes=9) == 1
    said = statuses(folder)
    assert said["fails"] == "failed with exit code 3"
    assert said["tests"] == "ok in the last of 3 processes"
    assert said["kernels"] == said["block"] == said["trace"] == said["noisy"] == "ok"
    assert said["error"] == "failed with exit code 1"
    assert said["lose"] == said["crash"] == "failed with exit code 1 in the last of 2 processes"
    assert said["hang"] == "stopped after 12 s"
    assert said["absent"] == "absent: no no-such-program"

    # After an ordinary error the process goes on; after the others a fresh one measures the rest.
    tables = read(folder / "tables.json")
    assert tables["trace"]["rows"] == [{"launches": 5}]
    for how in ("error", "lose", "crash"):
        rows = {row["case"]: row for row in tables[how]["rows"]}
        assert list(rows) == list("abcd")
        assert [name for name in rows if "error" in rows[name]] == ["b"]
        same_process = rows["a"]["process"] == rows["d"]["process"]
        assert same_process == (how == "error")
    assert [row["case"] for row in tables["hang"]["rows"]] == ["a"]

    # Tests: the names of those that failed, with why, and of the one that killed its process.
    tests = read(folder / "tests.json")
    assert tests["counts"] == {"passed": 9, "skipped": 0, "failed": 2, "died": 1}
    assert sorted(name.rpartition("[")[2] for name in tests["failed"]) == ["3]", "7]", "9]"]
    messages = {name: tests["tests"][name]["message"] for name in tests["failed"]}
    assert {"illegal memory access" in text for n, text in messages.items() if "3]" in n} == {True}

    # At most seven files, none too large to be brought home, and a report that says all of it.
    files = list(folder.iterdir())
    assert len(files) <= 7
    assert all(path.stat().st_size < 16 * 2**20 for path in files)
    text = (folder / "report.md").read_text()
    for expected in ("0.50", "met", "test_number[7]", "illegal memory access", "stopped after"):
        assert expected in text
    assert read(folder / "report.json")["environment"]["device"] == "a stub"
    log = (folder / "gpu_check.log").read_text()
    assert "no compiler" in log
    assert "heard all the same" in log, "a part that says too much takes no room from the others"


def test_a_run_that_was_cut_off_goes_on(tmp_path: Path) -> None:
    """What has ended is not run again, what was cut off goes on with its rows, the rest is run."""
    counts = tmp_path / "counts"
    counts.mkdir()
    count = f"""
import sys, pathlib
open({str(counts)!r} + "/" + sys.argv[1], "a").write("x")
print("rows of before:", all(pathlib.Path(name).exists() for name in sys.argv[2:]))
"""

    def parts(work: Path) -> list[Part]:
        return [
            Part("first", python(count, "first"), 20),
            table_part(work, "hang", 8),
            Part("block", python(REPORT_PART, str(work / "block")), 60),
            Part("last", python(count, "last", str(work / "last" / "report.json")), 20),
        ]

    folder = tmp_path / "results"
    gpu_check.check(folder, parts, wanted=["first", "hang", "block"])
    kept = read(folder / "tables.json")["hang"]["rows"]
    assert [row["case"] for row in kept] == ["a"]
    assert statuses(folder) == {"first": "ok", "hang": "stopped after 8 s", "block": "ok"}

    def without_the_hang(work: Path) -> list[Part]:
        found = parts(work)
        found[1] = Part(
            "hang", python(TABLE_PART, "pass", str(work / "hang" / TABLE)), 60, continues=True
        )
        return found

    assert gpu_check.check(folder, without_the_hang, resume=True) == 0
    assert statuses(folder) == dict.fromkeys(("first", "hang", "block", "last"), "ok")
    assert (counts / "first").read_text() == "x"
    assert (counts / "last").read_text() == "x"
    assert "rows of before: True" in (folder / "gpu_check.log").read_text().split("==== last")[1]
    rows = read(folder / "tables.json")["hang"]["rows"]
    assert rows[0] == kept[0]
    assert [row["case"] for row in rows] == list("abcd")
    assert len(read(folder / "report.json")["rows"]) == 2


def test_the_check_keeps_within_its_time(tmp_path: Path) -> None:
    def parts(work: Path) -> list[Part]:
        return [
            Part("slow", python("import time; time.sleep(60)"), 60),
            Part("late", python("print('never')"), 60),
        ]

    minutes = (gpu_check.RESERVE_S + 4) / 60
    assert gpu_check.check(tmp_path, parts, minutes=minutes) == 1
    assert statuses(tmp_path) == {"slow": "stopped after 4 s", "late": "skipped: no time left"}


def test_a_part_that_will_not_stop_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its children, whatever they do with signals."""
    pids = tmp_path / "pids"
    code = f"""
import os, signal, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
child = os.fork()
if child:
    print("deaf", flush=True)
    open({str(pids)!r}, "w").write(f"{{os.getpid()}} {{child}}")
time.sleep(60)
"""
    monkeypatch.setattr(gpu_process, "GRACE_S", 1)
    outcome = run_part(Part("deaf", python(code), 3), 3, {})
    assert outcome.status == "stopped after 3 s"
    assert outcome.seconds < 60  # that of its sleep
    assert outcome.last_line == "deaf"
    alive = [pid for pid in pids.read_text().split() if state(pid) not in ("", "Z")]
    assert not alive


def state(pid: str) -> str:
    """Of a process, as the system names it; nothing if it is gone."""
    file = Path("/proc", pid, "stat")
    return file.read_text().rpartition(")")[2].split()[0] if file.exists() else ""


@pytest.mark.skipif(find_spec("xdist") is None, reason="pytest-xdist is not installed")
def test_workers_of_xdist_are_replaced(tmp_path: Path) -> None:
    file = tmp_path / "test_planted.py"
    file.write_text(TESTS)
    folder = tmp_path / "results"

    def parts(work: Path) -> list[Part]:
        return [part_of_tests(work, file, "-n", "2")]

    gpu_check.check(folder, parts)
    counts = read(folder / "tests.json")["counts"]
    assert counts["passed"] == 9
    assert counts["failed"] + counts["died"] == 3


def test_the_real_parts_fit_their_time_and_exist() -> None:
    """Names are unique, modules and files are there, and the budgets leave time for all tests."""
    parts = gpu_parts.parts(Path("work"))
    names = [part.name for part in parts]
    assert len(set(names)) == len(names)
    *budgets, rest = (part.budget_s for part in parts)
    assert sum(budgets) <= 60 * gpu_check.MINUTES - gpu_check.RESERVE_S - 20
    assert rest > 60
    first = names.index
    assert first("tests") < first("memcheck") < first("kernels") < first("trace") < first("block")
    for part in parts:
        for word in part.command:
            if word.startswith("benchmarks.kernels."):
                assert find_spec(word), word
            elif word.endswith(".py"):
                assert (ROOT / word.removeprefix("--ignore=")).exists(), word


def test_a_table_that_is_too_large_stays_json(tmp_path: Path) -> None:
    rows = [{"case": number, "text": "x" * 1000} for number in range(20_000)]
    gpu_results._write_rows(tmp_path / "kernels.json", {"rows": rows})
    found = read(tmp_path / "kernels.json")
    assert (tmp_path / "kernels.json").stat().st_size <= LARGEST
    assert found["rows_left_out"] + len(found["rows"]) == len(rows)
    assert found["rows"] == rows[: len(found["rows"])]
