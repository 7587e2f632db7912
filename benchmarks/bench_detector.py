"""The whole detector: what the neck and the loss cost where a user feels it.

Faster R-CNN with ResNet-50 and RFLA in three forms, interleaved: with FPN, with E-FPN-BS and DCLoss in
plain PyTorch, and with the same on the fused kernels. The necks are timed alone as well, on the features
of the same backbone, for their share. Needs mmdet; ``pytest benchmarks/`` leaves it out unless it is
given ``--size full``. Alone: ``python -m benchmarks.bench_detector --help``.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from benchmarks.environment import ROOT, describe, slug, version
from benchmarks.memory import Memory, measure_memory
from benchmarks.report import headline
from benchmarks.timers import Sample, Sampler, estimate, make_sampler
from efpn_kernels import use_backend

FPN, REFERENCE, FUSED = "FPN", "E-FPN-BS reference", "E-FPN-BS fused"
TRAINING, INFERENCE = "training", "inference"
BACKENDS = {FPN: "auto", REFERENCE: "reference", FUSED: "auto"}
CONFIGS = {FPN: "rfla_aitod.py", REFERENCE: "efpn_bs_aitod.py", FUSED: "efpn_bs_aitod.py"}
BOXES = 100  # of 12 pixels an image, about as many and as small as AI-TOD's


@dataclass(frozen=True)
class Setting:
    """What is measured."""

    device: str
    image_size: int = 800
    images: int = 2
    rounds: int = 7


@dataclass
class Entry:
    """A detector or its neck in one direction, with what was measured of it."""

    variant: str
    direction: str
    part: str  # "detector" or "neck"
    memory: Memory
    sampler: Sampler
    samples: list[Sample] = field(default_factory=list)

    @property
    def median_s(self) -> float:
        """Seconds per call."""
        return statistics.median(sample.total for sample in self.samples)

    def to_json(self) -> dict[str, object]:
        """Plain data."""
        return {
            "variant": self.variant,
            "direction": self.direction,
            "part": self.part,
            "median_s": self.median_s,
            "samples_s": [sample.total for sample in self.samples],
            "forward_s": [sample.forward for sample in self.samples],
            "peak_bytes": self.memory.peak,
            "saved_bytes": self.memory.saved,
        }


def measure(setting: Setting, progress: Callable[[str], None] = print) -> list[Entry]:
    """Every entry, measured A B C A B C ... in one process."""
    detectors = build_detectors(setting)
    data = make_batch(setting)
    entries = []
    for variant, detector in detectors.items():
        features = tuple(one.detach().requires_grad_() for one in _features(detector, data))
        for direction in (TRAINING, INFERENCE):
            for part, step in (
                ("detector", DetectorStep(detector, data, direction, BACKENDS[variant])),
                ("neck", NeckStep(detector.neck, features, direction, BACKENDS[variant])),
            ):
                progress(f"checking {variant}, {direction}, {part}")
                memory = step.memory()
                seconds = estimate(step, setting.device)
                clock = "events" if setting.device == "cuda" else "wall"
                sampler = make_sampler(clock, step, seconds, 1)
                entries.append(Entry(variant, direction, part, memory, sampler))
    for number in range(setting.rounds):
        progress(f"round {number + 1}/{setting.rounds}")
        for entry in entries:
            entry.samples.append(entry.sampler())
    return entries


def build_detectors(setting: Setting) -> dict[str, nn.Module]:
    """The three forms, with the same weights wherever they have the same layers."""
    from mmdet.registry import MODELS
    from mmdet.utils import register_all_modules
    from mmengine.config import Config

    from efpn_mmdet.config_files import find_config

    register_all_modules()
    torch.manual_seed(0)
    detectors = {}
    for variant, name in CONFIGS.items():
        config = Config.fromfile(find_config(Path("faster_rcnn") / name))
        config.model.backbone.init_cfg = None
        detectors[variant] = MODELS.build(config.model).to(setting.device)
    plain = detectors[FPN].state_dict()
    shared = {name.replace("neck.", "neck.base."): value for name, value in plain.items()}
    detectors[REFERENCE].load_state_dict(shared, strict=False)
    detectors[FUSED].load_state_dict(detectors[REFERENCE].state_dict())
    return detectors


def make_batch(setting: Setting) -> dict[str, list]:
    """What a data loader gives: uint8 noise, and small boxes in it."""
    from mmdet.structures import DetDataSample
    from mmengine.structures import InstanceData

    generator = torch.Generator().manual_seed(0)
    size = setting.image_size
    inputs, samples = [], []
    for _ in range(setting.images):
        inputs.append(
            torch.randint(0, 256, (3, size, size), dtype=torch.uint8, generator=generator)
        )
        corners = torch.rand(BOXES, 2, generator=generator) * (size - 12)
        truth = InstanceData(
            bboxes=torch.cat([corners, corners + 12], dim=1), labels=torch.arange(BOXES) % 8
        )
        shape = {"img_shape": (size, size), "ori_shape": (size, size), "scale_factor": (1.0, 1.0)}
        sample = DetDataSample(metainfo=shape, gt_instances=truth)
        sample.ignored_instances = InstanceData(
            bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long)
        )
        samples.append(sample)
    return {"inputs": inputs, "data_samples": samples}


class DetectorStep:
    """One training iteration without the optimiser, or the prediction of one image."""

    def __init__(self, detector: nn.Module, data: dict, direction: str, backend: str) -> None:
        self.detector = detector
        self.training = direction == TRAINING
        self.data = data if self.training else {name: one[:1] for name, one in data.items()}
        self.backend = backend

    def __call__(self, split: Callable[[], None]) -> None:
        """Forward; in training ``split`` and backward."""
        outputs = self.forward()
        if self.training:
            split()
            self.backward(outputs)

    def forward(self) -> tuple[Tensor, ...]:
        """The loss, or the scores."""
        self.detector.train(self.training)
        torch.manual_seed(0)  # the samplers draw the same in every call
        with use_backend(self.backend), torch.set_grad_enabled(self.training):
            prepared = self.detector.data_preprocessor(self.data, self.training)
            if self.training:
                losses = self.detector(**prepared, mode="loss")
                return (self.detector.parse_losses(losses)[0],)
            found = self.detector(**prepared, mode="predict")
            return tuple(one.pred_instances.scores for one in found)

    def backward(self, outputs: tuple[Tensor, ...]) -> None:
        """Gradients of all parameters."""
        self.detector.zero_grad(set_to_none=True)
        outputs[0].backward()

    def memory(self) -> Memory:
        """Of one call."""
        parameters = tuple(self.detector.parameters())
        backward = self.backward if self.training else None
        return measure_memory(self.forward, backward, parameters[:1], parameters)


class NeckStep:
    """The neck alone on a backbone's features."""

    def __init__(
        self, neck: nn.Module, features: tuple[Tensor, ...], direction: str, backend: str
    ) -> None:
        self.neck = neck
        self.training = direction == TRAINING
        self.features = features if self.training else tuple(one[:1] for one in features)
        self.backend = backend
        self.leaves = (*self.features, *neck.parameters())

    def __call__(self, split: Callable[[], None]) -> None:
        """Forward; in training ``split`` and backward."""
        outputs = self.forward()
        if self.training:
            split()
            self.backward(outputs)

    def forward(self) -> tuple[Tensor, ...]:
        """All levels."""
        with use_backend(self.backend), torch.set_grad_enabled(self.training):
            return tuple(self.neck(self.features))

    def backward(self, outputs: tuple[Tensor, ...]) -> None:
        """Gradients of the features and the parameters."""
        torch.autograd.grad(outputs, self.leaves, [torch.ones_like(one) for one in outputs])

    def memory(self) -> Memory:
        """Of one call."""
        backward = self.backward if self.training else None
        return measure_memory(self.forward, backward, self.features, tuple(self.neck.parameters()))


