# The paper's, with FCOS's long warm-up, clipped gradients and fast biases.
_base_ = ["paper.py"]

param_scheduler = [
    dict(type="ConstantLR", factor=1.0 / 3.0, by_epoch=False, begin=0, end=10000),
    dict(type="MultiStepLR", by_epoch=True, begin=0, end=12, milestones=[8, 11], gamma=0.1),
]
optim_wrapper = dict(
    paramwise_cfg=dict(bias_lr_mult=2.0, bias_decay_mult=0.0),
    clip_grad=dict(max_norm=35, norm_type=2),
)
