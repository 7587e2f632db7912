"""Plants the faults of ``tests/faults`` one by one in a copy of the tree and runs the tests that should notice.

    python tests/mutate.py [--areas cpu triton] [--limit 10] [--again] [--report]

What each fault came to is kept in ``build/mutants/results.jsonl`` as it is known: a run that is stopped goes on
where it was, and a fault runs anew where it, its file or its tests have changed. ``--report`` writes the table
``tests/mutants.md``. Of C++ only the sources that include the changed file are compiled; the CUDA sources run in
their emulation, Triton's kernels in its interpreter.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch  # noqa: F401 - for the forks

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "csrc")]

import toolchain  # noqa: E402
from faults import AREAS, Fault, faults  # noqa: E402

import build_cpu  # noqa: E402

RESULTS = ROOT / "build" / "mutants" / "results.jsonl"
FOLDER = Path(os.environ.get("EFPN_KERNELS_MUTANTS") or RESULTS.parent)
"""Where the copy is: another one for another run at the same time."""
TREE = FOLDER / "tree"
SECONDS = 400
"""For the tests of one fault; those that take longer have noticed that something is wrong."""
CAUGHT = ("caught", "crashed", "ran too long")


def git(*arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout


def copy_tree() -> None:
    """The files that git knows, and the built library; only what differs is written."""
    wanted = set(git("ls-files", "--cached", "--others", "--exclude-standard").splitlines())
    wanted |= {"efpn_kernels/_cpu.abi3.so", "efpn_kernels/_build.json"}
    for name in wanted:
        source, target = ROOT / name, TREE / name
        if not source.is_file():
            continue
        if not target.exists() or target.read_bytes() != source.read_bytes():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)
    for path in TREE.rglob("*"):
        name = path.relative_to(TREE)
        if path.is_file() and name.parts[0] != "build" and str(name) not in wanted:
            path.unlink()


@contextmanager
def planted(fault: Fault) -> Iterator[None]:
    """The copy with the fault in it."""
    path = TREE / fault.file
    text = path.read_text()
    path.write_text(text.replace(fault.old, fault.new))
    try:
        yield
    finally:
        path.write_text(text)


def including(name: str) -> list[Path]:
    """The C++ sources of the CPU that a file is, or that include it."""
    folders = (TREE / "csrc" / "cpu", TREE / "csrc" / "common")
    changed, files = {Path(name).name}, [p for folder in folders for p in folder.iterdir()]
    while True:
        found = {
            path.name
            for path in files
            if changed & {n.split("/")[-1] for n in re.findall(r'"([\w/.]+\.h)"', path.read_text())}
        }
        if found <= changed:
            return sorted(p for p in folders[0].glob("*.cpp") if p.name in changed)
        changed |= found


@functools.cache
def compile_command() -> tuple[str, ...]:
    compiler, torch_dir = toolchain.find_compiler(), toolchain.find_torch()
    assert compiler is not None
    return (*compiler, *build_cpu.FLAGS, f"-I{torch_dir}/include")


def objects_of(sources: list[Path], folder: Path, *flags: str) -> dict[str, Path]:
    """The objects of sources, compiled into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    made = {}
    for source in sources:
        made[source.name] = folder / f"{source.stem}.o"
        toolchain.run([*compile_command(), *flags, "-c", str(source), "-o", str(made[source.name])])
    return made


def sound_objects() -> dict[str, Path]:
    """Those of all sources without a fault, from the objects that the build keeps, and the stamp."""
    sources = sorted((ROOT / "csrc" / "cpu").glob("*.cpp"))
    stamp = FOLDER / "stamp.cpp"
    stamp.write_text(toolchain.STAMP.source())
    compiler, torch_dir = toolchain.find_compiler(), toolchain.find_torch()
    command = [*compiler, *build_cpu.FLAGS, *toolchain.without_paths(torch_dir)]
    identity = toolchain.version_of(compiler)
    return {
        source.name: toolchain.compile_object(
            [*command, f"-I{torch_dir}/include"], identity, source, torch_dir
        )[0]
        for source in (*sources, stamp)
    }


