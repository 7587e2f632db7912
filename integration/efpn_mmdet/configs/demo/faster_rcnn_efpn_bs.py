# The demo: the full method from scratch on a CPU, so every layer is narrow and the pictures are small.
_base_ = [
    "../_base_/models/faster_rcnn_efpn_bs.py",
    "../_base_/datasets/aitod.py",
    "../_base_/runtime.py",
]
channels = 64
dc_loss = dict(k_range=(5.0, 20.0), delta_range=(0.05, 0.5))

model = dict(
    backbone=dict(depth=18, base_channels=32, frozen_stages=-1, norm_eval=False, init_cfg=None),
    neck=dict(base=dict(in_channels=[32, 64, 128, 256], out_channels=channels)),
    rpn_head=dict(
        in_channels=channels,
        feat_channels=channels,
        # The theoretical receptive fields of ResNet-18.
        anchor_generator=dict(receptive_fields=[43, 99, 211, 435, 563]),
        loss_bbox=dc_loss,
    ),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=channels),
        bbox_head=dict(in_channels=channels, fc_out_channels=256, num_classes=7, loss_bbox=dc_loss),
    ),
    train_cfg=dict(
        rpn=dict(assigner=dict(published_rescale=False)),
        rpn_proposal=dict(nms_pre=1000, max_per_img=500),
        rcnn=dict(sampler=dict(num=256)),
    ),
    test_cfg=dict(rpn=dict(nms_pre=1000, max_per_img=500), rcnn=dict(max_per_img=500)),
)
tta_model = dict(tta_cfg=dict(max_per_img=500))

data_root = "demo/data/"
train_dataloader = dict(
    batch_size=4,
    num_workers=0,
    dataset=dict(
        type="TinyDemoDataset",
        data_root=data_root,
        ann_file="train.json",
        data_prefix=dict(img="images/"),
        # The pictures have the network's size already; there is no up or down in them.
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="LoadAnnotations", with_bbox=True),
            dict(type="RandomFlip", prob=0.75, direction=["horizontal", "vertical", "diagonal"]),
            dict(type="PackDetInputs"),
        ],
    ),
)
test_dataloader = dict(
    num_workers=0,
    dataset=dict(
        type="TinyDemoDataset",
        data_root=data_root,
        ann_file="test.json",
        data_prefix=dict(img="images/"),
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="Resize", scale_factor=1.0, keep_ratio=True),
            *_base_.test_pipeline[2:],
        ],
    ),
)
val_dataloader = test_dataloader
test_evaluator = dict(ann_file=data_root + "test.json", classwise=True)
val_evaluator = test_evaluator

max_epochs = 20
train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=max_epochs, val_interval=5)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
optim_wrapper = dict(
    type="OptimWrapper",
    constructor="DCLossOptimWrapperConstructor",
    optimizer=dict(type="AdamW", lr=0.001, weight_decay=0.01),
    clip_grad=dict(max_norm=10.0),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=100),
    dict(
        type="CosineAnnealingLR",
        by_epoch=True,
        begin=0,
        end=max_epochs,
        T_max=max_epochs,
        eta_min=1e-5,
        convert_to_iter_based=True,
    ),
]
default_hooks = dict(
    logger=dict(interval=10), checkpoint=dict(interval=max_epochs, max_keep_ckpts=1)
)
custom_hooks = [
    dict(type="NumClassCheckHook"),
    dict(type="MatchCheckpointHook"),
    dict(type="ReproducibleEpochsHook"),
    dict(type="UseDCLossHook"),
    dict(type="LogEFPNHook", interval=10),
]
randomness = dict(seed=0)
