# Faster R-CNN with NWD in the RPN's assignment, loss (of decoded boxes) and NMS, as the log of 17.8 AP has it, but
# for its lr of 0.01.
_base_ = ["faster_rcnn_scale8_aitod.py"]

_nms = dict(
    _delete_=True,
    type="similarity",
    similarity=dict(type="nwd", constant=12.8),
    threshold=0.85,
)
model = dict(
    rpn_head=dict(
        type="SimilarityRPNHead",
        reg_decoded_bbox=True,
        loss_bbox=dict(_delete_=True, type="NWDLoss", constant=12.8, loss_weight=10.0),
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
