"""``efpn demo --study``: does it help? Every part of the method on the same data with the same seeds.

A run is a variant with a seed. Its result is a file, so that the same command goes on where it was stopped; a
training that was stopped goes on from its last epoch.
"""

from __future__ import annotations

import copy
import json
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

import torch
from mmdet.registry import MODELS
from mmdet.utils import register_all_modules
from mmengine.analysis import FlopAnalyzer
from mmengine.config import Config
from mmengine.runner import Runner
from torch import Tensor, nn

from . import demo_data, study_report
from .config_files import CONFIGS
from .demo_run import check_seed, demo_config, environment

AITOD_CONFIG = Path("faster_rcnn") / "efpn_bs_aitod.py"
L1 = {"type": "L1Loss", "loss_weight": 1.0}
# What is left of the full method: E-FPN-BS with these arguments or no E-FPN-BS; DCLoss of this form or L1.
VARIANTS: dict[str, tuple[dict | None, str | None]] = {
    "FPN": (None, None),
    "CEM": ({"use_fbsm": False}, None),
    "FBSM": ({"use_cem": False}, None),
    "CEM + FBSM": ({}, None),
    "DCLoss": (None, "equation"),
    "DCLoss, text": (None, "text"),
    "all": ({}, "equation"),
}
BASELINE = "FPN"
EPOCHS = 8  # of the demo data, where the demo's 20 leave less room: AP 54 %


def variant(config: Config, name: str) -> Config:
    """A copy of the full method's config, reduced to one variant."""
    config = copy.deepcopy(config)
    neck, form = VARIANTS[name]
    if neck is None:
        config.model.neck = config.model.neck.base
    else:
        config.model.neck.update(neck)
    for head in (config.model.rpn_head, config.model.roi_head.bbox_head):
        if form is None:
            head.loss_bbox = copy.deepcopy(L1)
        else:
            head.loss_bbox.form = form
    return config


def run(config: Config, name: str, seed: int, work_dir: Path) -> dict[str, Any]:
    """Train one variant with one seed, or go on with it; its metric, step and inference times, size and cost."""
    config = variant(config, name)
    config.work_dir = str(work_dir)
    config.randomness = {"seed": seed}
    config.resume = (work_dir / "last_checkpoint").is_file()
    config.log_level = "WARNING"  # the runs are what is shown
    # mmengine keeps one of each name.
    config.experiment_name = config.visualizer.name = f"{work_dir.name}_{time.time_ns()}"
    runner = Runner.from_cfg(config)
    runner.train()
    steps = runner.message_hub.log_scalars["train/time"].data[0]
    start = time.perf_counter()
    metric = runner.test()
    images = len(runner.test_dataloader.dataset)
    return {
        "variant": name,
        "seed": seed,
        "metric": {key: float(value) for key, value in metric.items()},
        "training_step_s": float(sorted(steps)[len(steps) // 2]),
        "test_s_per_image": (time.perf_counter() - start) / images,
    }


class _Dense(nn.Module):
    """A detector up to its RPN, whose cost does not depend on what is found."""

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, images: Tensor) -> tuple:
        return self.detector.rpn_head(self.detector.extract_feat(images))


def cost(config: Config, name: str, size: tuple[int, int]) -> dict[str, float]:
    """Parameters, and FLOPs up to the RPN for one image of that height and width."""
    register_all_modules()
    detector = MODELS.build(variant(config, name).model).eval()
    analysis = FlopAnalyzer(_Dense(detector), (torch.zeros(1, 3, *size),))
    with torch.no_grad():
        flops = analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).total()
    return {"parameters": sum(one.numel() for one in detector.parameters()), "flops": float(flops)}


def full_config(args: Namespace) -> Config:
    """The full method on the demo data, built where it is missing, or with ``--data`` on an AI-TOD of one's own.

    Raises:
        FileNotFoundError: ``--data`` without AI-TOD's annotations.
    """
    if args.data is None:
        data = args.out / "data"
        if data.exists():
            check_seed(data, args.seed)
        else:
            demo_data.build(data, images=args.images, seed=args.seed)
        return demo_config(args.out, args.seed, args.epochs or EPOCHS)
    config = Config.fromfile(CONFIGS / AITOD_CONFIG)
    root = f"{args.data}/"
    for loader in (config.train_dataloader, config.val_dataloader, config.test_dataloader):
        if not (args.data / loader.dataset.ann_file).is_file():
            raise FileNotFoundError(f"--data: expected {loader.dataset.ann_file} in {args.data}")
        loader.dataset.data_root = root
    for evaluator in (config.val_evaluator, config.test_evaluator):
        evaluator.ann_file = root + config.test_dataloader.dataset.ann_file
    if args.epochs is not None:
        raise ValueError("--epochs: expected none with --data: the schedule is the paper's")
    return config


def main(args: Namespace) -> None:
    """Run what is missing, then report; everything lies in ``--out``."""
    if args.seeds < 2:
        raise ValueError(f"--seeds: expected 2 or more, for an interval, got {args.seeds}")
    config = full_config(args)
    config.train_cfg.val_interval = config.train_cfg.max_epochs + 1  # one evaluation, at the end
    config.default_hooks.checkpoint.update(interval=1, max_keep_ckpts=1)
    planned = [(name, seed) for seed in range(args.seeds) for name in VARIANTS]
    results, seconds = [], []
    for index, (name, seed) in enumerate(planned):
        stem = f"{name.replace(' ', '').replace(',', '_').replace('+', '_')}_{seed}"
        path = args.out / "runs" / f"{stem}.json"
        if not path.is_file():
            left = f", about {study_report.duration(seconds, len(planned) - index)} left"
            print(
                f"run {index + 1} of {len(planned)}: {name}, seed {seed}{left if seconds else ''}"
            )
            start = time.monotonic()
            found = run(config, name, seed, args.out / "runs" / stem)
            seconds.append(time.monotonic() - start)
            path.write_text(json.dumps(found, indent=1) + "\n")
        results.append(json.loads(path.read_text()))
    costs = {name: cost(config, name, (256, 256)) for name in VARIANTS}
    settings = {
        "data": str(args.data)
        if args.data
        else f"demo data, {args.images} scenes, seed {args.seed}",
        "epochs": config.train_cfg.max_epochs,
        **environment(),
    }
    print(study_report.write(args.out, results, costs, settings, BASELINE))