def build_library(fault: Fault) -> Path:
    """The CPU library with the changed sources."""
    objects = sound_objects() | objects_of(including(fault.file), FOLDER / "objects", "-O1")
    output = FOLDER / "_cpu.abi3.so"
    output.unlink(missing_ok=True)
    libraries = [f"-L{toolchain.find_torch()}/lib", "-ltorch_cpu"]
    toolchain.run(
        [*compile_command(), "-shared", *map(str, objects.values()), *libraries, "-o", str(output)]
    )
    return output


def run_tests(tests: tuple[str, ...], area: str, **variables: str) -> tuple[str, str]:
    """What came of the tests, and which noticed first.

    In a fork of this process, which has imported torch already: that would take longer than most tests.
    """
    arguments = ["-x", "-q", "-p", "no:cacheprovider", *tests]
    if area == "triton":
        variables["TRITON_INTERPRET"] = "1"
        arguments += ["--backends", "triton", "-W", "ignore:overflow:RuntimeWarning"]
    output = FOLDER / "output.txt"
    child = os.fork()
    if child == 0:
        be_pytest(arguments, output, variables)
    code = wait(child)
    said = output.read_text(errors="replace")
    found = re.search(r"^(?:FAILED|ERROR) (\S+)", said, re.MULTILINE)
    first = found[1] if found else ""
    if code is None:
        return "ran too long", ""
    if code in (1, 2) and first:
        return "caught", first
    if code == 0:
        return "survived", ""
    return ("crashed", f"signal {-code}") if code < 0 else ("cannot run", said[-500:])


def be_pytest(arguments: list[str], output: Path, variables: dict[str, str]) -> None:
    """Become a process that runs tests of the copy; does not return."""
    os.setsid()
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(file, stream)
    code = 3
    try:
        places = [str(TREE), str(TREE / "integration")]
        os.environ.update(
            PYTHONPATH=":".join(places),
            PYTHONDONTWRITEBYTECODE="1",
            OMP_NUM_THREADS="1",
            **variables,
        )
        sys.dont_write_bytecode = True
        sys.path[:] = places + [
            p for p in sys.path if not p.startswith((f"{ROOT}/tests", f"{ROOT}/csrc"))
        ]
        for name in ("toolchain", "build_cpu", "faults"):
            sys.modules.pop(name, None)
        importlib.invalidate_caches()
        os.chdir(TREE)
        code = int(pytest.main(arguments))
    finally:
        sys.stdout.flush()
        os._exit(code)


def wait(child: int) -> int | None:
    """The exit status, negative for a signal; None, and an end to it, if it takes too long."""
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.1)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def try_fault(fault: Fault) -> tuple[str, str]:
    count = (TREE / fault.file).read_text().count(fault.old)
    if count != 1:
        return "cannot run", f"{fault.old!r} stands {count} times in {fault.file}"
    with planted(fault):
        variables = {}
        if fault.file.startswith(("csrc/cpu", "csrc/common")):
            try:
                variables["EFPN_KERNELS_CPU_LIBRARY"] = str(build_library(fault))
            except toolchain.BuildError as error:
                return "cannot run", str(error)[-500:]
        return run_tests(fault.tests, fault.area, **variables)


def key_of(fault: Fault) -> str:
    """Changes with the fault, its file and the files of its tests."""
    digest = hashlib.sha256(repr(fault).encode())
    for name in (fault.file, *(t.split("::")[0] for t in fault.tests)):
        path = ROOT / name
        digest.update(path.read_bytes() if path.is_file() else b"")
    return digest.hexdigest()[:16]


def known() -> dict[str, dict]:
    lines = RESULTS.read_text().splitlines() if RESULTS.exists() else []
    return {entry["key"]: entry for entry in map(json.loads, lines)}


