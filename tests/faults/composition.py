"""The operators put together from kernels: in C++ (csrc/common) and in Python."""

COMMON = "csrc/common/"
PYTHON = "efpn_kernels/composition/"
BITS = ("tests/test_composition.py::test_on_the_cpus_kernels",)
ORACLE = ("tests/test_oracle.py",)
STATE = ("tests/test_saved_state.py",)
LAYOUTS = ("tests/test_oracle.py", "tests/test_layouts.py", "tests/test_ddp.py", "-m", "not slow")

FAULTS = (
    (
        COMMON + "efpn_bs.h",
        "{m_high, low.gate, mask, low.border, low.hidden});",
        "{low.gate, m_high, mask, low.border, low.hidden});",
        ORACLE,
    ),
    (COMMON + "efpn_bs.h", "add(grad_context, grad_context_of_gate)", "grad_context", ORACLE),
    (COMMON + "efpn_bs.h", "  mask_merge_(grad_p_low, grad_x, mask);\n", "", ORACLE),
    (
        COMMON + "efpn_bs.h",
        "channels_last = wanted_channels_last && !p_low.is_contiguous();",
        "channels_last = wanted_channels_last;",
        ("tests/test_saved_state.py",),
    ),
    (
        COMMON + "efpn_bs.h",
        'conv("refine_weight", "refine_bias", refine, C, C, 3);',
        "",
        ("tests/test_bad_input.py", "tests/test_remedies.py", "tests/test_programs.py"),
    ),
    (COMMON + "cem.h", "torch::stable::zero_(x);", "", ("tests/test_cem.py", "-m", "not slow")),
    (
        COMMON + "cem.h",
        "spatial_sum(dense(grad_out)), state[0]",
        "spatial_sum(dense(grad_out)), state[1]",
        ("tests/test_cem.py", "-m", "not slow"),
    ),
    (
        COMMON + "high_gate.h",
        "if (gate.weight.size(0) == 1) return upsampled_gate(v, conv.bias, gate.weight, gate.bias, H, W);",
        "if (gate.weight.size(0) == 1) return upsampled_gate(v, conv.bias, gate.weight, conv.bias, H, W);",
        ORACLE,
    ),
    (
        COMMON + "low_gate.h",
        "const auto bias = context ? std::nullopt : std::optional<Tensor>(conv.bias);",
        "const auto bias = std::optional<Tensor>(conv.bias);",
        ORACLE,
    ),
    (
        COMMON + "low_gate.h",
        "return fused ? torch::stable::copy_(border, bias) : torch::stable::zero_(border);",
        "return torch::stable::zero_(border);",
        ORACLE,
    ),
    (
        COMMON + "low_gate.h",
        "grads.conv_weight = add(of_weight, grads.conv_weight);",
        "grads.conv_weight = of_weight;",
        ORACLE,
    ),
    (
        COMMON + "refine.h",
        "convolve(add(m_high, m_low), fuse.weight,",
        "convolve(m_high, fuse.weight,",
        ORACLE,
    ),
    (
        COMMON + "refine.h",
        "const auto [grad, grad_bias] = relu_backward(grad_out, out);",
        "const auto [grad, grad_bias] = relu_backward(grad_out, grad_out);",
        ("tests/test_composition.py", "-k", "float64"),
    ),
    (
        COMMON + "parameter_gradients.h",
        "const ScalarType type = dtype_.value_or(parameter.scalar_type());",
        "const ScalarType type = parameter.scalar_type();",
        STATE,
    ),
    (
        COMMON + "parameter_gradients.h",
        "if (sizes[i] != 1 && strides[i] != others[i]) return false;",
        "",
        LAYOUTS,
    ),
    (
        COMMON + "dc_loss.h",
        "form == DCLossForm::text ? -1 : 1",
        "form == DCLossForm::text ? 1 : -1",
        ("tests/test_oracle.py",),
    ),
    (
        COMMON + "dc_loss.h",
        "return select(x < T(0), T(-1), select(x == T(0), T(0), T(1)));",
        "return select(x < T(0), T(-1), T(1));",
        ("tests/test_kernels.py", "-k", "dc_loss and cpu"),
    ),
    (
        COMMON + "gate.h",
        "select(out <= T(0), T(0), grad)",
        "select(out < T(0), T(0), grad)",
        ("tests/test_kernels.py", "-k", "relu_backward and cpu"),
    ),
    (PYTHON + "efpn_bs.py", "grad_context + grad_context_of_gate,", "grad_context_of_gate,", BITS),
    (PYTHON + "efpn_bs.py", "    kernels.mask_merge_(grad_p_low, grad_x, mask)\n", "", BITS),
    (
        PYTHON + "low_gate.py",
        "bias = conv_bias if context is None else None",
        "bias = conv_bias",
        BITS,
    ),
    (
        PYTHON + "low_gate.py",
        "(bias if fused else torch.zeros_like(bias))",
        "torch.zeros_like(bias)",
        BITS,
    ),
    (
        PYTHON + "cem.py",
        "return out, list(state) if save else []",
        "return out, list(state)",
        ("tests/test_composition.py",),
    ),
    (PYTHON + "convolution.py", "[padding, padding],", "[1, 1],", BITS),
)
