# Sparse R-CNN: no run of the row is public; mmdet's defaults, AdamW among them.
_base_ = [
    "../_base_/models/faster_rcnn.py",
    "../_base_/datasets/aitod.py",
    "../_base_/schedules/paper.py",
    "../_base_/runtime.py",
]

proposals = 100  # at most so many boxes an image are found, times the classes
stages = 6
model = dict(
    type="SparseRCNN",
    neck=dict(start_level=0, add_extra_convs="on_input", num_outs=4),
    rpn_head=dict(
        _delete_=True,
        type="EmbeddingRPNHead",
        num_proposals=proposals,
        proposal_feature_channel=256,
    ),
    roi_head=dict(
        _delete_=True,
        type="SparseRoIHead",
        num_stages=stages,
        stage_loss_weights=[1] * stages,
        proposal_feature_channel=256,
        bbox_roi_extractor=dict(
            type="SingleRoIExtractor",
            roi_layer=dict(type="RoIAlign", output_size=7, sampling_ratio=2),
            out_channels=256,
            featmap_strides=[4, 8, 16, 32],
        ),
        bbox_head=[
            dict(
                type="DIIHead",
                num_classes=8,
                num_ffn_fcs=2,
                num_heads=8,
                num_cls_fcs=1,
                num_reg_fcs=3,
                feedforward_channels=2048,
                in_channels=256,
                dropout=0.0,
                ffn_act_cfg=dict(type="ReLU", inplace=True),
                dynamic_conv_cfg=dict(
                    type="DynamicConv",
                    in_channels=256,
                    feat_channels=64,
                    out_channels=256,
                    input_feat_shape=7,
                    act_cfg=dict(type="ReLU", inplace=True),
                    norm_cfg=dict(type="LN"),
                ),
                loss_bbox=dict(type="L1Loss", loss_weight=5.0),
                loss_iou=dict(type="GIoULoss", loss_weight=2.0),
                loss_cls=dict(
                    type="FocalLoss", use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=2.0
                ),
                bbox_coder=dict(
                    type="DeltaXYWHBBoxCoder",
                    clip_border=False,
                    target_means=[0.0] * 4,
                    target_stds=[0.5, 0.5, 1.0, 1.0],
                ),
            )
        ]
        * stages,
    ),
    train_cfg=dict(
        _delete_=True,
        rpn=None,
        rcnn=[
            dict(
                assigner=dict(
                    type="HungarianAssigner",
                    match_costs=[
                        dict(type="FocalLossCost", weight=2.0),
                        dict(type="BBoxL1Cost", weight=5.0, box_format="xyxy"),
                        dict(type="IoUCost", iou_mode="giou", weight=2.0),
                    ],
                ),
                sampler=dict(type="PseudoSampler"),
                pos_weight=1,
            )
        ]
        * stages,
    ),
    # More than proposals x classes cannot be asked for.
    test_cfg=dict(_delete_=True, rpn=None, rcnn=dict(max_per_img=proposals)),
)
tta_model = dict(tta_cfg=dict(max_per_img=proposals))

optim_wrapper = dict(
    optimizer=dict(_delete_=True, type="AdamW", lr=0.000025, weight_decay=0.0001),
    clip_grad=dict(max_norm=1, norm_type=2),
)
auto_scale_lr = dict(base_batch_size=16)
custom_hooks = [
    *_base_.custom_hooks[:-1],
    dict(type="CheckScheduleHook", lr=0.000025, batch_size=16),
]
table_rows = [
    dict(
        table="1",
        row="Sparse R-CNN",
        differences="no run of the row is public: mmdet's defaults, with AdamW where the paper says SGD; 100 proposals",
    )
]
