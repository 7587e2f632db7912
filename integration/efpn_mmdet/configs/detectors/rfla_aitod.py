_base_ = [
    "../_base_/models/detectors_rfla.py",
    "../_base_/datasets/aitod.py",
    "../_base_/schedules/paper.py",
    "../_base_/runtime.py",
]
