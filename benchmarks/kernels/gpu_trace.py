"""What a GPU does in a training step: kernels in order with the gaps between them, and the host's threads.

    python -m benchmarks.kernels.gpu_trace --json trace.json

Twenty training steps of the block at a detector's shape, ordinary calls in bfloat16 channels_last, recorded
by ``torch.profiler``; the same of eager beside it. A gap is the time that the GPU waited before a kernel;
the lag is the time from its launch to its start. The profiler slows the host down: ratios, not records.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

import efpn_kernels

from ..environment import describe
from ..records import EAGER, OURS, TRAINING
from ..report import table

STEPS, WARM_UP = 20, 5
STEP = "efpn_step"
MOST_OPERATORS = 25
ON_DEVICE = ("kernel", "gpu_memcpy", "gpu_memset")
LAUNCHES = ("cuda_runtime", "cuda_driver")

Event = dict[str, Any]
Interval = tuple[float, float]


def record(step: Callable[[], object]) -> list[Event]:
    """The trace's events of :data:`STEPS` steps, each within a :data:`STEP` of the host."""
    for _ in range(WARM_UP):
        step()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        for _ in range(STEPS):
            with record_function(STEP):
                step()
            torch.cuda.synchronize()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        return json.loads(path.read_text())["traceEvents"]


def steps_of(events: Iterable[Event]) -> list[list[Event]]:
    """The work on the device, step by step, in the order in which it ran.

    A kernel belongs to the step in which it was launched.
    """
    events = [event for event in events if event.get("ph") == "X" and "cat" in event]
    marks = sorted(
        (event["ts"], event["ts"] + event["dur"])
        for event in events
        if event["name"] == STEP and event["cat"] == "user_annotation"
    )
    launched = {
        event["args"]["correlation"]: event
        for event in events
        if event["cat"] in LAUNCHES and "correlation" in event.get("args", {})
    }
    steps: list[list[Event]] = [[] for _ in marks]
    for event in sorted(events, key=lambda event: event["ts"]):
        launch = launched.get(event.get("args", {}).get("correlation"))
        if event["cat"] not in ON_DEVICE or launch is None:
            continue
        for (start, end), step in zip(marks, steps, strict=True):
            if start <= launch["ts"] <= end:
                step.append(event | {"launch": launch["ts"], "thread": launch["tid"]})
    return steps


def kernels(steps: Sequence[Sequence[Event]]) -> list[dict[str, Any]]:
    """One row for each kernel of a step: medians over the steps that ran the same kernels as most."""
    sequences = [tuple(event["name"] for event in step) for step in steps]
    usual = statistics.mode(sequences)
    same = [step for step, names in zip(steps, sequences, strict=True) if names == usual]
    rows = []
    for i, name in enumerate(usual):
        events = [step[i] for step in same]
        ends = [max((one["ts"] + one["dur"] for one in step[:i]), default=None) for step in same]
        gaps = [
            max(event["ts"] - end, 0.0)
            for event, end in zip(events, ends, strict=True)
            if end is not None
        ]
        rows.append(
            {
                "kernel": name,
                "us": statistics.median(event["dur"] for event in events),
                "gap_us": statistics.median(gaps) if gaps else 0.0,
                "lag_us": statistics.median(event["ts"] - event["launch"] for event in events),
                "thread": statistics.mode(event["thread"] for event in events),
            }
        )
    return rows


def lanes(events: Iterable[Event], steps: int) -> list[dict[str, Any]]:
    """For each thread of the host: time in operators and in launches, launches a step."""
    events = [event for event in events if event.get("ph") == "X" and "cat" in event]
    found = []
    threads = {event["tid"] for event in events if event["cat"] in LAUNCHES}
    for thread in sorted(threads, key=str):
        own = [event for event in events if event["tid"] == thread]
        operators = [_interval(one) for one in own if one["cat"] == "cpu_op"]
        calls = [_interval(one) for one in own if one["cat"] in LAUNCHES]
        launches = [one for one in own if "Launch" in one["name"] and one["cat"] in LAUNCHES]
        found.append(
            {
                "thread": thread,
                "busy_us": covered([*operators, *calls]) / steps,
                "launching_us": covered(calls) / steps,
                "launches": len(launches) / steps,
            }
        )
    return found


