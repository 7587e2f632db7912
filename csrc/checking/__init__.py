"""What tests and benchmarks share to check the kernels; neither of them imports the other.

===================  ===========================================================================
``contracts``        the contract of every kernel as a float64 expression
``cases``            sizes and arguments of every kernel; ``real_shapes``: those of a detector
``comparison``       runs a kernel, and compares what it gives with its contract
``emulator``         the CUDA kernels compiled for a CPU and run thread by thread
``interpreter``      a faster interpreter of Triton's; ``counting``: what its launches do
``triton_report``    the Triton kernels compiled for GPUs that are not here
===================  ===========================================================================

Found where ``csrc`` is on the path, as the builds' scripts are.
"""