@torch.no_grad()
def _features(detector: nn.Module, data: dict) -> tuple[Tensor, ...]:
    prepared = detector.data_preprocessor(data, False)
    return detector.backbone(prepared["inputs"])


def table(entries: list[Entry], setting: Setting) -> str:
    """Markdown: times, ratios to FPN, the neck's share and the peak of memory."""
    found = {(one.variant, one.direction, one.part): one for one in entries}
    size = setting.image_size
    lines = [
        f"Faster R-CNN, ResNet-50, RFLA, {size} x {size}; training: forward + backward of "
        f"{setting.images} images, inference: one image; median of {setting.rounds} rounds.",
        "",
        "| direction | neck | detector | x FPN | neck alone | share | peak memory |",
        "|---|---|---|---|---|---|---|",
    ]
    for direction in (TRAINING, INFERENCE):
        base = found[FPN, direction, "detector"].median_s
        for variant in CONFIGS:
            whole = found[variant, direction, "detector"]
            neck = found[variant, direction, "neck"]
            lines.append(
                f"| {direction} | {variant} | {whole.median_s * 1e3:.1f} ms "
                f"| {whole.median_s / base:.2f} | {neck.median_s * 1e3:.1f} ms "
                f"| {neck.median_s / whole.median_s:.0%} | {whole.memory.peak / 2**20:.0f} MiB |"
            )
    return "\n".join(lines)


