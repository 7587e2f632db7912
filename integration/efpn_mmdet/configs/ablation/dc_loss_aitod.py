# Table 5: DCLoss alone.
_base_ = ["../faster_rcnn/rfla_aitod.py"]

model = dict(
    rpn_head=dict(loss_bbox=dict(_delete_=True, type="DCLoss", delta_range=(0.05, 0.5))),
    roi_head=dict(bbox_head=dict(loss_bbox=dict(_delete_=True, type="DCLoss"))),
)

table_rows = [
    dict(table="5", row="DCLoss", differences=""),
]
