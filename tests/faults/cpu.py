"""The C++ kernels of the CPU."""

CPU = "csrc/cpu/"


def kernels(names: str) -> tuple[str, ...]:
    return ("tests/test_kernels.py", "-k", f"cpu and ({names})")


LARGE_TILES = ("tests/test_large_tiles.py", "-k", "not lesser")
WINOGRAD = ("tests/test_winograd.py", "-k", "not lesser")
CHANNEL_GATES = ("tests/test_channel_gates.py", "-k", "not lesser")
POOLED = kernels("pooled_context")

FAULTS = (
    (
        CPU + "cem_kernels.h",
        "const Mask better = (x > value) | ((x.v != x.v) & (value == value));",
        "const Mask better = (x > value) | (x.v != x.v);",
        POOLED,
    ),
    (
        CPU + "cem_kernels.h",
        "const Mask better = (x > value) | ((x.v != x.v) & (value == value));",
        "const Mask better = x > value;",
        POOLED,
    ),
    (
        CPU + "cem_kernels.h",
        "const bool earlier = (value == best || value != value) && position < first;",
        "const bool earlier = value == best && position < first;",
        POOLED,
    ),
    (
        CPU + "cem_kernels.h",
        "for (; p < pixels; ++p) take(static_cast<A>(x[p]), p);",
        "for (; p + 1 < pixels; ++p) take(static_cast<A>(x[p]), p);",
        POOLED,
    ),
    (
        CPU + "cem_kernels.h",
        "context[d] = relu(bias[d] + sum(dot));",
        "context[d] = bias[d] + sum(dot);",
        POOLED,
    ),
    (
        CPU + "cem_kernels.h",
        "if (c < end) step(std::true_type()",
        "if (c + 1 < end) step(std::true_type()",
        POOLED,
    ),
    (
        CPU + "cem.cpp",
        "n = i / blocks, c = i % blocks * kPoolChannels;",
        "n = i / blocks, c = 0 * kPoolChannels;",
        POOLED,
    ),
    (CPU + "cem.cpp", "bias_total[i % D] += grad_z[i];", "bias_total[i % D] = grad_z[i];", POOLED),
    (
        CPU + "dc_loss_kernels.h",
        "if (a.weight) factor *= load<tail>(a.weight + i, n);",
        "if (a.weight) factor = load<tail>(a.weight + i, n);",
        kernels("dc_loss"),
    ),
    (
        CPU + "dc_loss_kernels.h",
        "total.grad_k += sum(grad_k);",
        "total.grad_k = sum(grad_k);",
        kernels("dc_loss"),
    ),
    (CPU + "dc_loss_kernels.h", "if (i < last) {", "if (i + 1 < last) {", kernels("dc_loss")),
    (
        CPU + "dc_loss.cpp",
        "scale *= scalar(grad_loss);",
        "scale = scalar(grad_loss);",
        kernels("dc_loss_backward"),
    ),
    (
        CPU + "low_gate.cpp",
        "weight_total[d] += total[(2 * i + 1) * m.C + d];",
        "weight_total[d] = total[(2 * i + 1) * m.C + d];",
        kernels("low_gate_backward"),
    ),
    (
        CPU + "low_gate.cpp",
        "data<S>(weight), bias,           !weight.is_contiguous()};",
        "data<S>(weight), bias,           false};",
        kernels("border_bias"),
    ),
    (
        CPU + "refine.cpp",
        "std::reverse(flipped.begin(), flipped.end());",
        "",
        kernels("fuse_backward"),
    ),
    (
        CPU + "refine.cpp",
        "return mask.size(1) == 1 && mask.scalar_type() == accumulate_type(map.scalar_type());",
        "return mask.size(1) == 1;",
        kernels("mask_apply or mask_merge"),
    ),
    (
        CPU + "refine_kernels.h",
        "if (gated) value = sigmoid(value);",
        "value = sigmoid(value);",
        kernels("fuse_backward"),
    ),
    (
        CPU + "refine_kernels.h",
        "a.grad_logit[p] *= gate_slope(a.mask_gate[p]);",
        "a.grad_logit[p] *= a.mask_gate[p];",
        kernels("mask_apply_backward"),
    ),
    (
        CPU + "high_gate.cpp",
        "total[D + d] += sums[(i * 2 + 1) * kBlock + d - first];",
        "total[D + d] = sums[(i * 2 + 1) * kBlock + d - first];",
        kernels("upsampled_gate_backward"),
    ),
    (
        CPU + "product.cpp",
        "const int64_t row = task / across * block_rows, column = task % across * kBlockColumns;",
        "const int64_t row = task / across * block_rows, column = 0 * kBlockColumns;",
        kernels("taps"),
    ),
    (
        CPU + "winograd.cpp",
        "for (int64_t d = 0; d < dy.C; ++d) bias[d] += bias_sums.get()[i * width + d];",
        "for (int64_t d = 0; d < dy.C; ++d) bias[d] = bias_sums.get()[i * width + d];",
        WINOGRAD,
    ),
    (
        CPU + "winograd.cpp",
        "last = std::min(first + chunk, tiles);",
        "last = std::min(first + chunk - (first > 0), tiles);",
        WINOGRAD,
    ),
    (
        CPU + "winograd.cpp",
        "if (large && products_of<LargeTile>(in) < std::min(small, wide)) {",
        "if (large && products_of<LargeTile>(in) < small) {",
        LARGE_TILES,
    ),
    (
        CPU + "winograd_operand.h",
        "pair = (Word32)load(word).v | pair << 16;",
        "pair = (Word32)load(word).v | pair;",
        WINOGRAD,
    ),
    (
        CPU + "convolution.cpp",
        "in.mask_is_map = mask.size(1) != 1 || mask.scalar_type() != ScalarType::Float;",
        "in.mask_is_map = mask.size(1) != 1;",
        WINOGRAD,
    ),
    (
        CPU + "winograd_transform.h",
        "input_scale = 0.125f, output_scale = 8.0f;",
        "input_scale = 1.0f, output_scale = 1.0f;",
        LARGE_TILES,
    ),
    (
        CPU + "winograd_transform.h",
        "v[3] = even_b - F(P::b) * odd_b;",
        "v[3] = even_b - F(P::a) * odd_b;",
        LARGE_TILES,
    ),
    (
        CPU + "winograd_transform.h",
        "y[2] = (m[4] + F(P::a2) * sum_a)",
        "y[2] = (m[4] + F(P::b2) * sum_a)",
        WINOGRAD,
    ),
    (
        CPU + "winograd_kernels.h",
        "kChain = kPair == 1 ? 16 / kLanes : 0;",
        "kChain = 0;",
        WINOGRAD,
    ),
    (
        CPU + "winograd_kernels.h",
        "return sum(zeros) == 0.0f;",
        "return true;",
        WINOGRAD,
    ),
    (
        CPU + "winograd.cpp",
        "if (!empty_map) EFPN_CALL(gate_gradient_sums, dy, n, c, classes);",
        "EFPN_CALL(gate_gradient_sums, dy, 0, c, classes);",
        WINOGRAD,
    ),
    (
        CPU + "winograd_finish.h",
        "const int cy = border_class(s.y + row, out.H), cx = border_class(s.x + column, out.W);",
        "const int cy = border_class(s.y, out.H), cx = border_class(s.x + column, out.W);",
        CHANNEL_GATES,
    ),
    (
        CPU + "convolution.cpp",
        "winograd_weight_gradient(input_of(WinogradInput::sum, m_high, m_low), grad,",
        "winograd_weight_gradient(input_of(m_high), grad,",
        CHANNEL_GATES,
    ),
    (
        CPU + "pointwise.cpp",
        "for (int64_t d = 0; d < dy.C; ++d) bias[d] += bias_sums.get()[i * width + d];",
        "for (int64_t d = 0; d < dy.C; ++d) bias[d] = bias_sums.get()[i * width + d];",
        CHANNEL_GATES,
    ),
    (
        CPU + "pointwise_kernels.h",
        "total += load(source + i * chunk_stride);",
        "total = load(source + i * chunk_stride);",
        CHANNEL_GATES,
    ),
)
