# Table 5: CEM alone.
_base_ = ["cem_fbsm_aitod.py"]

model = dict(neck=dict(use_fbsm=False))

table_rows = [
    dict(table="5", row="CEM", differences=""),
]
