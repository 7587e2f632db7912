"""The tables of the README, made from the configs."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("mmdet.registry")

from efpn_mmdet import tables
from efpn_mmdet.paper import MISSING, PAPER, TITLES

README = Path(__file__).resolve().parents[2] / "integration/README.md"


def test_the_readme_has_what_the_configs_say() -> None:
    text = README.read_text()
    between = text.partition(tables.BEGIN)[2].partition(tables.END)[0]
    assert between.strip() == tables.markdown().strip(), (
        "run python -m efpn_mmdet.tables --write integration/README.md"
    )


def test_every_figure_has_its_columns() -> None:
    assert set(TITLES) == set(PAPER)
    for table, rows in PAPER.items():
        columns = len(TITLES[table][1].split(" / "))
        for row, figures in rows.items():
            numbers = figures.split(" / ")
            assert figures in ("", "in the figure only") or len(numbers) == columns, row
            assert all(0 <= float(one) < 100 for one in numbers if figures[:1].isdigit()), row


def test_no_reason_is_left_over() -> None:
    """A row that has got its config needs none any more."""
    text = tables.markdown()
    for table, row in MISSING:
        assert f"| {row} | none |" in text, (table, row)


def write_config(folder: Path, text: str) -> Path:
    (folder / "mine").mkdir(exist_ok=True)
    path = folder / "mine" / "config.py"
    path.write_text(text)
    return path


def test_a_figure_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "PAPER", {"1": {"ATSS": "12.8"}})
    write_config(
        tmp_path,
        'table_rows = [dict(table="1", row="ATSS", differences="two GPUs", ours="12.5")]\n',
    )
    (tmp_path / "mine" / "other.py").write_text("# Something else.\n# It goes on. And on.\nx = 1\n")
    text = tables.markdown(tmp_path)
    assert "| ATSS | `mine/config.py` | 12.8 | 12.5 | two GPUs |" in text
    assert "| `mine/other.py` | Something else |" in text


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('dict(table="1", row="YOLO")', "expected a row of the paper's tables, got 'YOLO' in"),
        ('dict(table="9", row="ATSS")', "got 'ATSS' in table '9'"),
        ('dict(table="1", row="ATSS", note="")', "expected the keys"),
        ('dict(row="ATSS")', "expected the keys"),
    ],
)
def test_a_wrong_row_is_named(tmp_path: Path, row: str, message: str) -> None:
    path = write_config(tmp_path, f"table_rows = [{row}]\n")
    with pytest.raises(ValueError, match=message):
        tables.rows_of(path, "mine/config.py")


def test_a_row_without_a_config_or_a_reason_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Table 1, AI-TOD: expected a config for the row"):
        tables.markdown(tmp_path)


def test_only_a_file_with_the_marks_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "README.md"
    path.write_text(f"before\n{tables.BEGIN}\nold\n{tables.END}\nafter\n")
    tables.main(["--write", str(path)])
    text = path.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    tables.main([])
    assert capsys.readouterr().out.strip() in text
    path.write_text("nothing\n")
    with pytest.raises(ValueError, match="--write: expected the lines"):
        tables.main(["--write", str(path)])
