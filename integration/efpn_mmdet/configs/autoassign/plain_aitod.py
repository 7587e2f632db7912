# AutoAssign, the settings of RFLA's repository; no log of the row's numbers is public.
_base_ = [
    "../_base_/models/one_stage_caffe.py",
    "../_base_/datasets/aitod.py",
    "../_base_/schedules/paper.py",
    "../_base_/runtime.py",
]

model = dict(
    type="AutoAssign",
    neck=dict(
        add_extra_convs=True,
        relu_before_extra_convs=True,
        init_cfg=dict(type="Caffe2Xavier", layer="Conv2d"),
    ),
    bbox_head=dict(
        _delete_=True,
        type="AutoAssignHead",
        num_classes=8,
        in_channels=256,
        stacked_convs=4,
        feat_channels=256,
        strides=[8, 16, 32, 64, 128],
        loss_bbox=dict(type="GIoULoss", loss_weight=5.0),
    ),
    train_cfg=None,
    test_cfg=dict(nms_pre=1000, max_per_img=1000, nms=dict(iou_threshold=0.6)),
)
tta_model = dict(tta_cfg=dict(max_per_img=1000, nms=dict(iou_threshold=0.6)))

train_dataloader = dict(batch_size=4)
optim_wrapper = dict(paramwise_cfg=dict(norm_decay_mult=0.0))
auto_scale_lr = dict(base_batch_size=4)
custom_hooks = [*_base_.custom_hooks[:-1], dict(type="CheckScheduleHook", lr=0.005, batch_size=4)]
table_rows = [
    dict(
        table="1",
        row="AutoAssign",
        differences="1 000 detections an image, as published",
    )
]
