# Tuned anchors and nothing else.
_base_ = [
    "../_base_/models/faster_rcnn.py",
    "../_base_/datasets/aitod.py",
    "../_base_/schedules/paper.py",
    "../_base_/runtime.py",
]
