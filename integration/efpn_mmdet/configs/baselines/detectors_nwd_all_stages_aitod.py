# DetectoRS with NWD in the assignment of the RPN and of all RoI stages and nothing else; a public log has 21.2 AP.
_base_ = ["detectors_scale8_aitod.py"]

_nwd = dict(type="BoxSimilarity", similarity=dict(type="nwd", constant=12.8))
model = dict(
    train_cfg=dict(
        rpn=dict(assigner=dict(iou_calculator=_nwd)),
        rcnn=[
            dict(stage, assigner=dict(stage.assigner, iou_calculator=_nwd))
            for stage in _base_.model.train_cfg.rcnn
        ],
    )
)

del _nwd
