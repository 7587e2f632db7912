"""Starting one of several training processes: by torchrun, srun or mpirun, on GPUs or on CPUs."""

from __future__ import annotations

import os
import subprocess

import torch
from mmengine.config import Config

LAUNCHERS = ("none", "pytorch", "slurm", "mpi")
DEFAULT_PORT = "29500"  # of torch.distributed
# What each launcher calls the rank and the number of its processes.
_NAMES = {
    "pytorch": ("RANK", "WORLD_SIZE"),
    "slurm": ("SLURM_PROCID", "SLURM_NTASKS"),
    "mpi": ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
}


def set_launcher(config: Config, launcher: str, local_rank: int = 0) -> None:
    """Let the runner of ``config`` join the processes that ``launcher`` has started.

    With a GPU this is all mmengine's. Without one the processes talk through gloo: mmengine would
    give each of them a GPU.

    Raises:
        RuntimeError: this process was not started by that launcher.
    """
    config.launcher = launcher
    os.environ.setdefault("LOCAL_RANK", str(local_rank))  # torch.distributed.launch passes it
    if launcher == "none":
        return
    missing = [name for name in _NAMES[launcher] if name not in os.environ]
    if missing:
        raise RuntimeError(
            f"launcher: expected processes started by {launcher}, but {', '.join(missing)} is not set; "
            "start them with torchrun (pytorch), srun (slurm) or mpirun (mpi)"
        )
    if not torch.cuda.is_available():
        _join_on_cpu(launcher)
        config.model_wrapper_cfg = dict(
            type="MMDistributedDataParallel", device_ids=None, broadcast_buffers=False
        )


def _join_on_cpu(launcher: str) -> None:
    rank, world_size = (int(os.environ[name]) for name in _NAMES[launcher])
    if launcher != "pytorch":
        os.environ.setdefault("MASTER_PORT", DEFAULT_PORT)
        if "MASTER_ADDR" not in os.environ:
            os.environ["MASTER_ADDR"] = _first_node(launcher)
    torch.distributed.init_process_group("gloo", rank=rank, world_size=world_size)


def _first_node(launcher: str) -> str:
    if launcher == "mpi":
        raise RuntimeError(
            "launcher: expected MASTER_ADDR, the address of the first machine, with mpi; "
            "pass it on with mpirun -x MASTER_ADDR=..."
        )
    nodes = ["scontrol", "show", "hostnames", os.environ["SLURM_NODELIST"]]
    return subprocess.run(nodes, capture_output=True, text=True, check=True).stdout.split()[0]
