# RetinaNet, the settings of the run whose log has the row's numbers (a config of the mmdet-aitod repository).
_base_ = [
    "../_base_/models/one_stage.py",
    "../_base_/datasets/aitodv2.py",
    "../_base_/schedules/paper.py",
    "../_base_/runtime.py",
]

model = dict(
    type="RetinaNet",
    bbox_head=dict(
        type="RetinaHead",
        anchor_generator=dict(
            type="AnchorGenerator",
            octave_base_scale=4,
            scales_per_octave=3,
            ratios=[0.5, 1.0, 2.0],
            strides=[8, 16, 32, 64, 128],
        ),
        bbox_coder=dict(
            type="DeltaXYWHBBoxCoder", target_means=[0.0] * 4, target_stds=[1.0, 1.0, 1.0, 1.0]
        ),
        loss_bbox=dict(type="L1Loss", loss_weight=1.0),
    ),
    train_cfg=dict(
        assigner=dict(
            type="ChunkedMaxIoUAssigner",
            pos_iou_thr=0.5,
            neg_iou_thr=0.4,
            min_pos_iou=0,
            ignore_iof_thr=-1,
        ),
        sampler=dict(type="PseudoSampler"),
        allowed_border=-1,
        pos_weight=-1,
        debug=False,
    ),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.001, by_epoch=False, begin=0, end=500),
    dict(type="MultiStepLR", by_epoch=True, begin=0, end=12, milestones=[8, 11], gamma=0.1),
]
table_rows = [
    dict(
        table="4",
        row="RetinaNet",
        differences="none known",
    )
]
