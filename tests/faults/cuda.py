"""The CUDA sources, which run in their emulation on a CPU."""

CUDA = "csrc/cuda/"


def emulated(names: str) -> tuple[str, ...]:
    return ("tests/test_cuda_values.py", "-k", f"keeps_its_contract and ({names})")


CLUSTERS = ("tests/test_cuda_values.py", "-k", "clusters")
OFFSETS = ("tests/test_cuda_offsets.py",)

FAULTS = (
    (
        CUDA + "cem_pooled_context.cu",
        "  return a.index < b.index;",
        "  return a.index > b.index;",
        emulated("pooled_context"),
    ),
    (
        CUDA + "cem_pooled_context.cu",
        "if (a_nan != b_nan) return a_nan;",
        "if (a_nan != b_nan) return b_nan;",
        emulated("pooled_context"),
    ),
    (
        CUDA + "cem_pooled_context.cu",
        "context[n * D + d] = relu(total + widen(bias[d]));",
        "context[n * D + d] = total + widen(bias[d]);",
        emulated("pooled_context"),
    ),
    (
        CUDA + "cem_pooled_context.cu",
        "  cooperative_groups::this_cluster().sync();\n",
        "",
        CLUSTERS,
    ),
    (
        CUDA + "cem_pooled_context.cu",
        "code.binaryVersion >= 90 && code.ptxVersion >= 90 ? kYes : kNo;",
        "code.binaryVersion >= 90 ? kYes : kNo;",
        CLUSTERS,
    ),
    (
        CUDA + "cem_pooled_context.cu",
        "*at = narrow<T>(widen(*at) + total);",
        "*at = narrow<T>(total);",
        emulated("pooled_context_backward"),
    ),
    (
        CUDA + "dc_loss.cu",
        "const A scale = a.grad_sum.at ? a.scale * a.grad_sum.template get<A>() : a.scale;",
        "const A scale = a.scale;",
        emulated("dc_loss_backward"),
    ),
    (
        CUDA + "dc_loss.cu",
        "for (int s = 0; s < K; ++s) sums[s] += a.partial[s * blocks + i];",
        "for (int s = 0; s < K; ++s) sums[s] = a.partial[s * blocks + i];",
        ("tests/test_cuda_sums.py",),
    ),
    (
        CUDA + "dc_loss.cu",
        '    if (weight_) like_pred("weight", *weight_, pred_);\n',
        "",
        ("tests/test_cuda_values.py", "-k", "mixed"),
    ),
    (CUDA + "low_gate.cu", "if (++x == a.W) {", "if (++x > a.W) {", emulated("low_gate")),
    (
        CUDA + "low_gate.cu",
        "if (u == 0 || row[u] != row[u > 0 ? u - 1 : 0]) border",
        "if (u == 0) border",
        emulated("low_gate"),
    ),
    (CUDA + "low_gate.cu", "  __syncthreads();\n", "", emulated("low_gate")),
    (
        CUDA + "low_gate.cu",
        "const int64_t group = int64_t(blockIdx.x) * (kThreads / lanes) + threadIdx.x / lanes;",
        "const int group = int(blockIdx.x) * (kThreads / lanes) + threadIdx.x / lanes;",
        OFFSETS + emulated("low_gate"),
    ),
    (
        CUDA + "low_gate_border_relu.cu",
        "if (cy != 1 || !inner_columns<channels_last, V>(x, W)) {",
        "if (cy != 1) {",
        emulated("border_relu"),
    ),
    (
        CUDA + "low_gate_border_relu.cu",
        "const int64_t y = divide(at.p, W), x = at.p - y * W;",
        "const int64_t y = divide(at.p, H), x = at.p - y * W;",
        emulated("border_relu"),
    ),
    (
        CUDA + "low_gate_border_bias.cu",
        "if (tap_inside(cy, t / 3, H) && tap_inside(cx, t % 3, W)) total += shared[t];",
        "if (tap_inside(cy, t / 3, W) && tap_inside(cx, t % 3, H)) total += shared[t];",
        emulated("border_bias"),
    ),
    (
        CUDA + "low_gate_border_bias.cu",
        "if (d >= a.D) break;",
        "if (d > a.D) break;",
        emulated("border_bias"),
    ),
    (
        CUDA + "refine_fuse.cu",
        "grad += widen(fuse_weight[8 - 3 * ky - kx]) * grad_logit[at];",
        "grad += widen(fuse_weight[3 * ky + kx]) * grad_logit[at];",
        emulated("fuse_backward"),
    ),
    (CUDA + "refine_fuse.cu", "  if (i >= count) return;\n", "", emulated("gate_apply")),
    (
        CUDA + "refine_mask_apply.cu",
        "value[v] = (value[v] + g[v]) * in.mask[v];",
        "value[v] = value[v] * in.mask[v] + g[v];",
        emulated("mask_apply"),
    ),
    (
        CUDA + "refine_relu_backward.cu",
        "sum[v] += value[v];",
        "sum[v] = value[v];",
        emulated("relu_backward"),
    ),
    (
        CUDA + "high_gate.cu",
        "if (threadIdx.x == 0 && y0 + r < l.H) {",
        "if (threadIdx.x == 0 && y0 + r < l.H - 1) {",
        emulated("upsampled_gate"),
    ),
    (
        CUDA + "cem_context_add.cu",
        "for (int i = 0; i < V; ++i) x[i] += g[i];",
        "for (int i = 0; i < V; ++i) x[i] += g[0];",
        emulated("context_add"),
    ),
)
