# DOTA-v2, horizontal boxes on tiles of 1024: trained on train, reported on val.
# The tiles: efpn convert dota2 <split>/images <split>/labelTxt-v2.0 data/dota2/<split>
_base_ = ["aitod.py"]

dataset_type = "DOTA2HBBDataset"
data_root = "data/dota2/"
_resize = dict(type="Resize", scale=(1024, 1024), keep_ratio=True)

train_dataloader = dict(
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        ann_file="train/annotations.json",
        data_prefix=dict(img="train/images/"),
        pipeline=[_resize if one["type"] == "Resize" else one for one in _base_.train_pipeline],
    )
)
test_dataloader = dict(
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        ann_file="val/annotations.json",
        data_prefix=dict(img="val/images/"),
        pipeline=[_resize if one["type"] == "Resize" else one for one in _base_.test_pipeline],
    )
)
val_dataloader = test_dataloader
test_evaluator = dict(ann_file=data_root + "val/annotations.json")
val_evaluator = test_evaluator

del _resize
