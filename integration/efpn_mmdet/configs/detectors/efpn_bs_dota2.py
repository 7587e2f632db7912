_base_ = [
    "../_base_/models/detectors_efpn_bs.py",
    "../_base_/datasets/dota2.py",
    "../_base_/schedules/paper.py",
    "../_base_/runtime.py",
]

model = dict(
    roi_head=dict(
        bbox_head=[dict(head, num_classes=18) for head in _base_.model.roi_head.bbox_head]
    ),
    train_cfg=dict(rpn=dict(assigner=dict(topk=(2, 1)))),
)

table_rows = [
    dict(table="3", row="DR*", differences="delta bounded to 0.05 and 0.5 in the RPN"),
]
