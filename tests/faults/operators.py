"""Operators: schema, fake, autocast, gradient; and the functions in front of them."""

FUNCTIONAL = "efpn_kernels/functional.py"
AUTOGRAD = "efpn_kernels/ops/autograd.py"
BLOCK = "efpn_kernels/ops/efpn_bs.py"
CEM = "efpn_kernels/ops/cem.py"
LAYOUT = "efpn_kernels/ops/layout.py"
LOSS = "efpn_kernels/ops/dc_loss.py"
REGISTRATION = "efpn_kernels/ops/registration.py"
COMPILE = ("tests/test_compile_export.py", "-k", "fake or autocast_of or autocast_leaves")
OPCHECK = ("tests/test_compile_export.py", "-k", "opcheck_of_blocks")
STATE = ("tests/test_saved_state.py",)
EXPORT = ("tests/test_compile_export.py", "-k", "export")
GRADIENTS = ("tests/test_autograd.py",)
LAYOUTS = ("tests/test_layouts.py",)
ORACLE = ("tests/test_oracle.py", "tests/test_dc_loss.py", "-m", "not slow")

FAULTS = (
    (BLOCK, "            if gates == 1\n", "            if gates != 0\n", OPCHECK),
    (BLOCK, "acc = accumulate_dtype(p_low.dtype)", "acc = torch.float32", OPCHECK),
    (
        BLOCK,
        "inner_last = channels_last and not (c == 1 or height * width == 1)",
        "inner_last = channels_last",
        ("tests/test_saved_state.py",),
    ),
    (
        BLOCK,
        "empty_map(p_high, is_channels_last(p_high)),",
        "empty_map(p_high, channels_last),",
        COMPILE,
    ),
    (
        BLOCK,
        "without_projection = (None, None) if saved[3] is None else ()",
        "without_projection = ()",
        ("tests/test_fbsm.py", "-m", "not slow"),
    ),
    (BLOCK, "    return (out, *tensors)", "    return (out.clone(), *tensors)", STATE),
    (
        CEM,
        "p_high.new_empty((n, c), dtype=torch.int32),",
        "p_high.new_empty((n, c), dtype=torch.int64),",
        OPCHECK,
    ),
    (CEM, "dtype=dtype or parameter.dtype", "dtype=parameter.dtype", STATE),
    (
        CEM,
        "    return grad_out, *autograd.run(",
        "    return grad_out.contiguous(), *autograd.run(",
        LAYOUTS,
    ),
    (
        AUTOGRAD,
        "ctx.grad_dtype = accumulate_dtype(cast[0].dtype)",
        "ctx.grad_dtype = dtype",
        COMPILE,
    ),
    (
        AUTOGRAD,
        "        if torch.is_grad_enabled():  # create_graph=True",
        "        if False:",
        GRADIENTS,
    ),
    (AUTOGRAD, "        refuse_batched(ctx.name, grad_out)\n", "", GRADIENTS),
    (AUTOGRAD, "and x.dtype != dtype]", "and x.dtype == torch.float32]", COMPILE),
    (
        AUTOGRAD,
        "if forward_ad._current_level >= 0 and any(",
        "if forward_ad._current_level > 0 and any(",
        GRADIENTS,
    ),
    (
        AUTOGRAD,
        "if wants_grad(tensors) and not torch.compiler.is_exporting():\n        return",
        "if wants_grad(tensors):\n        return",
        EXPORT,
    ),
    (
        LAYOUT,
        "return not x.is_contiguous() and x.is_contiguous(",
        "return x.is_contiguous(",
        LAYOUTS,
    ),
    (
        LAYOUT,
        "return x if is_channels_last(x) else x.contiguous()",
        "return x",
        ("tests/test_triton_convolution.py", "tests/test_composition.py", "tests/test_layouts.py"),
    ),
    (REGISTRATION, "a.dtype != torch.float64", "a.dtype is not None", COMPILE),
    (
        REGISTRATION,
        "if isinstance(a, Tensor) and a.requires_grad:",
        "if False:",
        (
            "tests/test_programs.py",
            "tests/test_compile_export.py",
            "tests/test_autograd.py",
            "tests/test_bad_input.py",
        ),
    ),
    (LOSS, "    TEXT = 1", "    TEXT = 2", ORACLE),
    (LOSS, "type(x) is Tensor and x.is_cpu", "x.is_cpu", COMPILE),
    (LOSS, "    with_grad = with_grad and reduce\n", "", COMPILE),
    (
        FUNCTIONAL,
        "divisor = max(pred.numel(), 1) if avg_factor is None else avg_factor",
        "divisor = max(len(pred), 1) if avg_factor is None else avg_factor",
        ORACLE,
    ),
    (FUNCTIONAL, 'reduction != "none",', "True,", ORACLE),
    (FUNCTIONAL, "scale = float(loss_weight)", "scale = 1.0", ORACLE),
    (
        FUNCTIONAL,
        "weight if weight is None else weight.expand_as(pred),",
        "weight,",
        ("tests/test_dc_loss.py", "tests/test_compile_export.py"),
    ),
    (
        FUNCTIONAL,
        "dtype = torch.promote_types(dtype, torch.float32)",
        "pass",
        ("tests/test_dc_loss_protocol.py", "tests/test_compile_export.py"),
    ),
    (
        FUNCTIONAL,
        "    check()\n    return plain()",
        "    return plain()",
        ("tests/test_bad_input.py",),
    ),
)
