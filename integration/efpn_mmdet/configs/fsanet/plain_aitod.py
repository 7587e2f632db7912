# FSANet, the settings of its public config for AI-TOD.
_base_ = [
    "../_base_/models/one_stage.py",
    "../_base_/datasets/aitod.py",
    "../_base_/schedules/paper.py",
    "../_base_/runtime.py",
]

model = dict(
    type="FCOS",
    neck=dict(_delete_=True, type="AlignFPN", in_channels=[256, 512, 1024, 2048], out_channels=256),
    bbox_head=dict(type="FSANetHead", stacked_convs=3),
    test_cfg=dict(
        score_thr=0.1,
        nms=dict(type="soft_nms", iou_threshold=0.5),
        max_per_img=1500,
    ),
)
tta_model = dict(tta_cfg=dict(nms=dict(type="soft_nms", iou_threshold=0.5), max_per_img=1500))

# On two GPUs with four images each.
train_dataloader = dict(batch_size=4)
optim_wrapper = dict(optimizer=dict(lr=0.002), clip_grad=dict(max_norm=35, norm_type=2))
auto_scale_lr = dict(base_batch_size=8)
param_scheduler = [
    dict(type="LinearLR", start_factor=1.0 / 3.0, by_epoch=False, begin=0, end=500),
    dict(type="MultiStepLR", by_epoch=True, begin=0, end=12, milestones=[8, 11], gamma=0.1),
]
custom_hooks = [*_base_.custom_hooks[:-1], dict(type="CheckScheduleHook", lr=0.002, batch_size=8)]
table_rows = [
    dict(
        table="1",
        row="FSANet",
        differences="the range of a level is that of the distances to the point in both assignments",
    )
]
