"""``efpn similarity-constants``: what SimD and DotD need to know of a data set and of a config's anchors."""

from __future__ import annotations

import math
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from mmcv.image import rescale_size
from mmdet.registry import DATASETS, TASK_UTILS
from mmdet.structures.bbox import get_box_tensor
from mmdet.utils import register_all_modules
from mmengine.config import Config
from torch import Tensor
from tqdm import tqdm

from efpn_mmdet.config_files import find_config

# What a pipeline may do without changing where boxes and anchors lie to each other, on average.
_HARMLESS = {"LoadImageFromFile", "LoadAnnotations", "RandomFlip", "PackDetInputs"}


@dataclass
class Constants:
    """Of a data set's training part, in the pixels that the network sees.

    Attributes:
        m, n: means of ``|dx| / (w_gt + w_anchor)`` and ``|dy| / (h_gt + h_anchor)`` over all pairs of a ground
            truth and an anchor of its image (SimD).
        root_of_mean_area: ``sqrt(mean(w h))``, DotD's size as its paper has it.
        mean_of_roots: ``mean(sqrt(w h))``, the mean object size (NWD's constant, DotD's size as others read it).
        boxes, images: how many there were; images without a box are left out.
    """

    m: float
    n: float
    root_of_mean_area: float
    mean_of_roots: float
    boxes: int
    images: int


def similarity_constants(
    images: Iterator[tuple[Tensor, tuple[int, int]]], generator: object
) -> Constants:
    """One pass over the data; memory is that of one image's boxes against one row of anchors.

    The horizontal offset of a box and a grid's anchors is the same in each of its rows, the vertical one in each
    of its columns. So ``W + H`` anchors stand for a level's ``W H``.

    Args:
        images: for each image ``boxes [G, 4]`` xyxy and the padded ``(height, width)`` of the network's input.
        generator: mmdet's anchor generator.

    Raises:
        ValueError: no box at all.
    """
    sums, pairs = [0.0, 0.0], 0
    areas = roots = 0.0
    boxes_seen = images_seen = 0
    for boxes, (height, width) in images:
        if len(boxes) == 0:
            continue
        boxes = boxes.double()
        for level, (stride_x, stride_y) in enumerate(generator.strides):
            rows, columns = math.ceil(height / stride_y), math.ceil(width / stride_x)
            for axis, shape, repeats in ((0, (1, columns), rows), (1, (rows, 1), columns)):
                line = generator.single_level_grid_priors(shape, level, device="cpu")
                line = get_box_tensor(line).double()
                sums[axis] += repeats * _offset_ratios(boxes, line, axis).sum().item()
            pairs += len(boxes) * rows * columns * generator.num_base_priors[level]
        sides = boxes[:, 2:] - boxes[:, :2]
        areas += sides.prod(1).sum().item()
        roots += sides.prod(1).sqrt().sum().item()
        boxes_seen += len(boxes)
        images_seen += 1
    if boxes_seen == 0:
        raise ValueError("similarity-constants: expected a data set with boxes, got none")
    return Constants(
        m=sums[0] / pairs,
        n=sums[1] / pairs,
        root_of_mean_area=math.sqrt(areas / boxes_seen),
        mean_of_roots=roots / boxes_seen,
        boxes=boxes_seen,
        images=images_seen,
    )


def _offset_ratios(gts: Tensor, anchors: Tensor, axis: int) -> Tensor:
    """``|offset of the centres| / (sum of the sides)`` along one axis, ``[G, A]``."""
    low, high = axis, axis + 2
    offset = (gts[:, None, low] + gts[:, None, high] - anchors[:, low] - anchors[:, high]).abs() / 2
    sides = gts[:, None, high] - gts[:, None, low] + anchors[:, high] - anchors[:, low]
    return offset / sides


def anchor_generator(model: dict) -> object:
    """The generator of the RPN, or of a one-stage head.

    Raises:
        ValueError: the config has no anchors.
    """
    for head in ("rpn_head", "bbox_head"):
        settings = model.get(head)
        if isinstance(settings, dict) and "anchor_generator" in settings:
            return TASK_UTILS.build(settings["anchor_generator"])
    raise ValueError(
        "similarity-constants: expected a config with an anchor_generator in rpn_head or bbox_head, "
        f"got a {model.get('type')} without"
    )


def training_boxes(
    config: Config, progress: bool = True
) -> Iterator[tuple[Tensor, tuple[int, int]]]:
    """Boxes and padded size of every training image, resized as the pipeline does; no image is read.

    Raises:
        ValueError: a pipeline that moves boxes in another way.
    """
    settings = config.train_dataloader.dataset
    if "pipeline" not in settings:
        raise ValueError(
            "similarity-constants: expected train_dataloader.dataset to be a data set with a pipeline, "
            f"got a {settings.type}; give the data set that it wraps"
        )
    resize = _resize(settings.pipeline)
    divisor = config.model.get("data_preprocessor", {}).get("pad_size_divisor", 1)
    dataset = DATASETS.build({**settings, "pipeline": [], "serialize_data": False})
    for index in tqdm(range(len(dataset)), desc="images", unit="", disable=not progress):
        info = dataset.get_data_info(index)
        old = info["width"], info["height"]
        new = _new_size(old, resize)
        boxes = [one["bbox"] for one in info["instances"] if not one["ignore_flag"]]
        scale = torch.tensor([new[0] / old[0], new[1] / old[1]], dtype=torch.float64).repeat(2)
        boxes = torch.tensor(boxes, dtype=torch.float64).reshape(-1, 4) * scale
        width, height = (math.ceil(side / divisor) * divisor for side in new)
        yield boxes, (height, width)


def _resize(pipeline: Sequence[dict]) -> dict:
    steps = [one for one in pipeline if one["type"] not in _HARMLESS]
    if len(steps) > 1 or any(one["type"] != "Resize" for one in steps):
        raise ValueError(
            "similarity-constants: expected a training pipeline with at most one Resize and flips, "
            f"got {[one['type'] for one in steps]}"
        )
    return steps[0] if steps else {"scale_factor": 1.0}


def _new_size(size: tuple[int, int], resize: dict) -> tuple[int, int]:
    """``(width, height)`` after mmdet's ``Resize``."""
    if resize.get("scale_factor"):
        return rescale_size(size, resize["scale_factor"])
    scale = resize["scale"]
    scale = (scale, scale) if isinstance(scale, int) else tuple(scale)
    return rescale_size(size, scale) if resize.get("keep_ratio") else scale


def add_arguments(parser: ArgumentParser) -> None:
    """The options of ``efpn similarity-constants``."""
    parser.add_argument("config", help="config file, or the name of one of the package's")


def main(args: Namespace) -> None:
    """Print the constants as configs take them."""
    config = Config.fromfile(find_config(args.config))
    register_all_modules()
    generator = anchor_generator(config.model)
    found = similarity_constants(training_boxes(config), generator)
    print(f"{found.boxes} boxes in {found.images} images")
    print(f'dict(type="simd", m={found.m:.4f}, n={found.n:.4f})')
    print(f'dict(type="dotd", size={found.root_of_mean_area:.4f})  # the root of the mean area')
    print(f'dict(type="dotd", size={found.mean_of_roots:.4f})  # the mean object size')
    print(f'dict(type="nwd", constant={found.mean_of_roots:.4f})')
