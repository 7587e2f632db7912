"""The benchmarks: what is timed, judged, compared and printed."""

BENCHMARKS = "benchmarks/"


def tests(*names: str) -> tuple[str, ...]:
    return tuple(f"benchmarks/tests/test_{name}.py" for name in names)


NUMBERS = tests("numbers", "reports")

FAULTS = (
    (
        BENCHMARKS + "accuracy.py",
        "return self.error <= self.limit",
        "return True",
        tests("accuracy", "harness"),
    ),
    (
        BENCHMARKS + "accuracy.py",
        "SLACK = 1.25\n",
        "SLACK = 12.5\n",
        tests("accuracy", "harness", "numbers"),
    ),
    (
        BENCHMARKS + "accuracy.py",
        "for draws in (self.workload.draws, DRAWS):",
        "for draws in (1,):",
        tests("accuracy"),
    ),
    (
        BENCHMARKS + "accuracy.py",
        "torch.stack(list(draws)).sum(0)",
        "torch.stack(list(draws)).amin(0)",
        tests("accuracy"),
    ),
    (
        BENCHMARKS + "accuracy.py",
        "module = module.double()",
        "module = module.float()",
        tests("accuracy", "harness"),
    ),
    (
        BENCHMARKS + "timers.py",
        "return Sample(total / self.calls, self._forward / self.calls or None)",
        "return Sample(total / self.calls / 2, self._forward / self.calls or None)",
        tests("timers", "harness"),
    ),
    (
        BENCHMARKS + "timers.py",
        "(self.replays * self.calls))",
        "self.replays)",
        tests("timers", "graphs"),
    ),
    (
        BENCHMARKS + "timers.py",
        'factor = 4 if device == "cuda" else 2',
        "factor = 1",
        tests("timers", "harness"),
    ),
    (
        BENCHMARKS + "goals.py",
        "measured, measured <= bound)]",
        "measured, measured >= bound)]",
        NUMBERS,
    ),
    (
        BENCHMARKS + "goals.py",
        "else self.ours.median_s / other.median_s",
        "else other.median_s / self.ours.median_s",
        NUMBERS,
    ),
    (
        BENCHMARKS + "goals.py",
        'name + "speed-up over eager", eager, 3.0)',
        'name + "speed-up over eager", eager, 1.05)',
        NUMBERS,
    ),
    (
        BENCHMARKS + "goals.py",
        "share = sum(map(bool, repeatable)) / len(repeatable)",
        "share = 1.0",
        NUMBERS,
    ),
    (
        BENCHMARKS + "memory.py",
        "if key not in hidden and not storage.expired()",
        "if key in hidden and not storage.expired()",
        tests("memory"),
    ),
    (
        BENCHMARKS + "memory.py",
        "(*parameters, *inputs, *outputs)",
        "(*parameters, *inputs)",
        tests("memory"),
    ),
    (
        BENCHMARKS + "compare.py",
        "if self.corrected > margin:",
        "if self.corrected < margin:",
        tests("compare"),
    ),
    (
        BENCHMARKS + "compare.py",
        "return self.ratio / self.drift",
        "return self.ratio * self.drift",
        tests("compare"),
    ),
    (
        BENCHMARKS + "harness.py",
        "ran_on = efpn_kernels.explain(*inputs).backend",
        'ran_on = "cpu"',
        tests("harness", "numbers"),
    ),
    (
        BENCHMARKS + "harness.py",
        "repeatable = all(map(_same_bits, results, again))",
        "repeatable = True",
        tests("harness"),
    ),
    (
        BENCHMARKS + "harness.py",
        "SLACKS = {OURS: SLACK,",
        "SLACKS = {OURS: BASELINE_SLACK,",
        tests("harness", "accuracy"),
    ),
    (
        BENCHMARKS + "baselines.py",
        "return Candidate(entrant, fused_module(workload, device, memory_format))",
        "return Candidate(entrant, eager_module(workload, device, memory_format))",
        tests("harness", "floor", "numbers"),
    ),
)
