_base_ = ["faster_rcnn_rfla_neck.py"]

model = dict(
    rpn_head=dict(loss_bbox=dict(_delete_=True, type="DCLoss")),
    roi_head=dict(bbox_head=dict(loss_bbox=dict(_delete_=True, type="DCLoss"))),
)
