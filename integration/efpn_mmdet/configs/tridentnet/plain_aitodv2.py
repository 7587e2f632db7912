# TridentNet: no run of the row is public: mmdet's defaults and the paper's schedule. It has no neck, so nothing of E-FPN-BS fits.
_base_ = [
    "../_base_/models/faster_rcnn.py",
    "../_base_/datasets/aitodv2.py",
    "../_base_/schedules/paper.py",
    "../_base_/runtime.py",
]

_caffe = dict(type="Pretrained", checkpoint="open-mmlab://detectron2/resnet50_caffe")
model = dict(
    type="TridentFasterRCNN",
    data_preprocessor=dict(mean=[103.530, 116.280, 123.675], std=[1.0, 1.0, 1.0], bgr_to_rgb=False),
    backbone=dict(
        type="TridentResNet",
        trident_dilations=(1, 2, 3),
        num_branch=3,
        test_branch_idx=1,
        num_stages=3,
        strides=(1, 2, 2),
        dilations=(1, 1, 1),
        out_indices=(2,),
        norm_cfg=dict(requires_grad=False),
        style="caffe",
        init_cfg=_caffe,
    ),
    neck=None,
    rpn_head=dict(
        in_channels=1024,
        feat_channels=1024,
        anchor_generator=dict(scales=[2, 4, 8, 16, 32], strides=[16]),
    ),
    roi_head=dict(
        type="TridentRoIHead",
        num_branch=3,
        test_branch_idx=1,
        shared_head=dict(
            type="ResLayer",
            depth=50,
            stage=3,
            stride=2,
            dilation=1,
            style="caffe",
            norm_cfg=dict(type="BN", requires_grad=False),
            norm_eval=True,
            init_cfg=_caffe,
        ),
        bbox_roi_extractor=dict(
            roi_layer=dict(output_size=14), out_channels=1024, featmap_strides=[16]
        ),
        bbox_head=dict(
            _delete_=True,
            type="BBoxHead",
            with_avg_pool=True,
            roi_feat_size=7,
            in_channels=2048,
            num_classes=8,
            bbox_coder=dict(
                type="DeltaXYWHBBoxCoder", target_means=[0.0] * 4, target_stds=[0.1, 0.1, 0.2, 0.2]
            ),
            reg_class_agnostic=False,
            loss_cls=dict(type="CrossEntropyLoss", use_sigmoid=False, loss_weight=1.0),
            loss_bbox=dict(type="L1Loss", loss_weight=1.0),
        ),
    ),
    train_cfg=dict(
        rpn_proposal=dict(max_per_img=500),
        rcnn=dict(sampler=dict(num=128, pos_fraction=0.5, add_gt_as_proposals=False)),
    ),
)

del _caffe
table_rows = [
    dict(
        table="4",
        row="TridentNet",
        differences="no run of the row is public: mmdet's defaults and the paper's schedule",
    )
]
