"""The engines that people deploy on: the reference twin, exported to ONNX, in OpenVINO and ONNX Runtime.

They run the forward pass in float32 on a CPU, with PyTorch's number of threads. Each is called as a module
is: it reads the caller's maps where they are, and returns a new map.
"""

from __future__ import annotations

import copy
import io
import time
import warnings
from collections.abc import Mapping
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from .environment import version
from .records import ONNX_RUNTIME, OPENVINO
from .workload import Workload

EXPORTER = ("onnx", "onnxscript")
SETTLE_S = 0.05


@lru_cache(maxsize=1)
def exported(workload: Workload) -> bytes:
    """The workload's reference module as an ONNX model of static shapes.

    Inputs are named ``x0``, ``x1`` and so on, the output ``out``.
    """
    inputs = tuple(x.detach() for x in workload.inputs("cpu", "contiguous"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the exporter's own insides
        program = torch.onnx.export(
            copy.deepcopy(workload.master).eval(),
            inputs,
            input_names=[f"x{i}" for i in range(len(inputs))],
            output_names=["out"],
            dynamo=True,
            verbose=False,
        )
    target = io.BytesIO()
    program.save(target)
    return target.getvalue()


class Engine(nn.Module):
    """An engine with the model of a workload; exported and compiled in the first call.

    Args:
        workload: in float32.
    """

    package: str
    settings: Mapping[str, Any]
    """What the engine says of itself once it runs."""

    def __init__(self, workload: Workload) -> None:
        super().__init__()
        self.workload = workload
        self.started = False

    def forward(self, *inputs: Tensor) -> Tensor:
        """Dense float32 tensors to a new one of the output's shape."""
        if not self.started:
            module = copy.deepcopy(self.workload.master).to("meta")
            self.shape = module(*(x.to("meta") for x in inputs)).shape
            self.start(exported(self.workload))
            self.started = True
        out = torch.empty(self.shape)
        self.run(inputs, out)
        return out

    def start(self, model: bytes) -> None:
        """Compile the model for PyTorch's number of threads."""
        raise NotImplementedError

    def run(self, inputs: tuple[Tensor, ...], out: Tensor) -> None:
        """Write the output for the inputs; neither is copied."""
        raise NotImplementedError


class OpenVINO(Engine):
    """OpenVINO for latency: one stream, in float32 on processors too whose default is bfloat16."""

    package = "openvino"

    def start(self, model: bytes) -> None:
        import openvino

        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "INFERENCE_PRECISION_HINT": "f32",
            "ENABLE_CPU_PINNING": False,  # nobody else's threads are pinned
        }
        core = openvino.Core()
        compiled = core.compile_model(core.read_model(model), "CPU", settings)
        self.settings = {name: compiled.get_property(name) for name in settings}
        self.request = compiled.create_infer_request()
        self.view = lambda x: openvino.Tensor(x.numpy(), shared_memory=True)

    def run(self, inputs: tuple[Tensor, ...], out: Tensor) -> None:
        for i, x in enumerate(inputs):
            self.request.set_input_tensor(i, self.view(x.detach()))
        self.request.set_output_tensor(0, self.view(out))
        self.request.infer()


class OnnxRuntime(Engine):
    """ONNX Runtime's own kernels for the CPU."""

    package = "onnxruntime"

    def start(self, model: bytes) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(
            model, options, providers=["CPUExecutionProvider"]
        )
        self.settings = {"intra_op_num_threads": options.intra_op_num_threads}
        self.binding = self.session.io_binding()

    def run(self, inputs: tuple[Tensor, ...], out: Tensor) -> None:
        for i, x in enumerate(inputs):
            self.binding.bind_input(f"x{i}", *_place(x))
        self.binding.bind_output("out", *_place(out))
        self.session.run_with_iobinding(self.binding)


def _place(x: Tensor) -> tuple[Any, ...]:
    return "cpu", 0, "float32", tuple(x.shape), x.data_ptr()


ENGINES: dict[str, type[Engine]] = {OPENVINO: OpenVINO, ONNX_RUNTIME: OnnxRuntime}


def settle(variant: str) -> None:
    """Before and after a sample of an engine: wait until the threads of the one before have gone to sleep.

    They spin for the next call: PyTorch's for 10 ms, ONNX Runtime's for 40 ms. Within a sample that is what makes
    them fast; in another one's, which has threads of its own, it would take the processor away.
    """
    if variant in ENGINES:
        time.sleep(SETTLE_S)


def missing(variant: str) -> list[str]:
    """The packages that an engine needs and that are not installed."""
    return [name for name in (ENGINES[variant].package, *EXPORTER) if find_spec(name) is None]


def installed() -> tuple[str, ...]:
    """The engines that can take part."""
    return tuple(variant for variant in ENGINES if not missing(variant))


def versions() -> dict[str, str]:
    """For the report: the version of every engine, or what has to be installed."""
    found = {}
    for variant, engine in ENGINES.items():
        absent = missing(variant)
        found[variant] = (
            f"not measured, {' and '.join(absent)} not installed: pip install '.[rivals]'"
            if absent
            else str(version(engine.package))
        )
    return found
