"""Derives the launch tables of the Triton backend anew, on the GPU at hand.

    python -m benchmarks.kernels.triton_tune [--kernels context_add,spatial_sum] [--batches 1,8]
                                     [--shapes aitod,visdrone,dota] [--json FILE]
    python -m benchmarks.kernels.triton_tune --offline sm_90      with no GPU: which candidates compile, and spill

Around every setting of ``efpn_kernels.triton.settings`` stand candidates: its numbers halved and doubled.
Each runs the operators that use it at the shapes of ``shapes``, in bfloat16 and float32, contiguous and
channels_last; its results are compared with those of the current setting, bit by bit (a reduction may
then differ by its rounding), and what spills is dropped. Times are of graphs on rotating arguments, cold in
L2 (``gpu_kernels``). A setting is replaced where another one is faster by 2 % in the geometric mean over its
cases, and for one size of maps where yet another one is faster than that by 2 % over the cases of this size.
Printed, and ready to paste: the table for this architecture. One data set takes an hour: ``--kernels``.
With ``TRITON_INTERPRET=1`` the candidates run small shapes on the CPU and only their results are compared.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
import triton
from torch import Tensor

from checking import cases
from checking.cases import Case, Maker
from efpn_kernels.triton import KERNELS, convolution, launch, settings
from efpn_kernels.triton.settings import Block, Flat, Limits, Patch, Setting

from ..environment import describe
from ..shapes import DATA_SETS, SMOKE, NeckShape
from . import gpu_kernels

FORMATS = tuple(itertools.product((torch.bfloat16, torch.float32), (True, False)))
LAUNCHERS = {kernel.__name__: kernel for kernel in (*KERNELS, convolution.relu_conv)}
GAIN = 0.98
MAX_WARPS = 16
PATCHES = ((8, 16), (4, 32), (16, 8))

Entry = tuple[str, str]
"""A kernel, and the most particular name of a class: ``("context_add", "channels_last/2/2**24")``."""

# Numbers that are no matter of speed: all channels must fit one program.
FIXED = {"upsampled_fwd_gated": ("run", "warps"), "fuse_bwd": ("rows",)}


def around(value: int, least: int = 1, most: int = 1 << 20) -> list[int]:
    return [v for v in (value, value // 2, value * 2) if least <= v <= most]


def candidates(kernel: str, setting: Setting) -> list[Setting]:
    """The setting itself, and those around it."""
    if isinstance(setting, Patch):
        axes = itertools.product(PATCHES, around(setting.channels, 32, 128), (3, 2, 4), (8, 4))
        found = [
            setting._replace(rows=r, columns=c, channels=k, stages=s, warps=w)
            for (r, c), k, s, w in axes
        ]
        return list(dict.fromkeys([setting, *found]))
    choices: dict[str, list[int]] = {"warps": around(setting.warps, 1, MAX_WARPS)}
    if isinstance(setting, Limits):
        choices |= {"run": around(setting.run, 8), "elements": around(setting.elements, 64)}
        for name in ("across", "walk", "per_warp"):
            value = getattr(setting, name)
            if value != Limits._field_defaults[name]:
                choices[name] = around(value)
    elif isinstance(setting, Block):
        choices |= {"rows": around(setting.rows), "columns": around(setting.columns)}
    elif isinstance(setting, Flat):
        choices |= {"block": around(setting.block, 256), "programs": around(setting.programs)}
    for name in FIXED.get(kernel, ()):
        choices.pop(name, None)
    return [
        setting._replace(**dict(zip(choices, values, strict=True)))
        for values in itertools.product(*choices.values())
    ]


def cases_of(shape: NeckShape) -> Iterator[Case]:
    """One case of each operator and variant at a shape."""
    N, C, H, W = shape.low
    h, w = shape.high[2:]
    D = shape.hidden
    yield from cases.pooled_cases([(shape.high, C)])
    yield from cases.level_cases([(N, D, h, w, H, W)])
    yield from cases.border_cases([(N, C, D, H, W)])
    yield from cases.map_cases([shape.low])
    yield from cases.loss_cases([(4 * N * H * W,)])
    if C % 64 == 0:
        yield Case("relu_conv", lambda m: [m.map(N, C, H, W), m.map(C, C, 3, 3), m.normal(C)], "")


def can_run(case: Case, dtype: torch.dtype, channels_last: bool) -> bool:
    if case.kernel == "relu_conv":
        return channels_last and dtype == torch.bfloat16
    return channels_last in case.formats


def entries_of(case: Case, args: list) -> dict[Entry, Setting]:
    """The settings that a case looks up; nothing is launched."""
    found: dict[Entry, Setting] = {}
    find = settings.find
    kernel_type = type(convolution.conv3x3_kernel)
    run = kernel_type.run

    def recorded(kernel: str, x: Tensor, shape_class: str = settings.ANY) -> Setting:
        setting = find(kernel, x, shape_class)
        name = settings.names(shape_class, x.element_size(), x.numel().bit_length())[0]
        found[kernel, name] = setting
        return setting

    settings.find = recorded
    kernel_type.run = lambda *args, **options: None
    try:
        LAUNCHERS[case.kernel](*args)
    finally:
        settings.find = find
        kernel_type.run = run
        launch._compiled.clear()
    return found


def results(case: Case, args: list) -> tuple[Tensor, ...]:
    """The tensors of one call, those changed in place among them."""
    args = gpu_kernels.clone_arguments(args)
    out = LAUNCHERS[case.kernel](*args)
    out = () if out is None else out if isinstance(out, tuple) else (out,)
    return (*out, *(a for a in args if isinstance(a, Tensor)))


def comparison(ours: tuple[Tensor, ...], theirs: tuple[Tensor, ...]) -> str:
    """``"bits"``, ``"rounding"``, or what differs by more than that."""
    worst = "bits"
    for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        if torch.equal(a, b):
            continue
        worst = "rounding"
        a, b = a.double(), b.double()
        eps = torch.finfo(ours[i].dtype).eps if ours[i].is_floating_point() else 0.0
        slack = 64 * torch.finfo(torch.float32).eps * b.abs().max()
        if not ((a - b).abs() <= eps * b.abs() + slack).all():
            return f"result {i} differs by {(a - b).abs().max().item():.2g}"
    return worst


class Bench:
    """Results of candidates, and on a GPU their spills and times, in one case."""

    def __init__(self, case: Case, args: list, timed: bool) -> None:
        self.case, self.args, self.timed = case, args, timed
        self.expected = results(case, args)
        size = gpu_kernels.tensor_bytes(self.args) + gpu_kernels.tensor_bytes(self.expected)
        count = gpu_kernels.rotations(size) if timed else 0
        self.copies = [gpu_kernels.clone_arguments(args) for _ in range(count)]

    def run(self) -> dict:
        """What the settings in force make of the case."""
        launch._compiled.clear()
        row: dict = {"result": comparison(results(self.case, self.args), self.expected)}
        if self.timed:
            row["spills"] = sum(kernel.n_spills for kernel, _ in launch._compiled.values())
            call = LAUNCHERS[self.case.kernel]
            row["us"] = gpu_kernels.graph_microseconds([lambda c=c: call(*c) for c in self.copies])
        return row


def offline(target: str, case: Case, args: list) -> dict:
    """What the compiler makes of the settings in force, for a GPU that is not here."""
    from checking.triton_report import TARGETS, Recorder, describe

    with Recorder(TARGETS[target]) as recorder:
        LAUNCHERS[case.kernel](*args)
    kernels = [describe(*launched, target) for launched in recorder.launches]
    return {
        "spills": sum(k["spill_bytes"] for k in kernels),
        "registers": [k["registers"] for k in kernels],
        "result": "not run",
    }


def usable(row: dict) -> bool:
    good = row.get("result") in ("bits", "rounding", "not run")
    return good and not row.get("spills") and "error" not in row


def best(rows: list[dict], current: Setting | None = None) -> Setting | None:
    """The fastest usable setting over all cases, if it gains enough over the current one.

    current: unless given, the one in force, which is the first of each case.
    """
    unusable = {row["setting"] for row in rows if not usable(row)}
    first: dict[Entry, Setting] = {}
    times: dict[Setting, dict[Entry, float]] = {}
    for row in rows:
        key = row["class"], row["case"]
        first.setdefault(key, row["setting"])
        if "us" in row and row["setting"] not in unusable:
            times.setdefault(row["setting"], {})[key] = row["us"]
    now = {key: times.get(current or setting, {}).get(key) for key, setting in first.items()}
    if None in now.values():
        return None
    ratios = {
        setting: statistics.geometric_mean(by[key] / us for key, us in now.items())
        for setting, by in times.items()
        if by.keys() == now.keys()
    }
    fastest = min(ratios, key=ratios.__getitem__, default=None)
    return fastest if fastest and ratios[fastest] < GAIN else None


def changes(rows: dict[Entry, list[dict]]) -> dict[Entry, Setting]:
    """Settings for classes of any size, and for single sizes where another one gains over those."""
    sizes: dict[Entry, list[str]] = {}
    for kernel, name in rows:
        sizes.setdefault((kernel, name.rpartition("/")[0]), []).append(name)
    found: dict[Entry, Setting] = {}
    for (kernel, any_size), names in sizes.items():
        common = best([row for name in names for row in rows[kernel, name]])
        found |= {(kernel, any_size): common} if common else {}
        for name in names:
            special = best(rows[kernel, name], common)
            found |= {(kernel, name): special} if special else {}
    return found


def table(architecture: str, found: dict[Entry, Setting]) -> str:
    """What to paste into ``settings.BY_ARCHITECTURE``."""
    lines = [f'BY_ARCHITECTURE["{architecture}"] = {{']
    for kernel, group in itertools.groupby(sorted(found), key=lambda entry: entry[0]):
        lines.append(f'    "{kernel}": {{')
        lines += [f'        "{name}": {found[kernel, name]},' for _, name in group]
        lines.append("    },")
    return "\n".join([*lines, "}"])


def shapes_of(data_sets: list[str], batches: list[int], interpreted: bool) -> list[NeckShape]:
    if interpreted:
        return [SMOKE]
    return [replace(DATA_SETS[name], batch=N) for name in data_sets for N in batches]


def tune(
    shapes: list[NeckShape], device: str, only: set[str], target: str | None
) -> Iterator[dict]:
    """One row for each candidate of each entry in each case."""
    makers = {"cuda": gpu_kernels.DeviceMaker, "cpu": Maker}
    if target:
        from checking.triton_report import TARGETS, MetaMaker, OfflineDriver

        triton.runtime.driver.set_active(OfflineDriver(TARGETS[target]))
    for shape, (dtype, channels_last) in itertools.product(shapes, FORMATS):
        layout = settings.CHANNELS_LAST if channels_last else settings.CONTIGUOUS
        for case in cases_of(shape):
            if not can_run(case, dtype, channels_last):
                continue
            format_ = dtype, channels_last
            args = case.build(MetaMaker(*format_) if target else makers[device](*format_, device))
            entries = {e: s for e, s in entries_of(case, args).items() if not only or e[0] in only}
            bench = Bench(case, args, device == "cuda") if entries and not target else None
            for (kernel, name), setting in entries.items():
                for candidate in candidates(kernel, setting):
                    row = {"kernel": kernel, "class": name, "setting": candidate}
                    row["case"] = f"{case.kernel} {case.id} {str(dtype)[6:]} {layout}"
                    try:
                        with settings.replaced(kernel, name, candidate):
                            row |= bench.run() if bench else offline(target, case, args)
                    except Exception as error:  # too much shared memory, too many registers
                        row["error"] = f"{type(error).__name__}: {error}"[:200]
                    yield row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kernels", default="", help="entries of the tables, separated by commas")
    parser.add_argument("--batches", default="1,8")
    parser.add_argument("--shapes", default="aitod", help=f"of {', '.join(DATA_SETS)}")
    parser.add_argument("--offline", metavar="TARGET", help="compile only, for sm_80, gfx942, ...")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    if interpreted:
        from checking import interpreter

        interpreter.install()
    if not (options.offline or interpreted or torch.cuda.is_available()):
        parser.error("needs a GPU, --offline TARGET, or TRITON_INTERPRET=1")
    data_sets = options.shapes.split(",")
    if unknown := set(data_sets) - DATA_SETS.keys():
        parser.error(f"--shapes: expected some of {', '.join(DATA_SETS)}, got {min(unknown)!r}")
    shapes = shapes_of(data_sets, [int(N) for N in options.batches.split(",")], interpreted)
    only = set(filter(None, options.kernels.split(",")))
    rows: dict[Entry, list[dict]] = {}
    for row in tune(shapes, "cpu" if interpreted else "cuda", only, options.offline):
        rows.setdefault((row["kernel"], row["class"]), []).append(row)
        mark = "" if usable(row) else "  DROPPED"
        print(*(f"{k}={v}" for k, v in row.items()), mark, flush=True)
    report = {
        "rows": [r | {"setting": str(r["setting"])} for group in rows.values() for r in group]
    }
    if not (options.offline or interpreted):
        report = describe("cuda") | report
        print(table(settings.architecture(torch.empty(0, device="cuda")), changes(rows)))
    if options.json:
        options.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
