_base_ = [
    "../_base_/models/faster_rcnn_rfla.py",
    "../_base_/datasets/aitodv2.py",
    "../_base_/schedules/paper.py",
    "../_base_/runtime.py",
]

table_rows = [
    dict(table="4", row="RFLA w/ Faster R-CNN", differences=""),
]
