_base_ = [
    "../_base_/models/faster_rcnn_rfla.py",
    "../_base_/datasets/aitod.py",
    "../_base_/schedules/paper.py",
    "../_base_/runtime.py",
]

table_rows = [
    dict(table="5", row="baseline (RFLA), no row of its own", differences=""),
]
