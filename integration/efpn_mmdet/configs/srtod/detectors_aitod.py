# DetectoRS with SR-TOD: the published threshold and anchors of scale 4.
_base_ = ["../baselines/detectors_scale8_aitod.py"]

model = dict(
    type="SRTODCascadeRCNN",
    srtod=dict(channels=256, threshold=3 / 255),
    rpn_head=dict(anchor_generator=dict(scales=[4])),
)
table_rows = [
    dict(
        table="1",
        row="SRTOD",
        differences="lr 0.005 for 0.01; with switchable atrous convolution, which the published file of that name lacks",
    )
]
