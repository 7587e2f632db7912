# Table 5: CEM and FBSM, mmdet's L1 loss.
_base_ = [
    "../_base_/models/faster_rcnn_rfla_neck.py",
    "../_base_/datasets/aitod.py",
    "../_base_/schedules/paper.py",
    "../_base_/runtime.py",
]

table_rows = [
    dict(table="5", row="CEM, FBSM", differences=""),
]
