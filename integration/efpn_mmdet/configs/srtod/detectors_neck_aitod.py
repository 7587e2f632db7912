# DetectoRS with E-FPN-BS and SR-TOD: both change P2, E-FPN-BS first.
_base_ = ["detectors_aitod.py"]

model = dict(neck=dict(_delete_=True, type="EFPNBSNeck", base=_base_.model.neck))
