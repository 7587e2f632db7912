_base_ = [
    "../_base_/models/faster_rcnn_efpn_bs.py",
    "../_base_/datasets/aitodv2.py",
    "../_base_/schedules/paper.py",
    "../_base_/runtime.py",
]
