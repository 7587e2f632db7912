"""Images and their label files, in folders as they are distributed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence, Sized
from pathlib import Path

from .coco import MalformedRow

WITHOUT_LABELS = "image without a label file"
STRAY = "text file beside the labels, without a row of them"


def existing_directory(name: str, path: Path) -> Path:
    """``path``, if it is a directory; otherwise ``NotADirectoryError`` naming the argument."""
    if not path.is_dir():
        raise NotADirectoryError(f"{name}: expected a directory, got {path}")
    return path


def files_by_stem(
    name: str, directory: Path, suffixes: Sequence[str], without: Sequence[Path] = ()
) -> dict[str, Path]:
    """The files below ``directory`` with one of the suffixes, by stem, sorted.

    Hidden files, among them the ``._`` twins of archives packed on macOS, are left out, and what is in the
    folders ``without``.

    Raises:
        NotADirectoryError, FileNotFoundError: no such folder, or no such files in it.
        ValueError: two files of one stem.
    """
    found: dict[str, Path] = {}
    for path in sorted(existing_directory(name, directory).rglob("*")):
        parts = path.relative_to(directory).parts
        if path.suffix.lower() not in suffixes or not path.is_file() or _hidden(parts):
            continue
        if any(folder in path.parents for folder in without):
            continue
        if path.stem in found:
            raise ValueError(
                f"{name}: expected one file of each stem, got {found[path.stem]} and {path}"
            )
        found[path.stem] = path
    if not found:
        raise FileNotFoundError(
            f"{name}: expected {', '.join(suffixes)} files in {directory}, found none; images without "
            "labels are converted with `none` in place of the labels' folder"
        )
    return dict(sorted(found.items()))


def _hidden(parts: Iterable[str]) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in parts)


def pairs(
    images: dict[str, Path],
    labels: dict[str, Path],
    rows: Callable[[Path], Sized],
    noted: Counter[str],
) -> list[tuple[Path, Path | None]]:
    """``(image, labels)`` by stem; ``None`` for an image without labels, as test images are.

    Args:
        images, labels: of :func:`files_by_stem`.
        rows: the rows of a label file that can be read.
        noted: counts images without labels, and text files that belong to no image and hold no rows.

    Raises:
        FileNotFoundError: a label file with rows has no image.
    """
    noted[WITHOUT_LABELS] += sum(stem not in labels for stem in images)
    alone = [path for stem, path in labels.items() if stem not in images]
    orphans = [path for path in alone if _has_rows(path, rows)]
    if orphans:
        raise FileNotFoundError(f"{orphans[0]}: no image for it ({len(orphans)} such files)")
    noted[STRAY] += len(alone)
    return [(image, labels.get(stem)) for stem, image in images.items()]


def _has_rows(path: Path, rows: Callable[[Path], Sized]) -> bool:
    try:
        return len(rows(path)) > 0
    except MalformedRow:
        return False
