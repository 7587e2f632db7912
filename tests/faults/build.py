"""The builds: architectures, flags, what objects are kept by."""

CSRC = "csrc/"
ARCHITECTURES = ("tests/test_architectures.py",)
TOOLCHAIN = ("tests/test_toolchain.py", "-k", "not repeats")

FAULTS = (
    (
        CSRC + "build_cuda.py",
        'DEFAULT_ARCHITECTURES = ("8.0", "8.6",',
        'DEFAULT_ARCHITECTURES = ("8.0",',
        ARCHITECTURES,
    ),
    (
        CSRC + "build_cuda.py",
        '"9.0", "10.0", "12.0+PTX")',
        '"9.0", "12.0+PTX")',
        ARCHITECTURES,
    ),
    (
        CSRC + "build_cuda.py",
        'left[-1].removesuffix("+PTX") + "+PTX")',
        'left[-1].removesuffix("+PTX"))',
        ARCHITECTURES,
    ),
    (CSRC + "build_cuda.py", '"Hopper": ("9.0+PTX",),', '"Hopper": ("9.0",),', ARCHITECTURES),
    (
        CSRC + "build_cuda.py",
        '"-std=c++17", "-O3", "--expt-relaxed-constexpr"',
        '"-std=c++17", "-O3", "--use_fast_math", "--expt-relaxed-constexpr"',
        TOOLCHAIN,
    ),
    (CSRC + "build_cuda.py", 'if word.startswith("-Wl,") else', "if False else", ARCHITECTURES),
    (CSRC + "build_cuda.py", "code=compute_{digits}", "code=sm_{digits}a", ARCHITECTURES),
    (
        CSRC + "build_cpu.py",
        '    "-fno-math-errno",\n',
        '    "-fno-math-errno",\n    "-ffast-math",\n',
        TOOLCHAIN,
    ),
    (CSRC + "build_cpu.py", '    "-O3",\n', '    "-O3",\n    "-march=native",\n', TOOLCHAIN),
    (CSRC + "build_cpu.py", '    "-fvisibility=hidden",\n', "", TOOLCHAIN),
    (CSRC + "build_cpu.py", '"-ltorch_cpu", *words("LDFLAGS")]', '"-ltorch_cpu"]', TOOLCHAIN),
    (
        CSRC + "toolchain.py",
        'TARGET_VERSION = "0x020b000000000000"',
        'TARGET_VERSION = "0x020c000000000000"',
        TOOLCHAIN,
    ),
    (
        CSRC + "toolchain.py",
        "for path in (source, *_headers(source.parent)):",
        "for path in _headers(source.parent):",
        TOOLCHAIN,
    ),
    (CSRC + "toolchain.py", "MINIMUM_TORCH = (2, 11)", "MINIMUM_TORCH = (2, 10)", TOOLCHAIN),
    (
        CSRC + "toolchain.py",
        '("g++", "clang++", "c++") if',
        '("c++", "clang++", "g++") if',
        TOOLCHAIN,
    ),
    (
        "efpn_kernels/_libraries.py",
        "MINIMUM_TRITON = (3, 6)",
        "MINIMUM_TRITON = (3, 5)",
        ("tests/test_choice.py",),
    ),
)
