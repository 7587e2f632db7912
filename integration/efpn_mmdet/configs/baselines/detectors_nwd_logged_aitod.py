# DetectoRS with NWD in the RPN's assignment, loss and NMS as the run was made whose log has the row's numbers: the
# loss sees encoded boxes, of which it is a saturating L2.
_base_ = ["detectors_scale8_aitod.py"]

_nms = dict(
    _delete_=True,
    type="similarity",
    similarity=dict(type="nwd", constant=12.8),
    threshold=0.85,
)
model = dict(
    rpn_head=dict(
        type="SimilarityRPNHead",
        reg_decoded_bbox=False,
        loss_bbox=dict(_delete_=True, type="NWDLoss", constant=12.8, loss_weight=5.0),
    ),
    train_cfg=dict(
        rpn=dict(
            assigner=dict(
                iou_calculator=dict(
                    type="BoxSimilarity", similarity=dict(type="nwd", constant=12.8)
                )
            )
        ),
        rpn_proposal=dict(nms=_nms),
    ),
    test_cfg=dict(rpn=dict(nms=_nms)),
)

del _nms

param_scheduler = [
    dict(type="LinearLR", start_factor=0.001, by_epoch=False, begin=0, end=2000),
    dict(type="MultiStepLR", by_epoch=True, begin=0, end=12, milestones=[8, 11], gamma=0.1),
]
table_rows = [
    dict(
        table="1",
        row="NWD",
        differences="lr 0.005 at a batch of 2 for 0.01 on several GPUs, whose number is not on record",
    )
]
