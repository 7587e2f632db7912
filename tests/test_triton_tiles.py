"""Every kernel on maps with whole tiles inside of them, as the launch tables cut them.

At small sizes one tile holds a map, and what a kernel does away from the borders never runs. The shapes come
from the tables: a table that changes brings its shapes along.
"""

from __future__ import annotations

import os
from importlib.util import find_spec

import pytest
import torch

from checking.cases import Case, Maker, level_cases, loss_cases, map_cases
from checking.comparison import check_results, run_kernel

pytestmark = pytest.mark.skipif(
    find_spec("triton") is None or os.environ.get("TRITON_INTERPRET") != "1",
    reason="needs Triton and TRITON_INTERPRET=1",
)

CHANNELS = {False: 4, True: 64}
"""By whether a map is channels_last: enough for the interpreter, and for whole vectors."""


def pixels_of_tiles(channels_last: bool) -> dict[str, int]:
    """Pixels of the tile of every kernel that walks maps, by its name in the table."""
    from efpn_kernels.triton import settings
    from efpn_kernels.triton.launch import tile_of

    form = settings.CHANNELS_LAST if channels_last else settings.CONTIGUOUS
    found = {}
    for name, classes in settings.DEFAULT.items():
        limits = classes.get(form)
        if isinstance(limits, settings.Limits) and not name.startswith("upsampled"):
            found[name] = tile_of(limits, 2**20, CHANNELS[channels_last], channels_last).pixels
    return found


def inside(pixels: int, height: int, width: int) -> list[int]:
    """Starts of tiles that touch no border."""
    starts = range(0, height * width, pixels)
    return [
        p
        for p in starts
        if p % width > 0
        and p % width + pixels < width
        and p // width > 0
        and (p + pixels - 1) // width < height - 1
    ]


def shapes(channels_last: bool) -> list[tuple[int, int, int, int]]:
    """With tiles inside, and with one that ends at the last column: for each number of pixels of a tile."""
    C = CHANNELS[channels_last]
    sizes = sorted(set(pixels_of_tiles(channels_last).values()))
    found = [(1, C, 3, 2 * pixels + extra) for pixels in sizes for extra in (0, 2)]
    for pixels in sizes:
        assert any(inside(pixels, H, W) for _, _, H, W in found), pixels
        assert any(W % pixels == 0 and pixels < W for _, _, _, W in found), pixels
    return found


def run(case: Case, channels_last: bool) -> None:
    import efpn_kernels  # noqa: F401 - registers the kernels

    maker = Maker(torch.float32, channels_last, "cpu")
    args = case.build(maker)
    kernel = getattr(torch.ops.efpn_triton, case.kernel).default
    check_results(case.kernel, args, run_kernel(kernel, args), maker)


KERNELS = sorted({case.kernel for case in map_cases([(1, 1, 1, 1)])})


@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("kernel", KERNELS)
def test_maps(kernel: str, channels_last: bool) -> None:
    for case in map_cases(shapes(channels_last)):
        if case.kernel == kernel and channels_last in case.formats:
            run(case, channels_last)


def test_levels_of_several_tiles_both_ways() -> None:
    """Strips with rows of others above and below, and columns of others at both sides."""
    from efpn_kernels.triton import settings
    from efpn_kernels.triton.launch import tile_of

    rows = columns = 0
    for name, classes in settings.DEFAULT.items():
        for form, limits in classes.items():
            if name.startswith(("upsampled_fwd", "upsampled_bwd")):
                tile = tile_of(limits, 2**20, 16, form == settings.CHANNELS_LAST)
                rows, columns = max(rows, limits.walk), max(columns, tile.pixels)
    D, h, w = 16, 6, 5
    for case in level_cases([(1, D, h, w, 2 * rows + 3, 2 * columns + 3)]):
        for channels_last in case.formats:
            run(case, channels_last)


@pytest.mark.parametrize("case", list(loss_cases([(20_003,)])), ids=lambda c: f"{c.kernel}-{c.id}")
def test_losses_of_several_programs(case: Case) -> None:
    from efpn_kernels.triton import settings

    limits = settings.DEFAULT["dc_loss"][settings.ANY]
    assert limits.one_program < 20_003 and 20_003 % limits.block
    run(case, False)


def test_sums_of_many_rows_take_two_stages() -> None:
    from efpn_kernels.triton import reduce
    from efpn_kernels.triton.settings import ROW_GROUP

    rows = 2 * ROW_GROUP + 70
    partial = torch.randn(2, rows, 37, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(reduce.row_sum(partial), partial.sum(1), rtol=1e-5, atol=1e-4)
    sums = reduce.split_sum(partial[0], 9, 20, 8)
    for got, want in zip(sums, partial[0].sum(0).split([9, 20, 8]), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-4)
