# FSANet with E-FPN-BS: P3 is replaced, P5 guides it.
_base_ = ["plain_aitod.py"]

model = dict(
    neck=dict(
        _delete_=True,
        type="EFPNBSNeck",
        base=_base_.model.neck,
        low_level=0,
        high_level=2,
    )
)
