"""What an installed package must do: load its library, train, export, raise, agree with PyTorch.

Run by ``make wheel-test`` and ``make release-check`` with the Python of a clean environment; not collected
by pytest. ``--without-library`` is for a package that was built without a compiler.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import torch

import efpn_kernels
from efpn_kernels import EFPNBS, DCLoss, explain, reference


def main() -> None:
    """Raise where the installed package does not work."""
    package = Path(efpn_kernels.__file__).parent
    assert {"site-packages", "dist-packages"} & set(package.parts), f"not installed: {package}"
    backend = "reference" if "--without-library" in sys.argv else "cpu"
    torch.manual_seed(0)
    block, twin = EFPNBS(16, 16), reference.EFPNBS(16, 16)
    block.load_state_dict(twin.state_dict())
    inputs = torch.randn(2, 16, 24, 20), torch.randn(2, 16, 3, 4)
    with warnings.catch_warnings(record=True) as caught:
        torch.testing.assert_close(block(*inputs), twin(*inputs))
    said = [str(warning.message) for warning in caught if "plain PyTorch" in str(warning.message)]
    assert explain(*inputs).backend == backend, explain(*inputs)
    assert bool(said) == (backend == "reference"), said
    assert all("was not built: " in text for text in said)
    train(block, *inputs)
    export(block, *inputs)
    if backend == "cpu":
        raises()
    print(f"{package}: trains, exports and raises on the backend {backend!r}")


def train(block: EFPNBS, *inputs: torch.Tensor) -> None:
    """A few steps bring the loss down."""
    loss = DCLoss()
    optimizer = torch.optim.SGD([*block.parameters(), *loss.parameters()], lr=0.1)
    losses = []
    for _ in range(5):
        optimizer.zero_grad()
        losses.append(loss(block(*inputs), inputs[0].relu()))
        losses[-1].backward()
        optimizer.step()
    assert all(parameter.grad is not None for parameter in block.parameters())
    assert losses[-1] < losses[0], losses


def export(block: EFPNBS, *inputs: torch.Tensor) -> None:
    """An exported program gives the same numbers."""
    with torch.no_grad():
        program = torch.export.export(block, inputs)
        torch.testing.assert_close(program.module()(*inputs), block(*inputs), rtol=0, atol=0)


def raises() -> None:
    """A check inside of the library is a RuntimeError, not the end of the process."""
    pred, k = torch.ones(3), torch.ones(1)
    try:
        torch.ops.efpn.dc_loss(pred, pred.double(), None, k, k, False, True, 1.0, False)
    except RuntimeError as error:
        assert "target: expected the dtype of pred" in str(error), error
    else:
        raise AssertionError("the library took a target of another dtype")


if __name__ == "__main__":
    main()
