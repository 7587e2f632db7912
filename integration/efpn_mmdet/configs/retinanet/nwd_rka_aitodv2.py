# RetinaNet with NWD-RKA, two anchors for each box; a public log has 10.5 AP.
_base_ = ["plain_aitodv2.py"]

model = dict(
    train_cfg=dict(
        assigner=dict(
            _delete_=True,
            type="HierarchicalAssigner",
            similarity=dict(type="nwd", constant=12.7),
            topk=(2, 0),
            background_below=0.3,
        )
    )
)
