# DetectoRS with NWD-RKA: each box takes the RPN's three anchors of the highest NWD. The background's bound of 0.3 is
# its code's; its paper has none, which is 1.0.
_base_ = ["detectors_scale8_aitod.py"]

model = dict(
    train_cfg=dict(
        rpn=dict(
            assigner=dict(
                _delete_=True,
                type="HierarchicalAssigner",
                similarity=dict(type="nwd", constant=12.7),
                topk=(3, 0),
                background_below=0.3,
            )
        )
    )
)
table_rows = [
    dict(
        table="1",
        row="NWD-RKA",
        differences="no DetectoRS config for AI-TOD is public, so AI-TOD-v2's; lr 0.005, since 0.01 met NaN",
    )
]
