# Faster R-CNN with DotD in place of IoU when the RPN assigns labels. 12.7 is the published code's size, of AI-TOD-v2.
_base_ = ["faster_rcnn_scale8_aitod.py"]

model = dict(
    train_cfg=dict(
        rpn=dict(
            assigner=dict(
                iou_calculator=dict(type="BoxSimilarity", similarity=dict(type="dotd", size=12.7))
            )
        )
    )
)
table_rows = [
    dict(
        table="1",
        row="DoTD",
        differences="the row's detector is not on record: the public config's Faster R-CNN; lr 0.005 for its 0.01",
    )
]
