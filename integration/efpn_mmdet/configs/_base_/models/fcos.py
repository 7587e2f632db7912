# FCOS as RFLA's authors train it on AI-TOD.
_base_ = ["one_stage_caffe.py"]

model = dict(
    type="FCOS",
    backbone=dict(init_cfg=dict(checkpoint="open-mmlab://detectron/resnet50_caffe")),
    neck=dict(add_extra_convs="on_output", relu_before_extra_convs=True),
    bbox_head=dict(
        type="FCOSHead",
        strides=[8, 16, 32, 64, 128],
        norm_cfg=None,
        norm_on_bbox=True,
        centerness_on_reg=True,
        center_sampling=True,
        conv_bias=True,
        loss_bbox=dict(type="DIoULoss", loss_weight=1.0),
        loss_centerness=dict(type="CrossEntropyLoss", use_sigmoid=True, loss_weight=1.0),
    ),
)
