_base_ = [
    "../_base_/models/cascade_rcnn_efpn_bs.py",
    "../_base_/datasets/visdrone.py",
    "../_base_/schedules/paper.py",
    "../_base_/runtime.py",
]

model = dict(
    roi_head=dict(
        bbox_head=[dict(head, num_classes=10) for head in _base_.model.roi_head.bbox_head]
    )
)

table_rows = [
    dict(table="2", row="CA*", differences="delta bounded to 0.05 and 0.5 in the RPN"),
]
