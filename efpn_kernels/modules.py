"""The modules of the paper on fused kernels, and :func:`patch`, which puts them into a model.

Each is its reference twin (same constructor, parameters and state_dict keys) with another forward. The fused
forward reads the parameters of the parts inside instead of calling them. Where a part is not plain any more
(replaced, wrapped, hooked, pruned, quantised, without a bias ...), and under ``use_backend("reference")``, the
parts are called one after the other, as the twin does.
"""

from __future__ import annotations

from torch import Tensor, nn

from . import checks, functional, reference
from .backends import current_backend
from .plain import PLAIN_1X1, PLAIN_3X3, any_global_hook, is_plain, plain_parameters

__all__ = ["CEM", "EFPNBS", "FBSM", "DCLoss", "patch"]


_PROJECT = (("project", PLAIN_1X1),)
_FBSM = (
    ("high_conv", PLAIN_3X3),
    ("high_gate", PLAIN_1X1),
    ("low_conv", PLAIN_3X3),
    ("low_gate", PLAIN_1X1),
    ("fuse_conv", PLAIN_3X3),
    ("refine_conv", PLAIN_3X3),
)


def _calls_parts() -> bool:
    """Whether the parts have to be called, whatever they are."""
    return current_backend() == "reference" or any_global_hook()


def _refuse_script(module: nn.Module) -> nn.Module:
    """What ``torch.jit.script`` asks a module for."""
    raise RuntimeError(
        f"{type(module).__name__}: torch.jit.script is not supported; use torch.export, or "
        'torch.jit.trace under efpn_kernels.use_backend("reference")'
    )


class CEM(reference.CEM):
    """Context Enhancement Module, Eq. 1-4: ``(p_low, p_high) -> p_low + context(p_high)``.

    Args:
        high_channels: channels ``Ch`` of ``p_high``.
        low_channels: channels ``Cl`` of ``p_low`` and of the output.
    """

    __prepare_scriptable__ = _refuse_script

    def __init__(self, high_channels: int, low_channels: int) -> None:
        super().__init__(
            checks.channels("high_channels", high_channels),
            checks.channels("low_channels", low_channels),
        )

    def forward(self, p_low: Tensor, p_high: Tensor) -> Tensor:
        """``(p_low [N, Cl, H, W], p_high [N, Ch, h, w]) -> [N, Cl, H, W]``."""
        parameters = None if _calls_parts() else plain_parameters(self, _PROJECT)
        if parameters is None:
            return super().forward(p_low, p_high)
        return functional.cem(p_low, p_high, *parameters)


class FBSM(reference.FBSM):
    """Foreground-Background Separation Module, Eq. 5-8.

    Args:
        high_channels: channels ``Ch`` of ``p_high``.
        low_channels: channels ``Cl`` of ``c_low`` and of the output.
        hidden_channels: channels of the gates' 3x3 convolutions; ``None`` means ``low_channels``.
        gate_channels: 1 for one spatial mask, ``low_channels`` for a mask per channel.
    """

    __prepare_scriptable__ = _refuse_script

    def __init__(
        self,
        high_channels: int,
        low_channels: int,
        hidden_channels: int | None = None,
        gate_channels: int = 1,
    ) -> None:
        super().__init__(
            checks.channels("high_channels", high_channels),
            checks.channels("low_channels", low_channels),
            None
            if hidden_channels is None
            else checks.channels("hidden_channels", hidden_channels),
            checks.channels("gate_channels", gate_channels),
        )

    def forward(self, c_low: Tensor, p_high: Tensor) -> Tensor:
        """``(c_low [N, Cl, H, W], p_high [N, Ch, h, w]) -> [N, Cl, H, W]``."""
        parameters = None if _calls_parts() else plain_parameters(self, _FBSM)
        if parameters is None:
            return super().forward(c_low, p_high)
        return functional.fbsm(c_low, p_high, *parameters)


class EFPNBS(reference.EFPNBS):
    """E-FPN-BS: CEM then FBSM as one fused block, Fig. 3.

    Args:
        high_channels: channels ``Ch`` of ``p_high``.
        low_channels: channels ``Cl`` of ``p_low`` and of the output.
        hidden_channels: see :class:`FBSM`.
        gate_channels: see :class:`FBSM`.
        use_cem: ``False`` leaves CEM out (Table 5).
        use_fbsm: ``False`` leaves FBSM out (Table 5).
    """

    CEM = CEM
    FBSM = FBSM
    __prepare_scriptable__ = _refuse_script

    def forward(self, p_low: Tensor, p_high: Tensor) -> Tensor:
        """``(p_low [N, Cl, H, W], p_high [N, Ch, h, w]) -> [N, Cl, H, W]``."""
        if not (self.use_cem or self.use_fbsm):
            checks.maps("p_low", p_low, p_high)
            return p_low
        cem, fbsm = self._modules.get("cem"), self._modules.get("fbsm")
        if is_plain(cem, CEM) and is_plain(fbsm, FBSM) and not _calls_parts():
            project, parameters = plain_parameters(cem, _PROJECT), plain_parameters(fbsm, _FBSM)
            if project is not None and parameters is not None:
                return functional.efpn_bs(p_low, p_high, *project, *parameters)
        return super().forward(p_low, p_high)


