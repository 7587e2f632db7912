_base_ = [
    "../_base_/models/cascade_rcnn_efpn_bs.py",
    "../_base_/datasets/aitod.py",
    "../_base_/schedules/paper.py",
    "../_base_/runtime.py",
]

table_rows = [
    dict(table="1", row="Cascade*", differences="delta bounded to 0.05 and 0.5 in the RPN"),
]
