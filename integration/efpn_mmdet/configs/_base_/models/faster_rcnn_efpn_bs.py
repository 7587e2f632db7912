_base_ = ["faster_rcnn_rfla_neck.py"]

model = dict(
    # A dense head: without a range delta would wander off.
    rpn_head=dict(loss_bbox=dict(_delete_=True, type="DCLoss", delta_range=(0.05, 0.5))),
    roi_head=dict(bbox_head=dict(loss_bbox=dict(_delete_=True, type="DCLoss"))),
)
