"""``efpn demo``: from nothing to a trained detector and its pictures, on a CPU."""

from __future__ import annotations

import json
import platform
import time
from argparse import ArgumentParser, Namespace
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.config import Config
from mmengine.runner import Runner

from . import demo_data
from .classes import DEMO
from .config_files import CONFIGS
from .outputs import check_work_dir
from .predict import Predictor
from .show import Boxes

CONFIG = Path("demo") / "faster_rcnn_efpn_bs.py"
PICTURES = 8
SCORE_THRESHOLD = 0.4
VERSIONS = ("efpn_kernels", "torch", "numpy", "mmdet", "mmcv", "mmengine", "scikit-image")


def add_arguments(parser: ArgumentParser) -> None:
    """The options of ``efpn demo``."""
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder of the results")
    parser.add_argument("--seed", type=int, default=0, help="of the data and of the training")
    parser.add_argument("--images", type=int, default=240, help="composed scenes")
    parser.add_argument("--epochs", type=int, help="instead of the config's")
    parser.add_argument(
        "--study",
        action="store_true",
        help="every part of the method with several seeds, in hours; the same command goes on where it stopped",
    )
    parser.add_argument("--seeds", type=int, default=5, help="of the study, for each variant")
    parser.add_argument(
        "--data", type=Path, help="of the study: an AI-TOD instead of the demo data"
    )


def main(args: Namespace) -> None:
    """Build the data, train, evaluate before and after, draw; ``result.json`` says what came of it."""
    if args.study:
        from . import study

        return study.main(args)
    data, training = args.out / "data", args.out / "training"
    if data.exists():
        check_seed(data, args.seed)
    check_work_dir(training, resume=False, load_from=None)
    if not data.exists():
        demo_data.build(data, images=args.images, seed=args.seed)
    config = demo_config(args.out, args.seed, args.epochs)
    runner = Runner.from_cfg(config)
    untrained = runner.test()
    start = time.monotonic()
    runner.train()
    seconds = time.monotonic() - start
    trained = runner.test()
    result = describe(args.seed, config, seconds, untrained, trained)
    (args.out / "result.json").write_text(json.dumps(result, indent=1) + "\n")
    checkpoint = training / f"epoch_{config.train_cfg.max_epochs}.pth"
    pictures = draw_pictures(config, checkpoint, data, args.out / "pictures")
    print(f"\nAP_0.5 on the test part: {_ap50(untrained)} untrained, {_ap50(trained)} trained")
    print(f"trained in {seconds / 60:.1f} minutes; all values: {json.dumps(result['trained'])}")
    print(f"checkpoint: {checkpoint}\npictures:   {pictures} in {args.out / 'pictures'}")


def describe(
    seed: int,
    config: Config,
    seconds: float,
    untrained: dict[str, float],
    trained: dict[str, float],
) -> dict[str, Any]:
    """What the training was, where it ran, how long it took (with its validations), and its AP."""
    return {
        **environment(),
        "seed": seed,
        "epochs": config.train_cfg.max_epochs,
        "training_s": round(seconds, 1),
        "untrained": {name: round(value, 4) for name, value in untrained.items()},
        "trained": {name: round(value, 4) for name, value in trained.items()},
    }


def environment() -> dict[str, Any]:
    """When and where."""
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": f"{platform.system()} {platform.machine()}, {torch.get_num_threads()} threads, "
        f"{torch.backends.cpu.get_cpu_capability()}",
        "versions": {name: version(name) for name in VERSIONS},
    }


def check_seed(data: Path, seed: int) -> None:
    """Refuse demo data of another seed."""
    found = json.loads((data / "train.json").read_text())["info"]["settings"]["seed"]
    if found != seed:
        raise ValueError(f"seed: {data} was built with {found}, got {seed}; choose another --out")


def demo_config(folder: Path, seed: int, epochs: int | None = None) -> Config:
    """The demo's config with its data and its results in ``folder``."""
    config = Config.fromfile(CONFIGS / CONFIG)
    data = f"{folder / 'data'}/"
    for loader in (config.train_dataloader, config.val_dataloader, config.test_dataloader):
        loader.dataset.data_root = data
    for evaluator in (config.val_evaluator, config.test_evaluator):
        evaluator.ann_file = data + "test.json"
    config.work_dir = str(folder / "training")
    config.randomness.seed = seed
    if epochs is not None:
        config.train_cfg.max_epochs = epochs
        config.param_scheduler[1].update(end=epochs, T_max=epochs)
        config.default_hooks.checkpoint.interval = epochs
    return config


def draw_pictures(config: Config, checkpoint: Path, data: Path, folder: Path) -> int:
    """Ground truth, predictions and gate of images spread over the test part; returns how many."""
    document = json.loads((data / "test.json").read_text())
    predictor = Predictor(config, str(checkpoint), device="cpu")
    folder.mkdir(parents=True, exist_ok=True)
    step = max(1, len(document["images"]) // PICTURES)
    images = document["images"][::-step][:PICTURES]  # from the end, where the sky is
    for image in images:
        path = data / "images" / image["file_name"]
        prediction = predictor(path, SCORE_THRESHOLD, with_gate=True)
        picture = predictor.draw(prediction, _truth(document, image["id"]))
        cv2.imwrite(str(folder / image["file_name"]), picture)
    return len(images)


def _truth(document: dict, image_id: int) -> Boxes:
    classes = {one["id"]: DEMO.index(one["name"]) for one in document["categories"]}
    found = [one for one in document["annotations"] if one["image_id"] == image_id]
    boxes = np.array([one["bbox"] for one in found], dtype=float).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return Boxes(boxes, np.array([classes[one["category_id"]] for one in found], dtype=int))


def _ap50(values: dict[str, float]) -> str:
    return f"{100 * values['aitod/AP_0.5']:.1f} %"
