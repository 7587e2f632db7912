# RFLA with anchors that stay as they are: regression targets are made against their full size.
_base_ = ["rfla_aitod.py"]

model = dict(train_cfg=dict(rpn=dict(assigner=dict(published_rescale=False))))
