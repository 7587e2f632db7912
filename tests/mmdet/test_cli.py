"""The commands, from the command line's words to files."""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

pytest.importorskip("mmdet.registry")

from mmengine.config import Config
from small_detectors import (
    CONFIGS,
    SIZE,
    one_thread,  # noqa: F401
    small_config,
    write_data_set,
)

from efpn_mmdet import cli, show
from efpn_mmdet.classes import AITOD
from efpn_mmdet.config_files import find_config
from efpn_mmdet.demo_run import demo_config
from efpn_mmdet.outputs import default_work_dir


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A config file and the checkpoint that ``efpn train`` makes of it."""
    folder = tmp_path_factory.mktemp("cli")
    data = write_data_set(folder / "data", AITOD)
    config = small_config("faster_rcnn/efpn_bs_aitod.py", data=data)
    config.train_cfg.update(max_epochs=1)
    path = folder / "config.py"
    config.dump(path)
    cli.main(["train", str(path), "--work-dir", str(folder / "work")])
    checkpoint = folder / "work" / "epoch_1.pth"
    other = folder / "other.pth"
    other.write_bytes(checkpoint.read_bytes())
    return {"config": path, "checkpoint": checkpoint, "other": other, "data": data}


def test_train_resumes_the_latest(
    trained: dict[str, Path], capfd: pytest.CaptureFixture[str]
) -> None:
    work = trained["checkpoint"].parent
    cli.main(
        [
            *("train", str(trained["config"]), "--work-dir", str(work), "--resume"),
            *("--cfg-options", "train_cfg.max_epochs=2"),
        ]
    )
    assert (work / "epoch_2.pth").is_file()
    assert "resumed epoch: 1" in "".join(capfd.readouterr())


def test_test_prints_the_metric(
    trained: dict[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = ["test", str(trained["config"]), str(trained["checkpoint"])]
    cli.main([*arguments, "--work-dir", str(tmp_path)])
    assert "AP_vt" in "".join(capfd.readouterr())


def test_predict_prints_boxes_and_draws_the_gate(
    trained: dict[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    images = [trained["data"] / "0.png", trained["data"] / "1.png"]
    cli.main(
        [
            *("predict", str(trained["config"]), str(trained["checkpoint"]), *map(str, images)),
            *("--show-gate", "--out-dir", str(tmp_path), "--score-thr", "0", "--device", "cpu"),
        ]
    )
    lines = capfd.readouterr().out.splitlines()
    for path, line in zip(images, lines, strict=True):
        result = json.loads(line)
        assert result["image"] == str(path)
        assert result["objects"]
        for found in result["objects"]:
            assert found["class"] in AITOD
            assert len(found["box"]) == 4
        scores = [found["score"] for found in result["objects"]]
        assert scores == sorted(scores, reverse=True)
        scale = -(-show.MIN_SIDE // SIZE)
        picture = cv2.imread(result["picture"])
        assert picture.shape == (SIZE * scale + show.CAPTION_HEIGHT, 2 * SIZE * scale, 3)


def predict_arguments(trained: dict[str, Path], *images: Path, out_dir: Path) -> list[str]:
    arguments = ["predict", str(trained["config"]), str(trained["checkpoint"]), *map(str, images)]
    return [*arguments, "--out-dir", str(out_dir), "--score-thr", "0", "--device", "cpu"]


def test_pictures_replace_no_input_and_not_each_other(
    trained: dict[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    image = (trained["data"] / "0.png").read_bytes()
    inputs = [tmp_path / "0.png", tmp_path / "0.bmp", tmp_path / "other" / "0.png"]
    for path in inputs:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(image)
    cli.main(predict_arguments(trained, *inputs, inputs[0], out_dir=tmp_path))
    pictures = [json.loads(line)["picture"] for line in capfd.readouterr().out.splitlines()]
    assert [Path(path).name for path in pictures] == [f"0-{i}.png" for i in (2, 3, 4, 5)]
    assert all(path.read_bytes() == image for path in inputs)


def test_a_training_replaces_no_checkpoint(trained: dict[str, Path]) -> None:
    before = trained["checkpoint"].read_bytes()
    arguments = ["train", str(trained["config"]), "--work-dir", str(trained["checkpoint"].parent)]
    for resume in ([], ["--resume", str(trained["other"])]):
        with pytest.raises(FileExistsError, match=r"work_dir: expected .* holds epoch_1\.pth"):
            cli.main([*arguments, *resume])
    assert trained["checkpoint"].read_bytes() == before


def test_another_models_checkpoint_is_refused_before_training(
    trained: dict[str, Path], tmp_path: Path
) -> None:
    checkpoint = torch.load(trained["checkpoint"])
    state = checkpoint["state_dict"]
    state["neck.block.fbsm.extra.weight"] = state.pop("neck.block.fbsm.refine_conv.weight")
    path = tmp_path / "epoch_7.pth"
    torch.save(checkpoint, path)
    (tmp_path / "last_checkpoint").write_text(str(path))
    arguments = ["train", str(trained["config"]), "--work-dir", str(tmp_path), "--resume"]
    with pytest.raises(ValueError, match=r"resume: .* 2 tensors .* neck\.block\.fbsm\.refine_conv"):
        cli.main(arguments)
    assert sorted(path.name for path in tmp_path.glob("*.pth")) == ["epoch_7.pth"]


def test_configs_of_one_stem_have_work_folders_of_their_own() -> None:
    folders = [default_work_dir(path) for path in CONFIGS.glob("[!_]*/*.py")]
    assert Path("work_dirs/cascade_rcnn_efpn_bs_aitod") in folders
    assert len(set(folders)) == len(folders)


def test_test_writes_what_mmdets_tool_writes(
    trained: dict[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = ["test", str(trained["config"]), str(trained["checkpoint"])]
    arguments += ["--work-dir", str(tmp_path), "--tta"]
    cli.main([*arguments, "--out", str(tmp_path / "found.pkl"), "--show-dir", "drawn"])
    assert "AP_vt" in "".join(capfd.readouterr())
    found = pickle.loads((tmp_path / "found.pkl").read_bytes())
    assert [Path(one["img_path"]).name for one in found] == ["0.png", "1.png", "2.png", "3.png"]
    assert len(found[0]["pred_instances"]["bboxes"]) > 0
    drawn = {path.name for path in tmp_path.glob("*/drawn/*")}
    assert drawn == {"0.png", "1.png", "2.png", "3.png"}
    with pytest.raises(FileExistsError, match=r"--out: expected a new file"):
        cli.main([*arguments, "--out", str(tmp_path / "found.pkl")])
    with pytest.raises(ValueError, match=r"--out: expected a \.pkl file, got .*found\.json"):
        cli.main([*arguments, "--out", str(tmp_path / "found.json")])


def test_an_image_and_its_mirror_image_are_tested(trained: dict[str, Path]) -> None:
    config = Config.fromfile(trained["config"])
    config.test_dataloader.dataset.pipeline[-1].pop("meta_keys")
    before = copy.deepcopy(config.test_dataloader.dataset.pipeline)
    cli.augment_at_test_time(config)
    *steps, augment = config.test_dataloader.dataset.pipeline
    assert steps == before[:-1] and augment.type == "TestTimeAug"
    assert [one.prob for one in augment.transforms[0]] == [1.0, 0.0]
    assert config.model.type == "DetTTAModel"
    config.pop("tta_model")
    with pytest.raises(ValueError, match="--tta: expected tta_model in the config"):
        cli.augment_at_test_time(config)


def test_predict_names_a_file_that_is_no_image(trained: dict[str, Path]) -> None:
    arguments = ["predict", str(trained["config"]), str(trained["checkpoint"])]
    with pytest.raises(ValueError, match=r"images: expected an image file, got nothing\.png"):
        cli.main([*arguments, "nothing.png", "--device", "cpu"])


def test_launcher_trains_two_processes_on_a_cpu(trained: dict[str, Path], tmp_path: Path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    arguments = ["train", str(trained["config"]), "--launcher", "pytorch"]
    result = subprocess.run(
        [
            *torchrun,
            "--standalone",
            "-m",
            "efpn_kernels",
            *arguments,
            "--work-dir",
            str(tmp_path / "work"),
        ],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    # Each process sees half of the images, at half of the schedule's ratio of lr to batch.
    assert "a total batch of 4" in result.stdout + result.stderr
    assert (tmp_path / "work" / "epoch_1.pth").is_file()


def test_configs_are_found_by_name(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cli.main(["configs"])
    listed = capsys.readouterr().out.splitlines()
    assert str(CONFIGS / "faster_rcnn" / "rfla_aitod.py") in listed
    assert not any("_base_" in path for path in listed)
    monkeypatch.chdir(tmp_path)
    cli.main(["configs", "faster_rcnn/rfla_aitod.py"])
    path = capsys.readouterr().out.strip()
    Path("mine.py").write_text(f"_base_ = {path!r}\nmodel = dict(neck=dict(num_outs=6))\n")
    assert Config.fromfile("mine.py").model.neck.num_outs == 6
    assert find_config("mine.py") == Path("mine.py")
    with pytest.raises(FileNotFoundError, match="config: expected a file, or one of"):
        find_config("nothing.py")


@pytest.mark.parametrize(
    "command",
    ["train", "test", "predict", "configs", "similarity-constants", "demo-data", "demo"],
)
def test_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main([command, "--help"])
    assert stopped.value.code == 0
    assert f"efpn {command}" in capsys.readouterr().out


@pytest.mark.parametrize("data_set", ["visdrone", "dota2"])
def test_convert_help(data_set: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["convert", data_set, "--help"])
    assert "images" in capsys.readouterr().out


@pytest.mark.slow
def test_demo_from_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    cli.main(["demo", "--out", str(tmp_path), "--images", "5", "--epochs", "1"])
    out = capfd.readouterr().out
    assert "AP_0.5 on the test part:" in out
    assert (tmp_path / "training" / "epoch_1.pth").is_file()
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["epochs"] == 1 and result["training_s"] > 0
    assert set(result["untrained"]) == set(result["trained"]) >= {"aitod/AP", "aitod/AP_0.5"}
    document = json.loads((tmp_path / "data" / "test.json").read_text())
    pictures = {path.name for path in (tmp_path / "pictures").iterdir()}
    assert pictures <= {image["file_name"] for image in document["images"]}
    assert any("hubble" in name for name in pictures)
    with pytest.raises(ValueError, match="was built with 0, got 1"):
        cli.main(["demo", "--out", str(tmp_path), "--seed", "1"])


def test_demo_config_reads_and_writes_in_its_folder(tmp_path: Path) -> None:
    config = demo_config(tmp_path, seed=5, epochs=2)
    assert config.train_dataloader.dataset.data_root == f"{tmp_path}/data/"
    assert config.test_evaluator.ann_file == f"{tmp_path}/data/test.json"
    assert config.work_dir == f"{tmp_path}/training"
    assert config.randomness.seed == 5
    assert config.train_cfg.max_epochs == config.param_scheduler[1].end == 2


def test_gate_is_cut_to_the_image() -> None:
    mask = np.arange(2 * 8 * 8, dtype=np.float32).reshape(2, 8, 8)
    gate = show.gate_on_image(mask, image_shape=(24, 32), padded_shape=(32, 32))
    assert np.array_equal(gate, mask.mean(0)[:6])


def test_pictures_leave_the_image_alone() -> None:
    image = np.zeros((10, 20, 3), np.uint8)
    boxes = show.Boxes(np.array([[2.0, 2.0, 5.0, 6.0]]), np.array([0]), np.array([0.5]))
    drawn = show.draw_boxes(image, boxes, [(255, 0, 0)], ["ship"])
    gate = show.draw_gate(image, torch.rand(5, 10).numpy())
    assert drawn.shape == gate.shape
    assert (drawn[..., 2] > 0).any()
    assert (drawn[..., :2] == 0).all()  # the palette is RGB, the picture BGR
    assert not image.any()
