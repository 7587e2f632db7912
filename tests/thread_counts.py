"""A program for test_instruction_sets.py: the results of some problems, the same for every number of threads.

``python thread_counts.py FILE`` writes them there, for every draw by problem and name.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import torch
from accuracy import DRAWS
from cases import (
    BLOCK_OPERATORS,
    LAYOUTS,
    Case,
    LossCase,
    Problem,
    Shape,
    block_problem,
    loss_problem,
)

from efpn_kernels import use_backend

THREADS = (1, 2, 3, 5, 8)
# Several blocks, and several runs of the longest sums, in each of the products.
SHAPES = {
    "one gate": Shape(2, 40, 136, 44, (19, 33), (8, 9)),
    "a gate per channel": Shape(1, 40, 136, 44, (47, 53), (8, 9), per_channel=True),
}


def problems(seed: int) -> Iterator[tuple[str, Problem]]:
    for operator in BLOCK_OPERATORS:
        for layout in LAYOUTS:
            for gates, shape in SHAPES.items():
                case = Case(f"sets, {gates}", shape, layout=layout)
                yield f"{operator} {layout}, {gates}", block_problem(operator, case, seed=seed)
    for reduction in ("mean", "none"):
        case = LossCase((20_000,), reduction=reduction)
        yield f"dc_loss {reduction}", loss_problem(case, seed=seed)


def main(file: str) -> None:
    draws = []
    for seed in range(DRAWS):
        draws.append(results := {})
        for where, problem in problems(seed):
            for threads in THREADS:
                torch.set_num_threads(threads)
                ours = problem.fused()
                for name, expected in results.setdefault(where, ours).items():
                    if not ours[name].equal(expected):
                        sys.exit(f"{where}, {name}: other bits in {threads} threads than in one")
    torch.save(draws, file)


if __name__ == "__main__":
    with use_backend("cpu"):
        main(sys.argv[1])
