# FCOS from P2 on, as in RFLA's repository, whose authors found 15.4 AP and AP_vt 6.0.
_base_ = ["plain_aitod.py"]

model = dict(
    neck=dict(start_level=0),
    bbox_head=dict(
        strides=[4, 8, 16, 32, 64],
        loss_bbox=dict(type="GIoULoss"),
    ),
)
