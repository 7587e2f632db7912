# Grid R-CNN with E-FPN-BS: P2 is replaced, P5 guides it.
_base_ = ["plain_aitodv2.py"]

model = dict(
    neck=dict(
        _delete_=True,
        type="EFPNBSNeck",
        base=_base_.model.neck,
        low_stride=4,
        high_stride=32,
    )
)
