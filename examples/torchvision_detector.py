"""torchvision's RetinaNet with E-FPN-BS and DCLoss, trained on tiny objects in minutes on a CPU.

``python examples/torchvision_detector.py`` (or ``make example``) builds a small data set, trains from scratch, and leaves
``pictures.png`` and ``result.json`` under ``build/example``.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Sequence
from pathlib import Path

import demo_data
import torch
import torchvision_here
from PIL import Image, ImageDraw
from torch import Tensor, nn

from efpn_kernels import DCLoss, EFPNBSLevel, explain

torchvision_here.prepare()

from torchvision.models import resnet18  # noqa: E402
from torchvision.models.detection import RetinaNet, retinanet  # noqa: E402
from torchvision.models.detection.anchor_utils import AnchorGenerator  # noqa: E402
from torchvision.models.detection.backbone_utils import BackboneWithFPN  # noqa: E402
from torchvision.ops import box_iou  # noqa: E402

CHANNELS = 64  # a quarter of the usual number, for two cores
SIZE = 128  # pixels
ANCHORS = ((6, 10), (14, 20), (28, 40), (56, 80), (112, 160))
SCORE = 0.3


# ---- the detector ------------------------------------------------------------------------------------


class DCLossRegressionHead(retinanet.RetinaNetRegressionHead):
    """RetinaNet's box head with DCLoss of the encoded boxes."""

    def __init__(self, channels: int, anchors: int) -> None:
        super().__init__(channels, anchors, norm_layer=_norm)
        # In a dense head the loss also falls when delta does, whatever the boxes: it needs bounds.
        self.loss = DCLoss(reduction="mean", k_range=(1.0, 50.0), delta_range=(0.05, 0.5))

    def compute_loss(
        self,
        targets: list[dict[str, Tensor]],
        head_outputs: dict[str, Tensor],
        anchors: list[Tensor],
        matched_idxs: list[Tensor],
    ) -> Tensor:
        """A scalar: the sum over the boxes' four numbers, averaged over the anchors that have an object."""
        encoded, predicted = [], []
        for target, boxes, of_image, matched in zip(
            targets, head_outputs["bbox_regression"], anchors, matched_idxs, strict=True
        ):
            found = matched >= 0
            truth = target["boxes"][matched[found]]
            encoded.append(self.box_coder.encode_single(truth, of_image[found]))
            predicted.append(boxes[found])
        pred, target = torch.cat(predicted), torch.cat(encoded)
        return self.loss(pred, target, avg_factor=max(1, len(pred)))


def _norm(channels: int) -> nn.Module:
    return nn.GroupNorm(16, channels)


def build_detector(classes: int) -> RetinaNet:
    """RetinaNet on P2 to P6 of a ResNet-18, P2 replaced by the block."""
    body = resnet18(weights=None)
    stages = {f"layer{i + 1}": str(i) for i in range(4)}
    backbone = BackboneWithFPN(body, stages, [64, 128, 256, 512], CHANNELS)
    backbone.fpn = nn.Sequential(backbone.fpn, EFPNBSLevel(CHANNELS, low="0", high="3"))
    anchors = AnchorGenerator(ANCHORS, ((1.0,),) * len(ANCHORS))
    count = anchors.num_anchors_per_location()[0]
    head = retinanet.RetinaNetHead(CHANNELS, count, classes, norm_layer=_norm)
    head.regression_head = DCLossRegressionHead(CHANNELS, count)
    return RetinaNet(
        backbone,
        classes,
        SIZE,
        SIZE,
        anchor_generator=anchors,
        head=head,
        topk_candidates=300,
        nms_thresh=0.3,
    )


# ---- training and evaluation -------------------------------------------------------------------------------


