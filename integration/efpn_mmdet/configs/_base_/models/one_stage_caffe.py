# The same on Caffe's ResNet-50: BGR, no division by a standard deviation, fixed batch norm.
_base_ = ["one_stage.py"]

model = dict(
    data_preprocessor=dict(mean=[103.530, 116.280, 123.675], std=[1.0, 1.0, 1.0], bgr_to_rgb=False),
    backbone=dict(
        norm_cfg=dict(requires_grad=False),
        style="caffe",
        init_cfg=dict(checkpoint="open-mmlab://detectron2/resnet50_caffe"),
    ),
)
