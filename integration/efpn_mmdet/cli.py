"""The commands of ``efpn`` that need mmdet: train, test, predict, convert, configs, similarity-constants,
demo-data, demo."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path

import torch
from mmdet.engine.hooks.utils import trigger_visualization_hook
from mmdet.evaluation import DumpDetResults
from mmengine.config import Config, ConfigDict, DictAction
from mmengine.hooks import Hook
from mmengine.runner import Runner

from . import config_files, demo_data, demo_run
from .config_files import find_config
from .convert import dota2, visdrone
from .launch import LAUNCHERS, set_launcher
from .outputs import check_work_dir, default_work_dir, new_file
from .predict import Predictor, predict_images
from .pretrained import MatchCheckpointHook
from .similarity import constants


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status; ``argv`` is everything after ``efpn``."""
    args = _parser().parse_args(argv)
    return args.run(args) or 0


def train(args: argparse.Namespace) -> None:
    """``efpn train``: mmengine's ``Runner.train`` with the options of the command line."""
    config = load_config(args)
    if args.resume:
        config.resume = True
        config.load_from = None if args.resume == "auto" else args.resume
    if args.amp:
        config.optim_wrapper.type = "AmpOptimWrapper"
        config.optim_wrapper.setdefault("loss_scale", "dynamic")
    resume, load_from = config.get("resume", False), config.get("load_from")
    check_work_dir(Path(config.work_dir), resume, load_from)
    set_launcher(config, args.launcher, args.local_rank)
    runner = Runner.from_cfg(config)
    require_hook(runner, MatchCheckpointHook)
    runner.train()


def test(args: argparse.Namespace) -> None:
    """``efpn test``: mmengine's ``Runner.test`` on a checkpoint."""
    config = load_config(args)
    config.load_from = args.checkpoint
    if args.show_dir:
        trigger_visualization_hook(config, argparse.Namespace(show=False, show_dir=args.show_dir))
    if args.tta:
        augment_at_test_time(config)
    results = args.out and new_file("--out", args.out)
    if results and results.suffix not in (".pkl", ".pickle"):
        raise ValueError(f"--out: expected a .pkl file, got {results}")
    set_launcher(config, args.launcher, args.local_rank)
    runner = Runner.from_cfg(config)
    require_hook(runner, MatchCheckpointHook)
    if results:
        results.parent.mkdir(parents=True, exist_ok=True)
        runner.test_evaluator.metrics.append(DumpDetResults(out_file_path=str(results)))
    runner.test()


def augment_at_test_time(config: Config) -> None:
    """Test on every image and its mirror image: ``tta_model`` and ``tta_pipeline`` of the config.

    Without ``tta_pipeline`` the test pipeline is used, with a flip before its last step. What is found twice
    goes through one more non-maximum suppression, as ``tta_model`` says.
    """
    model = config.get("tta_model")
    if model is None:
        raise ValueError(
            "--tta: expected tta_model in the config, found none; such as dict(type='DetTTAModel', "
            "tta_cfg=dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=100))"
        )
    dataset = config.test_dataloader.dataset
    *steps, pack = dataset.pipeline
    flips = [dict(type="RandomFlip", prob=1.0), dict(type="RandomFlip", prob=0.0)]
    if "meta_keys" in pack:  # mmdet's default has these
        pack = dict(pack, meta_keys=(*pack.meta_keys, "flip", "flip_direction"))
    augment = dict(type="TestTimeAug", transforms=[flips, [pack]])
    dataset.pipeline = config.get("tta_pipeline") or [*steps, augment]
    config.model = ConfigDict(**model, module=config.model)


def require_hook(runner: Runner, hook: type[Hook]) -> None:
    """Register a hook unless the config has it."""
    if not any(isinstance(one, hook) for one in runner.hooks):
        runner.register_hook(hook())


