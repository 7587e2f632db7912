"""cuDNN's convolution with bias and ReLU in one kernel, by ``nvidia-cudnn-frontend``: a comparison only.

PyTorch's own ``cudnn_convolution_relu`` may take an engine whose bits differ from run to run, and loses NaN.
Here such engines are left out; whether the bits stay and NaN is kept is looked at before anything is timed.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

DTYPES = {torch.bfloat16: "BFLOAT16", torch.float16: "HALF", torch.float32: "FLOAT"}


def available() -> bool:
    """Whether the package is there."""
    return find_spec("cudnn") is not None


class FusedConvolution:
    """``relu(conv(x, weight, padding=1) + bias)`` of channels_last maps; one plan for each shape."""

    def __init__(self) -> None:
        import cudnn

        self.cudnn = cudnn
        self.handle = cudnn.create_handle()
        self.plans: dict[tuple, tuple] = {}

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor, *_: Tensor) -> Tensor:
        """``[N, C, H, W]``, ``[D, C, 3, 3]``, ``[D]`` to ``[N, D, H, W]``."""
        key = x.shape, weight.shape, x.dtype
        if key not in self.plans:
            self.plans[key] = self.plan(x, weight, bias)
        graph, names, workspace = self.plans[key]
        out = self.empty(x, weight)
        self.cudnn.set_stream(handle=self.handle, stream=torch.cuda.current_stream().cuda_stream)
        values = (x, weight, bias.view(1, -1, 1, 1), out)
        graph.execute(dict(zip(names, values, strict=True)), workspace, handle=self.handle)
        return out

    @staticmethod
    def empty(x: Tensor, weight: Tensor) -> Tensor:
        """Memory for the result."""
        shape = x.shape[0], weight.shape[0], *x.shape[2:]
        return x.new_empty(shape).contiguous(memory_format=torch.channels_last)

    def plan(self, x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Any, tuple, Tensor]:
        """A built graph, its tensors (x, weight, bias, result) and its workspace."""
        cudnn = self.cudnn
        kind = getattr(cudnn.data_type, DTYPES[x.dtype])
        graph = cudnn.pygraph(
            handle=self.handle,
            io_data_type=kind,
            intermediate_data_type=cudnn.data_type.FLOAT,
            compute_data_type=cudnn.data_type.FLOAT,
        )

        def tensor(name: str, value: Tensor) -> Any:
            return graph.tensor(
                name=name, dim=list(value.shape), stride=list(value.stride()), data_type=kind
            )

        inputs = tensor("x", x), tensor("w", weight), tensor("b", bias.view(1, -1, 1, 1))
        conv = graph.conv_fprop(
            image=inputs[0], weight=inputs[1], padding=[1, 1], stride=[1, 1], dilation=[1, 1]
        )
        out = graph.relu(input=graph.bias(input=conv, bias=inputs[2]))
        like = self.empty(x, weight)
        out.set_output(True).set_data_type(kind)
        out.set_dim(list(like.shape)).set_stride(list(like.stride()))
        graph.validate()
        graph.build_operation_graph()
        graph.create_execution_plans([cudnn.heur_mode.A, cudnn.heur_mode.FALLBACK])
        graph.deselect_numeric_notes([cudnn.numerical_note.NONDETERMINISTIC])
        graph.check_support()
        graph.build_plans()
        workspace = torch.empty(graph.get_workspace_size(), dtype=torch.uint8, device=x.device)
        return graph, (*inputs, out), workspace
