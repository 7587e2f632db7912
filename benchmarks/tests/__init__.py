"""Tests of the benchmarks: that what they print is what they measured, and that they measure what they say.

They run on a CPU, within a minute, by ``pytest benchmarks/tests``.
"""
