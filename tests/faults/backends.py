"""The choice of a backend, and the loading of libraries."""

BACKENDS = "efpn_kernels/backends.py"
SWITCH = "efpn_kernels/_switch.py"
AUTOGRAD = "efpn_kernels/ops/autograd.py"
LIBRARIES = "efpn_kernels/_libraries.py"
STAMP = "efpn_kernels/_stamp.py"
CHOICE = ("tests/test_choice.py", "tests/test_backends.py")

FAULTS = (
    (
        BACKENDS,
        '    Order("cuda", ("cuda", "triton"), ',
        '    Order("cuda", ("triton", "cuda"), ',
        CHOICE,
    ),
    (BACKENDS, 'return (*order.backends, "reference")', 'return ("reference",)', CHOICE),
    (
        BACKENDS,
        "if order.below is None or x.numel() < order.below:",
        "if order.below is None or x.numel() <= order.below + 24:",
        CHOICE,
    ),
    (BACKENDS, " or operator not in order.operators:", ":", CHOICE),
    (
        BACKENDS,
        'Backend("cuda", "efpn", "cuda", why_not_on=_no_machine_code),',
        'Backend("cuda", "efpn", "cuda"),',
        CHOICE,
    ),
    (BACKENDS, "    if dtype not in DTYPES:\n", "    if dtype.is_complex:\n", CHOICE),
    (
        BACKENDS,
        "    key = (x.device.type, str(x.dtype))\n",
        '    key = (x.device.type, "")\n',
        CHOICE,
    ),
    (
        BACKENDS,
        "    key = (x.device.type, str(x.dtype))\n",
        '    key = ("", str(x.dtype))\n',
        CHOICE,
    ),
    (BACKENDS, "    _warned.add(key)\n", "", CHOICE),
    (BACKENDS, "frame, level = sys._getframe(1), 1", "frame, level = sys._getframe(1), 2", CHOICE),
    (SWITCH, "type(self).choice = self.outer.pop()", "type(self).choice = self.before", CHOICE),
    (
        "efpn_kernels/functional.py",
        'precision.current_float32_precision() != "highest"',
        "False",
        ("tests/test_precision.py",),
    ),
    (
        AUTOGRAD,
        "channels_last, last, dtype, *tensors)",
        "channels_last, (), dtype, *tensors)",
        ("tests/test_precision.py",),
    ),
    (
        BACKENDS,
        "        if reason is not None:\n            raise RuntimeError(",
        '        if reason is not None and choice == "cpu":\n            raise RuntimeError(',
        CHOICE,
    ),
    (BACKENDS, "elif reason is None and chosen is not None:", "elif False:", CHOICE),
    (
        LIBRARIES,
        "return numbers is not None and numbers < minimum",
        "return numbers is not None and numbers <= minimum",
        (*CHOICE, "tests/test_doctor.py"),
    ),
    (
        LIBRARIES,
        "problem, cause = _stamp.mismatch(stamp), Cause.STALE",
        "problem, cause = None, Cause.STALE",
        CHOICE,
    ),
    (LIBRARIES, "or ours[0] == theirs[0]:", "or ours == theirs:", ("tests/test_doctor.py",)),
    (
        LIBRARIES,
        'if kind == "a" or capability < built:',
        "if capability < built:",
        ("tests/test_doctor.py",),
    ),
    (LIBRARIES, "    if ptx and not kind:\n", "    if not kind:\n", CHOICE),
    (
        LIBRARIES,
        "not {built, capability} & set(ALONE)",
        "True",
        ("tests/test_architectures.py", "tests/test_doctor.py"),
    ),
    (STAMP, 'if stamp["version"] != version():', 'if stamp["version"] < version():', CHOICE),
    (STAMP, 'if stamp["schemas"] != schemas():', "if False:", CHOICE),
)
