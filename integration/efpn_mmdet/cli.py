"""The commands of ``efpn`` that need mmdet: train, test, predict, convert, demo-data, demo."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path

import torch
from mmengine.config import Config, DictAction
from mmengine.runner import Runner

from . import demo_data, demo_run
from .convert import dota2, visdrone
from .predict import Predictor, predict_images


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; ``argv`` is everything after ``efpn``."""
    args = _parser().parse_args(argv)
    args.run(args)
    return 0


def train(args: argparse.Namespace) -> None:
    """``efpn train``: mmengine's ``Runner.train`` with the options of the command line."""
    config = load_config(args)
    if args.resume:
        config.resume = True
        config.load_from = None if args.resume == "auto" else args.resume
    if args.amp:
        config.optim_wrapper.type = "AmpOptimWrapper"
        config.optim_wrapper.setdefault("loss_scale", "dynamic")
    Runner.from_cfg(config).train()


def test(args: argparse.Namespace) -> None:
    """``efpn test``: mmengine's ``Runner.test`` on a checkpoint."""
    config = load_config(args)
    config.load_from = args.checkpoint
    Runner.from_cfg(config).test()


def load_config(args: argparse.Namespace) -> Config:
    """The config file with ``--cfg-options``, ``--work-dir`` and ``--launcher`` applied."""
    config = Config.fromfile(args.config)
    config.merge_from_dict(args.cfg_options or {})
    default = config.get("work_dir") or str(Path("work_dirs") / Path(args.config).stem)
    config.work_dir = args.work_dir or default
    config.launcher = args.launcher
    if args.launcher == "pytorch" and not torch.cuda.is_available():
        _launch_on_cpu(config)
    return config


def _launch_on_cpu(config: Config) -> None:
    """mmengine's launcher and default wrapper assume a GPU for each process."""
    torch.distributed.init_process_group("gloo")
    config.model_wrapper_cfg = dict(
        type="MMDistributedDataParallel", device_ids=None, broadcast_buffers=False
    )


def predict(args: argparse.Namespace) -> None:
    """``efpn predict``: one line of json per image, and pictures."""
    with redirect_stdout(sys.stderr):  # mmengine prints what it loads
        predictor = Predictor(args.config, args.checkpoint, args.device, args.cfg_options)
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
    command.add_argument("config", help="config file")
    for name in positional:
        command.add_argument(name, help=f"{name} file")
    command.add_argument("--work-dir", help="logs and checkpoints (default: work_dirs/CONFIG)")
    command.add_argument("--cfg-options", nargs="+", action=DictAction, help="KEY=VALUE ...")
    command.add_argument(
        "--launcher",
        choices=("none", "pytorch", "slurm", "mpi"),
        default="none",
        help="pytorch: the processes were started by torchrun",
    )
    # Some launchers pass it; the runner reads the environment.
    command.add_argument(
        "--local-rank", "--local_rank", type=int, default=0, help=argparse.SUPPRESS
    )
