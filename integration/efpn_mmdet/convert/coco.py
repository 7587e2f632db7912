"""A COCO document with counts, and output that is whole or absent."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


class MalformedRow(ValueError):
    """A row that is not what its format says; the message begins with ``file:line``."""

    def __init__(self, path: Path, line: int, problem: str) -> None:
        super().__init__(path, line, problem)  # all of them, to pass between processes

    def __str__(self) -> str:
        path, line, problem = self.args
        return f"{path}:{line}: {problem}"


@dataclass
class CocoBuilder:
    """Collects images and boxes, and counts what was kept, dropped or noted.

    Attributes:
        classes: names in label order; class ``i`` becomes category id ``i + 1``.
        settings: how the boxes were made, kept in the document's ``info``.
        malformed: rows that were left out, if the conversion was to keep going.
    """

    classes: Sequence[str]
    settings: dict[str, Any] = field(default_factory=dict)
    images: list[dict[str, Any]] = field(default_factory=list)
    annotations: list[dict[str, Any]] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)
    noted: Counter[str] = field(default_factory=Counter)
    malformed: list[MalformedRow] = field(default_factory=list)

    def add_image(self, file_name: str, width: int, height: int, **extra: object) -> int:
        """Add an image and return its id, counted from 1."""
        image_id = len(self.images) + 1
        size = {"width": width, "height": height}
        self.images.append({"id": image_id, "file_name": file_name, **size, **extra})
        return image_id

    def add_box(self, image_id: int, label: int, box: Sequence[float], **extra: object) -> None:
        """Add a box ``(x, y, width, height)`` in pixels of class ``classes[label]``."""
        self.annotations.append(
            {
                "id": len(self.annotations) + 1,
                "image_id": image_id,
                "category_id": label + 1,
                "bbox": list(box),
                "area": box[2] * box[3],
                "iscrowd": 0,
                **extra,
            }
        )

    def document(self) -> dict[str, Any]:
        """The COCO document; the same input gives the same document."""
        return {
            "info": {"settings": self.settings, "dropped": dict(self.dropped)},
            "images": self.images,
            "categories": [{"id": i + 1, "name": name} for i, name in enumerate(self.classes)],
            "annotations": self.annotations,
        }

    def report(self) -> str:
        """Counts of images, boxes of every class, drop rules and notes, one a line."""
        kept = Counter(annotation["category_id"] - 1 for annotation in self.annotations)
        lines = [f"{'images':<46}{len(self.images):>9}", f"{'boxes':<46}{kept.total():>9}"]
        lines += [f"  {name:<44}{kept[label]:>9}" for label, name in enumerate(self.classes)]
        for title, counts in (("dropped", self.dropped), ("noted", self.noted)):
            lines += [f"{title:<46}{counts.total():>9}"] if counts else []
            lines += [f"  {rule:<44}{count:>9}" for rule, count in counts.items()]
        return "\n".join(lines)


def write_json(document: dict[str, Any], path: Path) -> None:
    """Write ``document`` to ``path`` in one step: readers see the old file or the whole new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            json.dump(document, stream)
        os.chmod(partial, 0o644)
        os.replace(partial, path)
    except BaseException:
        os.unlink(partial)
        raise


@contextmanager
def new_directory(path: Path) -> Iterator[Path]:
    """Yield a hidden directory that becomes ``path`` if the block succeeds and vanishes otherwise.

    Raises:
        FileExistsError: ``path`` exists and is not an empty directory.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise FileExistsError(f"{path}: expected a new or empty directory")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        yield partial
        partial.chmod(0o755)
        partial.replace(path)
    except BaseException:
        shutil.rmtree(partial)
        raise
