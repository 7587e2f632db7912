# VisDrone2019-DET: trained on train, reported on val.
# The json files: efpn convert visdrone <split>/images <split>/annotations data/visdrone/<split>.json
_base_ = ["aitod.py"]

dataset_type = "VisDroneDataset"
data_root = "data/visdrone/"
_resize = dict(type="Resize", scale=(1333, 800), keep_ratio=True)

train_dataloader = dict(
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        ann_file="train.json",
        data_prefix=dict(img="VisDrone2019-DET-train/images/"),
        pipeline=[_resize if one["type"] == "Resize" else one for one in _base_.train_pipeline],
    )
)
test_dataloader = dict(
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        ann_file="val.json",
        data_prefix=dict(img="VisDrone2019-DET-val/images/"),
        pipeline=[_resize if one["type"] == "Resize" else one for one in _base_.test_pipeline],
    )
)
val_dataloader = test_dataloader
test_evaluator = dict(ann_file=data_root + "val.json")
val_evaluator = test_evaluator

del _resize
