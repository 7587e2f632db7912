"""The checks of public arguments."""

CHECKS = "efpn_kernels/checks.py"
TESTS = (
    "tests/test_refusals.py",
    "tests/test_bad_input.py",
    "tests/test_bad_modules.py",
    "tests/test_modules.py",
)

FAULTS = (
    (CHECKS, "if not x.is_floating_point():", "if x.is_complex():", TESTS),
    (CHECKS, "if x.is_nested or x.layout != torch.strided:", "if x.is_nested:", TESTS),
    (
        CHECKS,
        "if with_dtype and x.dtype != like.dtype and",
        "if with_dtype and x.dtype.itemsize != like.dtype.itemsize and",
        TESTS,
    ),
    (CHECKS, "if low.shape[0] != high.shape[0]:", "if low.shape[0] < high.shape[0]:", TESTS),
    (CHECKS, "if high.shape[2] == 0 or high.shape[3] == 0:", "if high.shape[2] == 0:", TESTS),
    (CHECKS, "if low.shape[2] == 0 or low.shape[3] == 0:", "if low.shape[2] == 0:", TESTS),
    (CHECKS, "if gates != 1 and gates != c:", "if gates != 1 and gates > c:", TESTS),
    (
        CHECKS,
        '"high_conv_bias": (high_conv_bias, (d,)),',
        '"high_conv_bias": (high_conv_bias, tuple(high_conv_bias.shape)),',
        TESTS,
    ),
    (
        CHECKS,
        '"fuse_weight": (fuse_weight, (g, g, 3, 3)),',
        '"fuse_weight": (fuse_weight, tuple(fuse_weight.shape)),',
        TESTS,
    ),
    (
        CHECKS,
        '        raise ValueError(f"{name}: expected one element, got shape {tuple(x.shape)}")',
        "        return",
        TESTS,
    ),
    (CHECKS, 'if reduction != "mean":', 'if reduction == "none":', TESTS),
    (CHECKS, "if weight.requires_grad:", "if weight.requires_grad and weight.dim() == 0:", TESTS),
    (
        CHECKS,
        "torch.broadcast_shapes(weight.shape, pred.shape) == pred.shape",
        "torch.broadcast_shapes(weight.shape, pred.shape) is not None",
        TESTS,
    ),
    (CHECKS, "or (positive and value <= 0):", "or (positive and value < 0):", TESTS),
    (CHECKS, "or bounds[0] > bounds[1]:", "or bounds[0] < bounds[1]:", TESTS),
    (CHECKS, "if not bounds[0] <= value <= bounds[1]:", "if not bounds[0] <= value:", TESTS),
    (
        CHECKS,
        "number = 0 if isinstance(value, bool) else operator.index(value)",
        "number = operator.index(value)",
        TESTS,
    ),
    (
        CHECKS,
        "if any(d is not None and d.requires_grad for d in differentiable):",
        "if all(d is not None and d.requires_grad for d in differentiable):",
        ("tests/test_edge_cases.py", "-k", "inference"),
    ),
)
