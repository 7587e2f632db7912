# Cascade R-CNN with RFLA on AI-TOD.
_base_ = [
    "../_base_/models/cascade_rcnn_rfla.py",
    "../_base_/datasets/aitod.py",
    "../_base_/schedules/paper.py",
    "../_base_/runtime.py",
]
