# Table 5: FBSM alone.
_base_ = ["cem_fbsm_aitod.py"]

model = dict(neck=dict(use_cem=False))

table_rows = [
    dict(table="5", row="FBSM", differences=""),
]