def train(model: RetinaNet, split: demo_data.Split, steps: int, batch: int = 8) -> None:
    """AdamW with one cycle of the rate; no weight decay on k and delta."""
    loss = model.head.regression_head.loss
    own = {id(p) for p in loss.parameters()}
    rest = [p for p in model.parameters() if id(p) not in own]
    groups = [{"params": rest}, {"params": list(loss.parameters()), "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, [2e-3, 2e-3], total_steps=steps)
    order = random.Random(0)
    model.train()
    for step in range(1, steps + 1):
        images, targets = zip(*order.sample(split.items, min(batch, len(split.items))))
        losses = model(list(images), [dict(target) for target in targets])
        optimizer.zero_grad()
        sum(losses.values()).backward()
        nn.utils.clip_grad_norm_(rest, 5.0)
        optimizer.step()
        schedule.step()
        if step % 25 == 0 or step == steps:
            shown = ", ".join(f"{name} {value.item():.3f}" for name, value in losses.items())
            print(
                f"step {step}/{steps}: {shown}, k {loss.k.item():.2f}, delta {loss.delta.item():.3f}",
                flush=True,
            )


@torch.no_grad()
def detect(model: RetinaNet, split: demo_data.Split) -> list[dict[str, Tensor]]:
    """Boxes, labels and scores above ``SCORE``, image by image."""
    model.eval()
    found = []
    for image, _ in split.items:
        (out,) = model([image])
        found.append({name: value[out["scores"] > SCORE] for name, value in out.items()})
    return found


def evaluate(split: demo_data.Split, found: Sequence[dict[str, Tensor]]) -> dict[str, float]:
    """Recall and precision: an object counts as found by a box of its class with an IoU of 0.5."""
    hits = objects = boxes = 0
    for (_, target), out in zip(split.items, found, strict=True):
        objects, boxes = objects + len(target["boxes"]), boxes + len(out["boxes"])
        if not len(target["boxes"]) or not len(out["boxes"]):
            continue
        fits = box_iou(target["boxes"], out["boxes"]) >= 0.5
        fits &= target["labels"][:, None] == out["labels"]
        free = set(range(len(target["boxes"])))
        for column in fits.T:  # by falling score
            match = next((i for i in free if column[i]), None)
            if match is not None:
                free.remove(match)
                hits += 1
    return {"recall": hits / max(objects, 1), "precision": hits / max(boxes, 1)}


# ---- pictures -----------------------------------------------------------------------------------------------


def draw(
    split: demo_data.Split, found: Sequence[dict[str, Tensor]], path: Path, count: int = 5
) -> None:
    """Two rows, what is there and what was found, of ``count`` pictures at twice their size."""
    shown = range(0, len(split.items), max(1, len(split.items) // count))[:count]
    side = 2 * SIZE
    sheet = Image.new("RGB", (len(shown) * (side + 4) - 4, 2 * side + 4), "white")
    for column, index in enumerate(shown):
        image, target = split.items[index]
        pixels = (image.permute(1, 2, 0) * 255).byte().numpy()
        for row, (boxes, colour) in enumerate(
            ((target["boxes"], "lime"), (found[index]["boxes"], "yellow"))
        ):
            picture = Image.fromarray(pixels).resize((side, side), Image.Resampling.NEAREST)
            pen = ImageDraw.Draw(picture)
            for box in (boxes * 2).tolist():
                pen.rectangle(box, outline=colour, width=2)
            sheet.paste(picture, (column * (side + 4), row * (side + 4)))
    sheet.save(path)


def main(arguments: Sequence[str] | None = None) -> int:
    """Data, training, evaluation before and after, pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("build/example"), help="folder")
    parser.add_argument("--images", type=int, default=400, help="composed scenes")
    parser.add_argument("--steps", type=int, default=250, help="of eight pictures each")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    data = options.out / f"data-{options.images}"
    if not data.exists():
        demo_data.build(data, options.images, SIZE)
    training, test = (demo_data.Split(data, name) for name in ("train", "test"))
    torch.manual_seed(0)
    model = build_detector(len(training.classes))
    print(explain("efpn_bs", torch.empty(8, CHANNELS, SIZE // 4, SIZE // 4)))
    before = evaluate(test, detect(model, test))
    start = time.perf_counter()
    train(model, training, options.steps)
    seconds = time.perf_counter() - start
    found = detect(model, test)
    after = evaluate(test, found)
    draw(test, found, options.out / "pictures.png")
    result = {"before": before, "after": after, "training_seconds": round(seconds, 1)}
    (options.out / "result.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result))
    print(f"pictures: {options.out / 'pictures.png'}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
