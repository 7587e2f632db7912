"""What an installed wheel must do: load its library, train a block and a loss, agree with PyTorch.

Run by ``make wheel-test`` with the Python of a clean environment; not collected by pytest.
"""

from __future__ import annotations

from pathlib import Path

import torch

import efpn_kernels
from efpn_kernels import EFPNBS, DCLoss, explain, reference


def main() -> None:
    """Raise where the installed package does not work."""
    package = Path(efpn_kernels.__file__).parent
    assert "site-packages" in package.parts, f"expected an installed package, got {package}"
    torch.manual_seed(0)
    block, twin = EFPNBS(16, 16), reference.EFPNBS(16, 16)
    block.load_state_dict(twin.state_dict())
    p_low, p_high = torch.randn(2, 16, 24, 20), torch.randn(2, 16, 3, 4)
    assert explain(p_low, p_high).backend == "cpu", explain(p_low, p_high)
    torch.testing.assert_close(block(p_low, p_high), twin(p_low, p_high))
    DCLoss()(block(p_low, p_high), p_low).backward()
    assert all(parameter.grad is not None for parameter in block.parameters())
    print(f"{package}: trains on the backend {explain(p_low, p_high).backend!r}")


if __name__ == "__main__":
    main()
