"""The fused modules, and whether their parts are plain."""

MODULES = "efpn_kernels/modules.py"
PLAIN = "efpn_kernels/plain.py"
GRAPHED = "efpn_kernels/graphed.py"
PLAIN_PARTS = ("tests/test_plain_parts.py",)
PARTS = ("tests/test_subclasses.py", "tests/test_modules.py", "tests/test_parts.py")

FAULTS = (
    (PLAIN, "    if type(part) is not kind:\n", "    if not isinstance(part, kind):\n", PARTS),
    (PLAIN, 'return "forward" not in attributes and not (', "return not (", PARTS),
    (PLAIN, '        or attributes["_backward_pre_hooks"]\n', "", PARTS),
    (PLAIN, '        or attributes["_forward_pre_hooks"]\n', "", PARTS),
    (
        PLAIN,
        "return bool(first or second or third or fourth)",
        "return bool(first or second)",
        PARTS,
    ),
    (PLAIN, 'attributes["dilation"],', "(1, 1),", PLAIN_PARTS),
    (PLAIN, 'attributes["groups"],', "1,", PLAIN_PARTS),
    (PLAIN, 'attributes["padding_mode"],', '"zeros",', PLAIN_PARTS),
    (PLAIN, "not is_traceable_wrapper_subclass(x)", "True", PLAIN_PARTS),
    (
        MODULES,
        "if is_plain(cem, CEM) and is_plain(fbsm, FBSM) and not _calls_parts():",
        "if not _calls_parts():",
        PARTS,
    ),
    (
        MODULES,
        "            self.reduction if reduction_override is None else reduction_override,\n",
        "            self.reduction,\n",
        ("tests/test_modules.py", "tests/test_dc_loss_protocol.py"),
    ),
    (MODULES, "            self.loss_weight,\n", "", ("tests/test_modules.py",)),
    (
        MODULES,
        "if type(module) in FUSED:\n",
        "if isinstance(module, tuple(FUSED)):\n",
        ("tests/test_modules.py",),
    ),
    (
        MODULES,
        '            checks.maps("p_low", p_low, p_high)\n',
        "",
        ("tests/test_bad_modules.py", "tests/test_modules.py"),
    ),
)
