"""Triton's kernels, in the interpreter."""

TRITON = "efpn_kernels/triton/"


def kernels(names: str) -> tuple[str, ...]:
    return ("tests/test_kernels.py", "-k", f"triton and float32 and ({names})")


def tiles(names: str) -> tuple[str, ...]:
    return ("tests/test_triton_tiles.py", "-k", names)


OFFSETS = ("tests/test_triton_offsets.py",)

FAULTS = (
    (
        TRITON + "cem.py",
        "better = (x > best) | ((x != x) & (best == best))",
        "better = x > best",
        kernels("pooled_context"),
    ),
    (
        TRITON + "cem.py",
        "index = tl.min(tl.where(chosen, best_at, nowhere), axis=0)",
        "index = tl.max(tl.where(chosen, best_at, 0), axis=0)",
        kernels("pooled_context"),
    ),
    (TRITON + "cem.py", "tl.where(z < 0, 0.0, z)", "z", kernels("pooled_context")),
    (
        TRITON + "cem.py",
        "context = tl.load(context_ptr + n * C + c, c < C, other=0.0)\n    out",
        "context = tl.load(context_ptr + c, c < C, other=0.0)\n    out",
        kernels("context_add"),
    ),
    (
        TRITON + "cem_backward.py",
        "(n * HW + index) * C + c if CHANNELS_LAST",
        "(n * HW + index) * C + c if not CHANNELS_LAST",
        kernels("pooled_context_backward"),
    ),
    (TRITON + "dc_loss.py", "slope = s * (a * b)", "slope = s * a * a", kernels("dc_loss")),
    (TRITON + "dc_loss.py", "tl.where(pred < target, -1.0, 0.0)", "-1.0", kernels("dc_loss")),
    (
        TRITON + "dc_loss.py",
        "partial = partial_ptr + 3 * row",
        "partial = partial_ptr + row",
        tiles("losses"),
    ),
    (
        TRITON + "dc_loss.py",
        "at = tl.cast(tile, tl.int64) * BLOCK + tl.arange(0, BLOCK)",
        "at = tile * BLOCK + tl.arange(0, BLOCK)",
        (*OFFSETS, "-k", "dc_loss"),
    ),
    (
        TRITON + "low_gate.py",
        "(x0 > 0) & (x0 + PIXELS < W)",
        "(x0 > 0) & (x0 + PIXELS <= W)",
        tiles("low_gate"),
    ),
    (TRITON + "low_gate.py", "(last < H - 1)", "(last < H)", tiles("low_gate")),
    (TRITON + "low_gate.py", "(p0 // W > 0) &", "(p0 // W >= 0) &", tiles("low_gate")),
    (TRITON + "low_gate.py", "(n * 9 + 4) * D", "(n * 9 + 5) * D", tiles("low_gate")),
    (
        TRITON + "low_gate_border_bias.py",
        "inside_first = (t > 0) & ((t < 2) | (size > 1))",
        "inside_first = t > 0",
        kernels("border_bias"),
    ),
    (
        TRITON + "low_gate_border_bias.py",
        "grad_bias += tl.sum(tl.load(pointers, inside, other=0.0), axis=0)",
        "grad_bias = tl.sum(tl.load(pointers, inside, other=0.0), axis=0)",
        kernels("border_bias"),
    ),
    (
        TRITON + "reduce.py",
        "inside = (row + r < last)[:, None] & (column < K)[None, :]",
        "inside = (row + r <= last)[:, None] & (column < K)[None, :]",
        tiles("sums or spatial_sum"),
    ),
    (
        TRITON + "reduce.py",
        "if R > 2 * ROW_GROUP:\n        partial = row_groups(partial, ROW_GROUP)",
        "if R > 2 * ROW_GROUP:\n        partial = row_groups(partial, ROW_GROUP)[:, :2]",
        tiles("sums"),
    ),
    (
        TRITON + "reduce.py",
        "(column >= split0) & (column < split1)",
        "(column > split0) & (column < split1)",
        tiles("sums"),
    ),
    (
        TRITON + "tile.py",
        "pointers = map_ptr + ((n * C + c0) * HW + p0) + (c * HW + p)",
        "pointers = map_ptr + ((n.to(tl.int32) * C + c0) * HW + p0) + (c * HW + p)",
        OFFSETS,
    ),
    (
        TRITON + "tile.py",
        "return gate * (1 - gate)",
        "return gate * gate",
        kernels("low_gate_backward"),
    ),
    (
        TRITON + "tile.py",
        "return tl.where(out <= 0, 0.0, grad)",
        "return tl.where(out < 0, 0.0, grad)",
        kernels("relu_backward"),
    ),
    (
        TRITON + "refine_mask_apply.py",
        "    if MERGE:\n",
        "    if MERGE and GATED:\n",
        kernels("mask_merge"),
    ),
    (
        TRITON + "refine_fuse_backward.py",
        "load_neighbour(grad_logit, y - dy, x - dx, H, W)",
        "load_neighbour(grad_logit, y + dy, x + dx, H, W)",
        kernels("fuse_backward"),
    ),
    (TRITON + "high_gate.py", "JUMPS=w > W,", "JUMPS=False,", kernels("upsampled")),
    (TRITON + "launch.py", "across * image >= 2**31", "across * image >= 2**33", OFFSETS),
    (TRITON + "launch.py", "argument > 0x7FFFFFFF", "False", ("tests/test_triton_launch.py",)),
    (
        TRITON + "launch.py",
        "argument == 1, argument % 16 == 0",
        "False, argument % 16 == 0",
        ("tests/test_triton_launch.py",),
    ),
)
