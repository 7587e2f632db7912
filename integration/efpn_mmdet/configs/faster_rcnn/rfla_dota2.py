_base_ = [
    "../_base_/models/faster_rcnn_rfla.py",
    "../_base_/datasets/dota2.py",
    "../_base_/schedules/paper.py",
    "../_base_/runtime.py",
]

model = dict(
    roi_head=dict(bbox_head=dict(num_classes=18)),
    train_cfg=dict(rpn=dict(assigner=dict(topk=(2, 1)))),
)

table_rows = [
    dict(table="3", row="FR/RFLA", differences=""),
]