def write(entries: list[Entry], setting: Setting, folder: Path) -> Path:
    """``detector.json`` with the environment, and ``detector.md``; returns the former's path."""
    folder.mkdir(parents=True, exist_ok=True)
    versions = {name: version(name) for name in ("mmdet", "mmcv", "mmengine")}
    document = {
        "environment": describe(setting.device) | versions,
        "setting": asdict(setting),
        "entries": [entry.to_json() for entry in entries],
    }
    path = folder / "detector.json"
    path.write_text(json.dumps(document, indent=1) + "\n")
    where = headline(document["environment"])
    path.with_suffix(".md").write_text(f"{where}\n\n{table(entries, setting)}\n")
    return path


def reason_against(device: str) -> str | None:
    """Why the detector cannot be measured here, or ``None``."""
    if not all(importlib.util.find_spec(name) for name in ("mmengine", "mmcv", "efpn_mmdet")):
        return "mmdet is not installed"
    if device == "cuda":
        from mmcv.ops import get_compiling_cuda_version

        if get_compiling_cuda_version() == "not available":
            return "mmcv was compiled without CUDA"
    return None


def bench_detector(request: pytest.FixtureRequest) -> None:
    """The detector's table, into the session's folder of results."""
    from benchmarks.session import SESSION

    session = request.config.stash[SESSION]
    options = session.options
    if options.size != "full" and not request.config.getoption("--detector"):
        pytest.skip("the whole detector takes --size full or --detector")
    reason = reason_against(options.device)
    if reason is not None:
        pytest.skip(reason)

    def progress(text: str) -> None:
        session.title = f"whole detector: {text}"
        session.progress("")

    setting = Setting(options.device)
    write(measure(setting, progress), setting, session.output)


def main() -> None:
    """Measure and print, with progress."""
    parser = argparse.ArgumentParser(description=__doc__)
    default = Setting("cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--device", choices=("cpu", "cuda"), default=default.device)
    parser.add_argument("--image-size", type=int, default=default.image_size)
    parser.add_argument("--images", type=int, default=default.images, help="in a training step")
    parser.add_argument("--rounds", type=int, default=default.rounds)
    parser.add_argument("--output", type=Path, help="folder of detector.json")
    args = parser.parse_args()
    reason = reason_against(args.device)
    if reason is not None:
        parser.exit(1, f"bench_detector: {reason}\n")
    setting = Setting(args.device, args.image_size, args.images, args.rounds)
    entries = measure(setting)
    folder = args.output or ROOT / "benchmarks" / "results" / slug(setting.device)
    print(f"\n{table(entries, setting)}\n\n{write(entries, setting, folder)}")


if __name__ == "__main__":
    main()
