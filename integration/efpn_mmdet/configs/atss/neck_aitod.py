# ATSS with E-FPN-BS: P3 is replaced, P5 guides it.
_base_ = ["plain_aitod.py"]

model = dict(
    neck=dict(
        _delete_=True,
        type="EFPNBSNeck",
        base=_base_.model.neck,
        low_stride=8,
        high_stride=32,
    )
)
