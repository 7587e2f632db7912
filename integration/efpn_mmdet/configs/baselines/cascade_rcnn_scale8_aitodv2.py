# mmdet's default anchors.
_base_ = [
    "../_base_/models/cascade_rcnn.py",
    "../_base_/datasets/aitodv2.py",
    "../_base_/schedules/paper.py",
    "../_base_/runtime.py",
]

model = dict(rpn_head=dict(anchor_generator=dict(scales=[8])))
