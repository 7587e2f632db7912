_base_ = ["cascade_rcnn.py"]

model = dict(
    rpn_head=dict(
        anchor_generator=dict(_delete_=True, type="RFAnchorGenerator", strides=[4, 8, 16, 32, 64])
    ),
    train_cfg=dict(
        rpn=dict(
            assigner=dict(
                _delete_=True,
                type="HierarchicalAssigner",
                similarity="kl",
                topk=(3, 1),
                published_rescale=True,  # as in every config of the published code
            )
        )
    ),
)
