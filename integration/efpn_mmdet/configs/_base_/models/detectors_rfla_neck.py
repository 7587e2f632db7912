_base_ = ["detectors_rfla.py"]

model = dict(neck=dict(_delete_=True, type="EFPNBSNeck", base=_base_.model.neck))
