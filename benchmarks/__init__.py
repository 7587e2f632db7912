"""Benchmarks of the operators at the shapes of real detectors.

``pytest benchmarks/`` checks every case against the float64 oracle, measures it interleaved with
its baselines and writes a report. Each module has one duty:

================  ==============================================================================
``shapes``        the sizes of the feature maps and of the losses
``workload``      what is measured: an operator at one shape, and groups of its measurements
``plan``          which groups a run measures
``baselines``     who is measured: ours, eager, ``torch.compile``, floors, a plain copy
``rivals``        OpenVINO and ONNX Runtime, where they are asked for
``accuracy``      the float64 oracle and the rule that a candidate has to meet before it is timed
``step``          one call of a candidate, as the clocks time it
``timers``        clocks for CPU and CUDA
``memory``        saved and peak activation memory
``contestant``    what a candidate's check found, its samples, its rows
``harness``       check, warm up, measure interleaved
``records``       the row that a measurement leaves
``environment``   where and with what it ran
``goals``         the project's goals against the rows
``report``        Markdown and JSON; ``plots`` the pictures
``bench_*``       one operator each, collected by pytest
``session``       what the benchmarks of a run share; ``resume``: how it goes on in a new process
``replay``        feeds pytest-benchmark with the samples
``readme_table``  the README's measured tables, from the reports
``kernels``       tools of those who change the kernels, with a README of its own
``tests``         of all this: ``pytest benchmarks/tests``
================  ==============================================================================
"""
