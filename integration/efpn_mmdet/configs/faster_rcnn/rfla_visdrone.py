_base_ = [
    "../_base_/models/faster_rcnn_rfla.py",
    "../_base_/datasets/visdrone.py",
    "../_base_/schedules/paper.py",
    "../_base_/runtime.py",
]

model = dict(roi_head=dict(bbox_head=dict(num_classes=10)))

table_rows = [
    dict(table="2", row="FR/RFLA", differences=""),
]
