# mmdet's default anchors.
_base_ = ["cascade_rcnn_scale2_aitod.py"]

model = dict(rpn_head=dict(anchor_generator=dict(scales=[8])))
