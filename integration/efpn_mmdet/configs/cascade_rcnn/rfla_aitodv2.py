# Cascade R-CNN with RFLA on AI-TOD-v2.
_base_ = [
    "../_base_/models/cascade_rcnn_rfla.py",
    "../_base_/datasets/aitodv2.py",
    "../_base_/schedules/paper.py",
    "../_base_/runtime.py",
]
