# Cascade R-CNN: Faster R-CNN with three RoI stages of rising IoU and smooth L1 losses.
_base_ = ["faster_rcnn.py"]

_head = dict(
    _base_.model.roi_head.bbox_head,
    reg_class_agnostic=True,
    loss_bbox=dict(type="SmoothL1Loss", beta=1.0, loss_weight=1.0),
)
_deviations = ([0.1, 0.1, 0.2, 0.2], [0.05, 0.05, 0.1, 0.1], [0.033, 0.033, 0.067, 0.067])
_rcnn = _base_.model.train_cfg.rcnn

model = dict(
    type="CascadeRCNN",
    rpn_head=dict(
        loss_bbox=dict(_delete_=True, type="SmoothL1Loss", beta=1.0 / 9.0, loss_weight=1.0)
    ),
    roi_head=dict(
        type="CascadeRoIHead",
        num_stages=3,
        stage_loss_weights=[1, 0.5, 0.25],
        bbox_head=[
            dict(_head, bbox_coder=dict(_head["bbox_coder"], target_stds=target_stds))
            for target_stds in _deviations
        ],
    ),
    train_cfg=dict(
        rpn=dict(allowed_border=0),
        rcnn=[
            dict(
                _rcnn,
                assigner=dict(_rcnn.assigner, pos_iou_thr=iou, neg_iou_thr=iou, min_pos_iou=iou),
            )
            for iou in (0.5, 0.6, 0.7)
        ],
    ),
)

del _head, _deviations, _rcnn
