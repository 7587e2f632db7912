# FoveaBox: no run of the row is public: mmdet's defaults and the paper's schedule.
_base_ = [
    "../_base_/models/one_stage.py",
    "../_base_/datasets/aitodv2.py",
    "../_base_/schedules/paper.py",
    "../_base_/runtime.py",
]

model = dict(
    type="FOVEA",
    bbox_head=dict(
        type="FoveaHead",
        strides=[8, 16, 32, 64, 128],
        base_edge_list=[16, 32, 64, 128, 256],
        scale_ranges=((1, 64), (32, 128), (64, 256), (128, 512), (256, 2048)),
        sigma=0.4,
        with_deform=False,
        loss_cls=dict(gamma=1.5, alpha=0.4),
        loss_bbox=dict(type="SmoothL1Loss", beta=0.11, loss_weight=1.0),
    ),
    train_cfg=dict(),
)
find_unused_parameters = True  # the box branch, in a batch without boxes
table_rows = [
    dict(
        table="4",
        row="FoveaBox",
        differences="no run of the row is public: mmdet's defaults and the paper's schedule",
    )
]
