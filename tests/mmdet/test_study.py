"""The study: what its variants are, its statistics by hand, a tiny one that is stopped and goes on."""

from __future__ import annotations

import copy
import json
from argparse import Namespace
from pathlib import Path

import pytest

pytest.importorskip("mmdet.registry")

from mmengine.config import Config
from small_detectors import CONFIGS, one_thread, small_config, write_data_set  # noqa: F401

from efpn_mmdet import cli, study, study_report
from efpn_mmdet.classes import AITOD


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Config:
    data = write_data_set(tmp_path_factory.mktemp("data"), AITOD, images=2)
    config = small_config("faster_rcnn/efpn_bs_aitod.py", data=data)
    config.train_cfg.max_epochs = 1
    config.log_level = "ERROR"
    return config


def test_the_variants_are_parts_of_the_method() -> None:
    full = Config.fromfile(CONFIGS / "demo/faster_rcnn_efpn_bs.py")
    before = full.pretty_text
    seen = {}
    for name in study.VARIANTS:
        model = study.variant(full, name).model
        neck = model.neck
        on = neck.type == "EFPNBSNeck"
        cem, fbsm = (on and neck.get(one, True) for one in ("use_cem", "use_fbsm"))
        forms = {head.loss_bbox.get("form") for head in (model.rpn_head, model.roi_head.bbox_head)}
        seen[name] = (cem, fbsm, *forms)
        assert model.rpn_head.anchor_generator.type == "RFAnchorGenerator"
    assert seen == {
        "FPN": (False, False, None),
        "CEM": (True, False, None),
        "FBSM": (False, True, None),
        "CEM + FBSM": (True, True, None),
        "DCLoss": (False, False, "equation"),
        "DCLoss, text": (False, False, "text"),
        "all": (True, True, "equation"),
    }
    assert full.pretty_text == before


def test_the_interval_by_hand() -> None:
    # Differences 1, 2, 3: mean 2, standard error 1 / sqrt(3), t of two degrees of freedom 4.302653.
    found = study_report.paired([11.0, 22.0, 33.0], [10.0, 20.0, 30.0])
    assert found["mean"] == pytest.approx(2)
    assert found["high"] - 2 == pytest.approx(4.302653 / 3**0.5, abs=1e-6)
    assert 2 - found["low"] == pytest.approx(4.302653 / 3**0.5, abs=1e-6)
    with pytest.raises(ValueError, match="paired: expected two or more values of each, got 1 and"):
        study_report.paired([1.0], [1.0])


def test_runs_are_paired_by_their_seed() -> None:
    results = []
    for name, values in (("FPN", (0.10, 0.20)), ("all", (0.13, 0.21))):
        for seed in (1, 0):  # whatever the order
            metric = {f"aitod/{one}": values[seed] for one in study_report.VALUES}
            times = {"training_step_s": 0.5, "test_s_per_image": 0.1}
            results.append({"variant": name, "seed": seed, "metric": metric, **times})
    table = study_report.summary(results, {"FPN": {}, "all": {}}, "FPN")
    assert table["all"]["AP"]["runs"] == pytest.approx([13, 21])
    assert table["all"]["AP"]["difference"]["mean"] == pytest.approx(2)
    assert table["FPN"]["AP"]["difference"] == {"mean": 0, "low": 0, "high": 0}


def test_the_time_that_is_left() -> None:
    assert study_report.duration([60.0, 120.0], 50) == "1 h 15 min"


def test_a_study_is_stopped_and_goes_on(
    full: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(study, "full_config", lambda _: copy.deepcopy(full))
    monkeypatch.setattr(study, "VARIANTS", {name: study.VARIANTS[name] for name in ("FPN", "all")})
    trained = []

    def stop_at_the_third(config: Config, name: str, seed: int, work_dir: Path) -> dict:
        if len(trained) == 2:
            raise KeyboardInterrupt
        trained.append((name, seed))
        return real_run(config, name, seed, work_dir)

    real_run = study.run
    monkeypatch.setattr(study, "run", stop_at_the_third)
    command = ["demo", "--study", "--out", str(tmp_path), "--seeds", "2"]
    with pytest.raises(KeyboardInterrupt):
        cli.main(command)
    assert trained == [("FPN", 0), ("all", 0)]
    monkeypatch.setattr(study, "run", real_run)
    first = (tmp_path / "runs" / "FPN_0.json").read_bytes()
    cli.main(command)
    out = capfd.readouterr().out
    assert "run 3 of 4: FPN, seed 1" in out and "left" in out
    assert out.count("run 1 of 4") == 1
    assert (tmp_path / "runs" / "FPN_0.json").read_bytes() == first
    document = json.loads((tmp_path / "study.json").read_text())
    assert [(one["variant"], one["seed"]) for one in document["runs"]] == [
        *(("FPN", 0), ("all", 0), ("FPN", 1), ("all", 1)),
    ]
    rows = document["summary"]
    assert rows["all"]["parameters"] > rows["FPN"]["parameters"]
    assert rows["all"]["flops"] > rows["FPN"]["flops"] > 0
    assert all(row["training_step_s"] > 0 and row["test_s_per_image"] > 0 for row in rows.values())
    text = (tmp_path / "study.md").read_text()
    assert "2 seeds each" in text and "| all |" in text
    assert (tmp_path / "study.png").stat().st_size > 1000


def arguments(folder: Path, **changes: object) -> Namespace:
    settings = {"out": folder, "data": None, "seed": 0, "seeds": 2, "images": 0, "epochs": None}
    return Namespace(**{**settings, **changes})


def test_what_is_no_study_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--seeds: expected 2 or more, for an interval, got 1"):
        study.main(arguments(tmp_path, seeds=1))
    with pytest.raises(FileNotFoundError, match=r"--data: expected annotations/aitod_trainval_v1"):
        study.full_config(arguments(tmp_path, data=tmp_path))


def test_an_aitod_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "annotations").mkdir()
    for part in ("trainval", "test"):
        (tmp_path / "annotations" / f"aitod_{part}_v1.json").write_text("{}")
    config = study.full_config(arguments(tmp_path, data=tmp_path))
    assert config.train_dataloader.dataset.data_root == f"{tmp_path}/"
    assert config.test_evaluator.ann_file == f"{tmp_path}/annotations/aitod_test_v1.json"
    assert config.train_cfg.max_epochs == 12
    with pytest.raises(ValueError, match="--epochs: expected none with --data"):
        study.full_config(arguments(tmp_path, data=tmp_path, epochs=3))