def load_config(args: argparse.Namespace) -> Config:
    """The config file with ``--cfg-options`` and ``--work-dir`` applied."""
    config = Config.fromfile(find_config(args.config))
    config.merge_from_dict(args.cfg_options or {})
    config.work_dir = str(args.work_dir or config.get("work_dir") or default_work_dir(args.config))
    return config


def predict(args: argparse.Namespace) -> None:
    """``efpn predict``: one line of json per image, and pictures."""
    with redirect_stdout(sys.stderr):  # mmengine prints what it loads
        predictor = Predictor(
            str(find_config(args.config)), args.checkpoint, args.device, args.cfg_options
        )
    folder = args.out_dir or (Path("predictions") if args.show_gate else None)
    for result in predict_images(predictor, args.images, args.score_thr, folder, args.show_gate):
        print(json.dumps(result))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="efpn", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = _command(commands, "train", train, "train a detector from a config")
    _runner_arguments(command)
    command.add_argument(
        "--resume",
        nargs="?",
        const="auto",
        help="go on from this checkpoint, or from the latest one in the work folder",
    )
    command.add_argument("--amp", action="store_true", help="automatic mixed precision")

    command = _command(commands, "test", test, "evaluate a checkpoint")
    _runner_arguments(command, "checkpoint")

    command.add_argument("--out", type=Path, help="write the predictions into this new .pkl file")
    command.add_argument("--show-dir", help="draw them into WORK_DIR/TIME/SHOW_DIR")
    command.add_argument("--tta", action="store_true", help="test-time augmentation")

    command = _command(commands, "predict", predict, "boxes, scores and pictures for images")
    command.add_argument("config", help="config file")
    command.add_argument("checkpoint", help="checkpoint file")
    command.add_argument("images", nargs="+", type=Path, help="image files")
    command.add_argument("--out-dir", type=Path, help="draw the predictions into this folder")
    command.add_argument(
        "--show-gate", action="store_true", help="draw the gate M too (into predictions/)"
    )
    command.add_argument("--score-thr", type=float, default=0.3, help="lowest score to report")
    command.add_argument(
        "--device", default="cuda" if torch.cuda.is_available() else "cpu", help="of the detector"
    )
    command.add_argument("--cfg-options", nargs="+", action=DictAction, help="KEY=VALUE ...")

    command = _command(commands, "convert", None, "published annotations to COCO json")
    converters = command.add_subparsers(required=True, metavar="DATA_SET")
    for name, module in (("visdrone", visdrone), ("dota2", dota2)):
        converter = _command(converters, name, module.main, module.__doc__.splitlines()[0])
        module.add_arguments(converter)

    command = _command(commands, "configs", config_files.main, "paths of the package's configs")
    config_files.add_arguments(command)

    command = _command(
        commands,
        "similarity-constants",
        constants.main,
        "SimD's, DotD's and NWD's for a config's data",
    )
    constants.add_arguments(command)

    command = _command(commands, "demo-data", demo_data.main, "build the small data set")
    demo_data.add_arguments(command)

    command = _command(commands, "demo", demo_run.main, "data, training, evaluation and pictures")
    demo_run.add_arguments(command)
    return parser


def _command(commands, name: str, run, summary: str) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=summary, description=summary)
    command.set_defaults(run=run)
    return command


def _runner_arguments(command: argparse.ArgumentParser, *positional: str) -> None:
    command.add_argument("config", help="config file, or the name of one of the package's")
    for name in positional:
        command.add_argument(name, help=f"{name} file")
    command.add_argument(
        "--work-dir", help="logs and checkpoints (default: work_dirs/FOLDER_CONFIG)"
    )
    command.add_argument("--cfg-options", nargs="+", action=DictAction, help="KEY=VALUE ...")
    command.add_argument(
        "--launcher",
        choices=LAUNCHERS,
        default="none",
        help="what started this process and its fellows: torchrun, srun or mpirun",
    )
    command.add_argument(
        "--local-rank", "--local_rank", type=int, default=0, help=argparse.SUPPRESS
    )
