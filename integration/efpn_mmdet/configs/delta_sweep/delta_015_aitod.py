# Fig. 7: k and delta stay at these values.
_base_ = ["../faster_rcnn/efpn_bs_aitod.py"]

dc_loss = dict(k=10.0, delta=0.15, learnable=False)
model = dict(rpn_head=dict(loss_bbox=dc_loss), roi_head=dict(bbox_head=dict(loss_bbox=dc_loss)))

table_rows = [
    dict(table="7", row="0.15", differences=""),
]
