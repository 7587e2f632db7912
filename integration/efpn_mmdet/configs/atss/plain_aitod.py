# ATSS, the settings of the run whose log has the row's numbers (a config of the NWD repository).
_base_ = [
    "../_base_/models/one_stage.py",
    "../_base_/datasets/aitod.py",
    "../_base_/schedules/paper.py",
    "../_base_/runtime.py",
]

model = dict(
    type="ATSS",
    neck=dict(add_extra_convs="on_output"),
    bbox_head=dict(
        type="ATSSHead",
        anchor_generator=dict(
            type="AnchorGenerator",
            ratios=[1.0],
            octave_base_scale=8,
            scales_per_octave=1,
            strides=[8, 16, 32, 64, 128],
        ),
        bbox_coder=dict(
            type="DeltaXYWHBBoxCoder", target_means=[0.0] * 4, target_stds=[0.1, 0.1, 0.2, 0.2]
        ),
        loss_bbox=dict(type="GIoULoss", loss_weight=2.0),
        loss_centerness=dict(type="CrossEntropyLoss", use_sigmoid=True, loss_weight=1.0),
    ),
    train_cfg=dict(
        assigner=dict(type="ATSSAssigner", topk=9), allowed_border=-1, pos_weight=-1, debug=False
    ),
    test_cfg=dict(nms=dict(iou_threshold=0.6)),
)
tta_model = dict(tta_cfg=dict(nms=dict(iou_threshold=0.6)))

# On four GPUs; how many images each had is not on record, two are taken.
optim_wrapper = dict(optimizer=dict(lr=0.0025))
auto_scale_lr = dict(base_batch_size=8)
param_scheduler = [
    dict(type="ConstantLR", factor=1.0 / 3.0, by_epoch=False, begin=0, end=2000),
    dict(type="MultiStepLR", by_epoch=True, begin=0, end=12, milestones=[8, 11], gamma=0.1),
]
custom_hooks = [*_base_.custom_hooks[:-1], dict(type="CheckScheduleHook", lr=0.0025, batch_size=8)]
table_rows = [
    dict(
        table="1",
        row="ATSS",
        differences="batch size not on record, 8 taken",
    )
]
