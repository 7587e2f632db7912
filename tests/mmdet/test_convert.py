"""The converters' shared output, and VisDrone: round trip, drop rules, malformed rows, atomicity."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

pytest.importorskip("mmdet.registry")

from convert_files import load, run_cli, write_image, write_rows

from efpn_mmdet.convert import visdrone
from efpn_mmdet.convert.coco import CocoBuilder, MalformedRow, new_directory, write_json
from efpn_mmdet.convert.files import STRAY, WITHOUT_LABELS


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json({"old": 1}, path)
    with pytest.raises(TypeError):
        write_json({"new": object()}, path)
    assert json.loads(path.read_text()) == {"old": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_block_leaves_no_directory(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), new_directory(tmp_path / "out") as folder:
        (folder / "half").write_text("")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_a_directory_with_files_is_never_replaced(tmp_path: Path) -> None:
    write_rows(tmp_path / "out" / "precious.txt", ["data"])
    with (
        pytest.raises(FileExistsError, match="expected a new or empty directory"),
        new_directory(tmp_path / "out"),
    ):
        pass
    assert (tmp_path / "out" / "precious.txt").exists()


def test_the_report_counts_everything() -> None:
    builder = CocoBuilder(("a", "b"))
    builder.add_box(builder.add_image("x.png", 10, 10), 1, (0, 0, 2, 3))
    builder.dropped["rule"] = 4
    assert [line.split() for line in builder.report().splitlines()] == [
        *(["images", "1"], ["boxes", "1"], ["a", "0"], ["b", "1"], ["dropped", "4"], ["rule", "4"]),
    ]


VISDRONE_ROWS = (
    "10,20,30,40,1,4,0,0",  # car
    "1,2,3,4,1,1,1,2,",  # pedestrian, trailing comma
    "90,70,30,40,1,10,0,0",  # motor, reaches beyond 100 x 80
    "0,0,50,50,0,0,0,0",
    "5,5,5,5,1,11,0,0",
    "5,5,5,5,0,3,0,0",
    "5,5,0,5,1,3,0,0",
    "200,5,5,5,1,3,0,0",
)


def write_visdrone(folder: Path, rows: Sequence[str] = VISDRONE_ROWS) -> tuple[Path, Path]:
    write_image(folder / "images" / "one.jpg", 100, 80)
    write_image(folder / "images" / "two.jpg", 60, 40)
    write_rows(folder / "annotations" / "one.txt", rows)
    write_rows(folder / "annotations" / "two.txt", [])
    return folder / "images", folder / "annotations"


def test_visdrone_round_trip(tmp_path: Path) -> None:
    images, annotations = write_visdrone(tmp_path)
    out = tmp_path / "json" / "train.json"
    visdrone.convert(images, annotations, out)
    one, two = load("VisDroneDataset", out, images)
    assert Path(one["img_path"]) == images / "one.jpg"
    assert (one["width"], one["height"], two["width"], two["height"]) == (100, 80, 60, 40)
    found = [(box["bbox_label"], box["bbox"]) for box in one["instances"]]
    assert found == [(3, [10, 20, 40, 60]), (0, [1, 2, 4, 6]), (9, [90, 70, 100, 80])]
    assert two["instances"] == []
    first = json.loads(out.read_text())["annotations"][1]
    assert (first["truncation"], first["occlusion"], first["area"]) == (1, 2, 12)


def test_visdrone_counts_every_rule(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_cli(visdrone, *write_visdrone(tmp_path), tmp_path / "out.json")
    printed = capsys.readouterr()
    counts = {" ".join(words[:-1]): words[-1] for words in map(str.split, printed.out.splitlines())}
    assert {rule: counts[rule] for rule in visdrone.DROP_RULES} == dict.fromkeys(
        visdrone.DROP_RULES, "1"
    )
    assert (counts["images"], counts["boxes"], counts["car"], counts["dropped"]) == tuple("2315")
    assert counts[visdrone.CUT] == "1"
    assert "2/2" in printed.err


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ("1,2,3", "expected 8 integers, got '1,2,3'"),
        ("1,2,3,4,1,1,0,zero", "expected 8 integers"),
        ("1,2,3,4,1,12,0,0", "category: expected 0 to 11, got 12"),
    ],
)
def test_a_malformed_visdrone_row_names_file_and_line(
    tmp_path: Path, row: str, problem: str
) -> None:
    images, annotations = write_visdrone(tmp_path, [*VISDRONE_ROWS[:2], "", row])
    with pytest.raises(MalformedRow, match=f"one.txt:4: {problem}"):
        visdrone.convert(images, annotations, tmp_path / "out" / "a.json")
    assert not (tmp_path / "out").exists()


def test_files_without_their_partner(tmp_path: Path) -> None:
    """An image may be without annotations; rows of an image that is not there are an error."""
    images, annotations = write_visdrone(tmp_path)
    (annotations / "two.txt").unlink()
    write_rows(annotations / "readme.txt", ["Drones were flown in 14 cities."])
    builder = visdrone.convert(images, annotations, tmp_path / "a.json")
    assert len(builder.images) == 2
    assert (builder.noted[WITHOUT_LABELS], builder.noted[STRAY]) == (1, 1)
    write_rows(annotations / "three.txt", VISDRONE_ROWS)
    with pytest.raises(FileNotFoundError, match=r"three.txt: no image for it \(1 such files\)"):
        visdrone.convert(images, annotations, tmp_path / "a.json")
    with pytest.raises(NotADirectoryError, match="images: expected a directory"):
        visdrone.convert(tmp_path / "nothing", annotations, tmp_path / "a.json")
    with pytest.raises(FileNotFoundError, match=r"images: expected \.jpg, \.jpeg, \.png files"):
        visdrone.convert(annotations, annotations, tmp_path / "a.json")


def test_test_images_need_no_annotations(tmp_path: Path) -> None:
    images, _ = write_visdrone(tmp_path)
    run_cli(visdrone, images, "none", tmp_path / "a.json")
    document = json.loads((tmp_path / "a.json").read_text())
    assert len(document["images"]) == 2 and document["annotations"] == []
    with pytest.raises(FileExistsError, match="out: expected a new file"):
        run_cli(visdrone, images, "none", tmp_path / "a.json")
