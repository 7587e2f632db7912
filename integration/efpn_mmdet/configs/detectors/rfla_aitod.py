# DetectoRS with RFLA on AI-TOD.
_base_ = [
    "../_base_/models/detectors_rfla.py",
    "../_base_/datasets/aitod.py",
    "../_base_/schedules/paper.py",
    "../_base_/runtime.py",
]

table_rows = [
    dict(table="1", row="RFLA", differences=""),
]
