_base_ = ["faster_rcnn_rfla.py"]

model = dict(neck=dict(_delete_=True, type="EFPNBSNeck", base=_base_.model.neck))
