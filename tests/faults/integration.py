"""The integration in mmdet: configs, hooks, assignment, metric, loss, neck, launchers."""

MMDET = "integration/efpn_mmdet/"
CONFIGS = MMDET + "configs/"
TABLE = ("tests/mmdet/test_published_values.py", "tests/mmdet/test_published_detectors.py")
HOOKS = ("tests/mmdet/test_hooks.py",)
RFLA = ("tests/mmdet/test_rfla.py", "tests/mmdet/test_rfla_distances.py")
METRIC = ("tests/mmdet/test_metric.py", "tests/mmdet/test_olrp.py")
LOSS = ("tests/mmdet/test_loss.py",)
NECK = ("tests/mmdet/test_neck.py", "tests/mmdet/test_neck_config.py")

FAULTS = (
    (CONFIGS + "_base_/schedules/paper.py", "milestones=[8, 11]", "milestones=[8, 10]", TABLE),
    (CONFIGS + "_base_/schedules/paper.py", "end=5000", "end=500", TABLE),
    (CONFIGS + "_base_/schedules/paper.py", "weight_decay=0.0001", "weight_decay=0.0005", TABLE),
    (CONFIGS + "_base_/schedules/paper.py", "lr=0.005, momentum", "lr=0.01, momentum", TABLE),
    (
        CONFIGS + "_base_/datasets/aitodv2.py",
        'test_dataloader = dict(dataset=dict(ann_file="annotations/aitodv2_test.json"))',
        'test_dataloader = dict(dataset=dict(ann_file="annotations/aitodv2_trainval.json"))',
        TABLE,
    ),
    (
        CONFIGS + "_base_/datasets/visdrone.py",
        'ann_file="val.json"',
        'ann_file="train.json"',
        TABLE,
    ),
    (CONFIGS + "_base_/datasets/dota2.py", "scale=(1024, 1024)", "scale=(800, 800)", TABLE),
    (CONFIGS + "_base_/models/faster_rcnn.py", "score_thr=0.05", "score_thr=0.5", TABLE),
    (CONFIGS + "_base_/models/faster_rcnn.py", "scales=[2],", "scales=[4],", TABLE),
    (CONFIGS + "_base_/models/cascade_rcnn_rfla.py", "topk=(3, 1)", "topk=(2, 1)", TABLE),
    (CONFIGS + "_base_/models/cascade_rcnn.py", "beta=1.0 / 9.0", "beta=1.0", TABLE),
    (CONFIGS + "delta_sweep/delta_030_aitod.py", "delta=0.3", "delta=0.2", TABLE),
    (CONFIGS + "ablation/fbsm_aitod.py", "use_cem=False", "use_fbsm=False", TABLE),
    (
        CONFIGS + "_base_/models/detectors_efpn_bs.py",
        "delta_range=(0.05, 0.5)",
        "delta_range=(0.05, 5.0)",
        TABLE,
    ),
    (
        MMDET + "hooks.py",
        "SeedSequence([runner.seed, runner.epoch, get_rank()])",
        "SeedSequence([runner.seed, runner.epoch])",
        HOOKS,
    ),
    (MMDET + "hooks.py", "* get_world_size() *", "*", HOOKS),
    (
        MMDET + "hooks.py",
        "zero = 0 * torch.stack(parameters).sum()",
        "zero = torch.stack(parameters).sum()",
        HOOKS,
    ),
    (MMDET + "hooks.py", "lr = max(group.get", "lr = min(group.get", HOOKS),
    (
        MMDET + "rfla/assigner.py",
        "background_below: float = 0.8,",
        "background_below: float = 0.7,",
        RFLA,
    ),
    (MMDET + "similarity/ranking.py", '"amax")', '"amin")', RFLA),
    (
        MMDET + "similarity/scores.py",
        "total += torch.log(h1 / h2)",
        "total += torch.log(h2 / h1)",
        RFLA,
    ),
    (
        MMDET + "similarity/scores.py",
        "constant: float = 12.8",
        "constant: float = 12.7",
        ("tests/mmdet/test_similarity.py",),
    ),
    (MMDET + "rfla/anchors.py", "4: 35, 8: 91", "4: 35, 8: 99", RFLA),
    (MMDET + "rfla/anchors.py", "fraction: float = 0.5", "fraction: float = 0.6", RFLA),
    (
        MMDET + "rfla/assigner.py",
        "0 < self.gpu_assign_thr < num_gts",
        "0 < self.gpu_assign_thr <= num_gts",
        RFLA,
    ),
    (MMDET + "aitod_eval.py", '"tiny": (8.0**2, 16.0**2),', '"tiny": (8.0**2, 32.0**2),', METRIC),
    (
        MMDET + "aitod_eval.py",
        "MAX_DETECTIONS = (100, 300, 1500)",
        "MAX_DETECTIONS = (100, 300, 1000)",
        METRIC,
    ),
    (
        MMDET + "aitod_eval.py",
        '_mean(precision[1:, ..., areas["all"], -1])}',
        '_mean(precision[0:, ..., areas["all"], -1])}',
        METRIC,
    ),
    (
        MMDET + "olrp.py",
        "error = (location / (1 - TAU) + false + missed)",
        "error = (location + false + missed)",
        METRIC,
    ),
    (
        MMDET + "metric.py",
        '"bbox": [x1, y1, x2 - x1, y2 - y1],',
        '"bbox": [x1, y1, x2, y2],',
        METRIC,
    ),
    (MMDET + "loss.py", "return max(avg_factor, eps)", "return avg_factor", LOSS),
    (
        MMDET + "neck.py",
        '_level("high", high_level, high_stride, 3, configs)',
        '_level("high", high_level, high_stride, 2, configs)',
        NECK,
    ),
    (MMDET + "neck.py", "levels[self.low_level] = self._run(", "levels[0] = self._run(", NECK),
    (
        MMDET + "optimizer.py",
        '"decay_mult": 0.0',
        '"decay_mult": 1.0',
        ("tests/mmdet/test_train.py", "tests/mmdet/test_loss.py", "tests/mmdet/test_hooks.py"),
    ),
    (
        MMDET + "launch.py",
        '"slurm": ("SLURM_PROCID", "SLURM_NTASKS"),',
        '"slurm": ("SLURM_NTASKS", "SLURM_PROCID"),',
        ("tests/mmdet/test_launch.py",),
    ),
    (
        MMDET + "convert/visdrone.py",
        "builder.add_box(image_id, row.category - 1, box, **extra)",
        "builder.add_box(image_id, row.category, box, **extra)",
        ("tests/mmdet/test_convert.py",),
    ),
    (
        MMDET + "convert/dota2.py",
        "kept = np.flatnonzero(fraction >= tiling.min_part)",
        "kept = np.flatnonzero(fraction > 0)",
        ("tests/mmdet/test_convert_dota2.py",),
    ),
)