def keep(key: str, outcome: str, first: str, start: float) -> dict:
    entry = {
        "key": key,
        "outcome": outcome,
        "noticed": first,
        "seconds": round(time.perf_counter() - start, 1),
        "commit": git("rev-parse", "--short", "HEAD").strip(),
    }
    with RESULTS.open("a") as file:
        file.write(json.dumps(entry) + "\n")
    return entry


def in_turn(chosen: list[Fault]) -> list[Fault]:
    """The first of every area, then the second: a run that is stopped has seen something of each."""
    place: dict[str, int] = {}
    numbered = []
    for fault in chosen:
        place[fault.area] = place.get(fault.area, 0) + 1
        numbered.append((place[fault.area], fault))
    return [fault for _, fault in sorted(numbered, key=lambda pair: pair[0])]


def run(chosen: list[Fault], again: bool) -> None:
    copy_tree()
    results = known()
    for number, fault in enumerate(in_turn(chosen), 1):
        key = key_of(fault)
        if key in results and not again:
            continue
        # Tests that fail without a fault would catch every one.
        sound = key_of(Fault("", "", "", fault.tests, fault.area))
        start = time.perf_counter()
        if sound not in results:
            outcome, first = run_tests(fault.tests, fault.area)
            if outcome != "survived":
                print(f"without a fault: {outcome} {first}: {' '.join(fault.tests)}", flush=True)
                continue
            results[sound] = keep(sound, "sound", "", start)
        start = time.perf_counter()
        entry = keep(key, *try_fault(fault), start)
        outcome, first = entry["outcome"], entry["noticed"]
        print(
            f"[{number}/{len(chosen)}] {fault.area}: {outcome}, {entry['seconds']} s: {fault.file}: "
            f"{fault.change}{'' if outcome == 'caught' else '  ' + first}",
            flush=True,
        )


def report() -> str:
    """The table of all areas, then every fault that was run and not caught."""
    results, rows, rest, commits = known(), [], [], set()
    total = [0, 0, 0]
    for area in AREAS:
        listed = faults((area,))
        found = [(fault, results.get(key_of(fault))) for fault in listed]
        ran = [(f, r) for f, r in found if r is not None and r["outcome"] != "cannot run"]
        caught = sum(r["outcome"] in CAUGHT for _, r in ran)
        commits |= {r["commit"] for _, r in ran}
        numbers = len(listed), len(ran), caught
        total = [a + b for a, b in zip(total, numbers)]
        rows.append(f"| {area} | {' | '.join(map(str, numbers))} |")
        for fault, result in found:
            if result is not None and result["outcome"] != "caught":
                rest.append(f"- {area}, {result['outcome']}: `{fault.file}`: `{fault.change}`")
    rows.append(f"| **all** | {' | '.join(f'**{n}**' for n in total)} |")
    return "\n".join(
        [
            "# Planted faults",
            "",
            f"`make mutants`, {time.strftime('%Y-%m-%d')}, at {', '.join(sorted(commits)) or 'no commit'}: "
            f"{total[0]} single faults are listed in `tests/faults`, {total[1]} of them were run, "
            f"{total[2]} were noticed.",
            "",
            "| area | listed | run | caught |",
            "|---|---:|---:|---:|",
            *rows,
            "",
            "## Run, and not caught by a failing test",
            "",
            *(rest or ["None."]),
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--areas", nargs="+", choices=AREAS, default=AREAS)
    parser.add_argument("--limit", type=int, help="of the chosen areas, the first so many faults")
    parser.add_argument("--again", action="store_true", help="also what is known already")
    parser.add_argument("--report", action="store_true", help="only write tests/mutants.md")
    arguments = parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    if not arguments.report:
        run(faults(tuple(arguments.areas))[: arguments.limit], arguments.again)
    (ROOT / "tests" / "mutants.md").write_text(report())


if __name__ == "__main__":
    main()