def operators(events: Iterable[Event], steps: int) -> list[dict[str, Any]]:
    """What the host's time goes to: operators and launches by their own time, without what they call."""
    events = [e for e in events if e.get("ph") == "X" and e.get("cat") in ("cpu_op", *LAUNCHES)]
    own: dict[str, list[float]] = {}
    for thread in {event["tid"] for event in events}:
        around: list[tuple[str, float]] = []
        for event in sorted(
            (event for event in events if event["tid"] == thread),
            key=lambda event: (event["ts"], -event["dur"]),
        ):
            while around and around[-1][1] <= event["ts"]:
                around.pop()
            if around:
                own[around[-1][0]][0] -= event["dur"]
            sums = own.setdefault(event["name"], [0.0, 0.0])
            sums[0] += event["dur"]
            sums[1] += 1
            around.append((event["name"], event["ts"] + event["dur"]))
    ordered = sorted(own.items(), key=lambda item: -item[1][0])[:MOST_OPERATORS]
    return [
        {"operator": name, "own_us": time / steps, "calls": calls / steps}
        for name, (time, calls) in ordered
    ]


def _interval(event: Event) -> Interval:
    return event["ts"], event["ts"] + event["dur"]


def covered(intervals: Iterable[Interval]) -> float:
    """The length of the union."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(intervals):
        total += max(end - max(start, reached), 0.0)
        reached = max(reached, end)
    return total


def summary(events: list[Event]) -> dict[str, Any]:
    """Kernels, lanes, operators and sums of a trace; of a step: work on the device, gaps, launches."""
    steps = steps_of(events)
    rows = kernels(steps)
    return {
        "steps": len(steps),
        "kernels": rows,
        "lanes": lanes(events, len(steps)),
        "operators": operators(events, len(steps)),
        "kernels_us": sum(row["us"] for row in rows),
        "gaps_us": sum(row["gap_us"] for row in rows),
        "launches": len(rows),
    }


def markdown(name: str, found: dict[str, Any]) -> str:
    """Both tables and the sums."""
    kernel_cells = [
        (str(i), row["kernel"][:90].replace("|", "/"), f"{row['us']:.1f} us",
         f"{row['gap_us']:.1f} us", f"{row['lag_us']:.1f} us", str(row["thread"]))
        for i, row in enumerate(found["kernels"], 1)
    ]  # fmt: skip
    lane_cells = [
        (str(row["thread"]), f"{row['busy_us']:.0f} us", f"{row['launching_us']:.0f} us",
         f"{row['launches']:.1f}")
        for row in found["lanes"]
    ]  # fmt: skip
    operator_cells = [
        (row["operator"][:60], f"{row['own_us']:.1f} us", f"{row['calls']:.1f}")
        for row in found["operators"]
    ]
    return (
        f"### {name}\n\n{found['launches']} launches a step, {found['kernels_us']:.0f} us of kernels, "
        f"{found['gaps_us']:.0f} us of gaps between them; medians of {found['steps']} steps.\n\n"
        + table(("", "kernel", "time", "gap before", "lag", "launched by"), kernel_cells)
        + "\n"
        + table(("thread", "busy a step", "in launches", "launches"), lane_cells)
        + "\n"
        + table(("on the host", "own time a step", "calls"), operator_cells)
    )


def training_step(variant: str, backend: str) -> Callable[[], object]:
    """An ordinary training step of the block at a detector's shape."""
    from ..baselines import Entrant, build
    from ..shapes import AITOD
    from ..step import Step
    from ..workload import Group, Workload

    work = Workload(
        operator="EFPNBS",
        shape=AITOD.block_label,
        arguments={"high_channels": AITOD.channels, "low_channels": AITOD.channels},
        input_shapes=(AITOD.low, AITOD.high),
        differentiable=(True, True),
        dtype=torch.bfloat16,
    )
    group = Group(work, TRAINING, "warm", "events", (EAGER,), 0.0)
    entrant = Entrant(variant, "channels_last", backend if variant == OURS else None)
    step = Step(
        build(entrant, group, "cuda", 1), work.input_sets("cuda", "channels_last", 1), TRAINING
    )

    def run() -> object:
        with efpn_kernels.use_backend(backend):
            return step(lambda: None)

    return run


def main() -> None:
    """Trace ours on each backend, and eager."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backends", default="cuda,triton", help="comma-separated")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.backends.cudnn.benchmark = True
    report: dict[str, Any] = {"environment": describe("cuda"), "traces": {}}
    wanted = [(OURS, backend) for backend in options.backends.split(",")]
    for variant, backend in [*wanted, (EAGER, "reference")]:
        name = f"{variant} ({backend})" if variant == OURS else variant
        found = summary(record(training_step(variant, backend)))
        report["traces"][name] = found
        print(markdown(name, found), flush=True)
        if options.json:
            options.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
