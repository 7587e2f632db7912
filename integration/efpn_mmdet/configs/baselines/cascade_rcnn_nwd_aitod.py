# NWD-style: the normalised Wasserstein distance in place of IoU when the RPN assigns labels.
_base_ = ["cascade_rcnn_scale2_aitod.py"]

model = dict(
    train_cfg=dict(
        rpn=dict(assigner=dict(iou_calculator=dict(type="BoxSimilarity", similarity="nwd")))
    )
)
