# AI-TOD-v2: the images of AI-TOD with other annotations.
_base_ = ["aitod.py"]

train_dataloader = dict(dataset=dict(ann_file="annotations/aitodv2_trainval.json"))
test_dataloader = dict(dataset=dict(ann_file="annotations/aitodv2_test.json"))
val_dataloader = test_dataloader
test_evaluator = dict(ann_file=_base_.data_root + "annotations/aitodv2_test.json")
val_evaluator = test_evaluator