def _value(x: Tensor) -> str:
    try:
        return f"{x.item():g}"
    except RuntimeError:  # on the meta device, or fake: it has none
        return "unknown"


class DCLoss(reference.DCLoss):
    """Dynamic Gradient-Balanced Loss, Eq. 9-10, with learnable ``k`` and ``delta``.

    Args:
        k: initial slope of the gate, positive.
        delta: initial error at which the gate is one half.
        learnable: whether ``k`` and ``delta`` are parameters (else buffers).
        form: ``"equation"`` (Eq. 9-10 as printed) or ``"text"`` (gate direction reversed).
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        loss_weight: factor on the result.
        k_range: ``(low, high)`` to which ``k`` is projected before each training forward.
        delta_range: the same for ``delta``.
        parameter_shape: of ``k`` and ``delta``: ``()``, or ``(1,)`` for what takes no scalar parameters,
            as FSDP. Checkpoints of either shape load.

    What is kept for backward: the arguments themselves, ``k`` and ``delta``, and for a reduced loss the
    gradients of all of them, until the first backward. An argument that changes in place in between is
    noticed by autograd where its values are needed again: for ``"none"``, and in a second backward.

    Raises:
        TypeError: if not a number.
        ValueError: for a ``k`` that is not positive and finite, a ``delta`` that is not finite, an unknown form or
            reduction, or a range that is not ascending around the initial value.
    """

    def __init__(
        self,
        k: float = 10.0,
        delta: float = 0.15,
        learnable: bool = True,
        form: str = "equation",
        reduction: str = "mean",
        loss_weight: float = 1.0,
        k_range: tuple[float, float] | None = None,
        delta_range: tuple[float, float] | None = None,
        parameter_shape: tuple[int, ...] = (),
    ) -> None:
        checks.finite("k", k, positive=True)
        checks.finite("delta", delta)
        checks.finite("loss_weight", loss_weight)
        checks.choice("form", form, reference.FORMS)
        checks.choice("reduction", reduction, reference.REDUCTIONS)
        checks.value_range("k_range", k_range, k, positive=True)
        checks.value_range("delta_range", delta_range, delta)
        checks.choice("parameter_shape", parameter_shape, ((), (1,)))
        super().__init__(
            k,
            delta,
            learnable,
            form,
            reduction,
            loss_weight,
            k_range,
            delta_range,
            parameter_shape,
        )

    def forward(
        self,
        pred: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        avg_factor: float | Tensor | None = None,
        reduction_override: str | None = None,
    ) -> Tensor:
        """Elementwise or reduced loss; the arguments of mmdet's regression losses."""
        k, delta = self.scalars()
        return functional.dc_loss(
            pred,
            target,
            k,
            delta,
            weight,
            self.form,
            self.reduction if reduction_override is None else reduction_override,
            avg_factor,
            self.loss_weight,
        )

    def extra_repr(self) -> str:
        """What ``print`` shows: the current values and how the loss is computed."""
        shown = {
            "k": _value(self.k),
            "delta": _value(self.delta),
            "learnable": self.learnable,
            "form": repr(self.form),
            "reduction": repr(self.reduction),
            "loss_weight": f"{self.loss_weight:g}",
            "k_range": self.k_range,
            "delta_range": self.delta_range,
        }
        return ", ".join(f"{name}={value}" for name, value in shown.items() if value is not None)


FUSED: dict[type[nn.Module], type[nn.Module]] = {
    reference.CEM: CEM,
    reference.FBSM: FBSM,
    reference.EFPNBS: EFPNBS,
    reference.DCLoss: DCLoss,
}


def patch(model: nn.Module) -> list[str]:
    """Swap the reference modules inside ``model`` for the fused ones, in place.

    The modules stay the same objects, with their parameters, buffers, hooks and mode; only the class,
    and so the forward, changes. Calling it again changes nothing. Hooks on the modules that are swapped
    fire as before, and so do those on the convolutions inside of them.

    Args:
        model: any module; itself may be a reference module.

    Returns:
        The names of the modules that were changed, as ``model.named_modules()`` gives them.
    """
    changed = []
    for name, module in model.named_modules():
        if type(module) in FUSED:
            module.__class__ = FUSED[type(module)]
            changed.append(name)
    return changed
