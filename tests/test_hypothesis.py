"""Random shapes, layouts and options, drawn by hypothesis."""

from __future__ import annotations

import pytest
from accuracy import assert_accurate
from cases import BLOCK_OPERATORS, LAYOUTS, Case, LossCase, Shape, block_problem, loss_problem
from conftest import Backend

from efpn_kernels.reference import FORMS, REDUCTIONS

pytest.importorskip("hypothesis")
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

every_run_the_same = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
sizes = st.tuples(st.integers(1, 14), st.integers(1, 14))
channels = st.integers(1, 20)
shapes = st.builds(
    Shape, st.integers(1, 3), channels, channels, channels, sizes, sizes, st.booleans()
)


@pytest.mark.parametrize("operator", BLOCK_OPERATORS)
@every_run_the_same
@given(shape=shapes, layout=st.sampled_from(LAYOUTS))
def test_block(backend: Backend, operator: str, shape: Shape, layout: str) -> None:
    drawn = Case(repr(shape), shape, layout=layout)
    assert_accurate(lambda seed: block_problem(operator, drawn, backend.device, seed))


@every_run_the_same
@given(
    shape=st.lists(st.integers(0, 40), max_size=3).map(tuple),
    form=st.sampled_from(FORMS),
    reduction=st.sampled_from(REDUCTIONS),
    weighted=st.booleans(),
)
def test_loss(
    backend: Backend, shape: tuple[int, ...], form: str, reduction: str, weighted: bool
) -> None:
    drawn = LossCase(shape, form=form, reduction=reduction, weight="full" if weighted else "none")
    assert_accurate(lambda seed: loss_problem(drawn, backend.device, seed))
