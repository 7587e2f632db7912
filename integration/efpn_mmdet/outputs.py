"""Where results go: no file of the user's is ever replaced."""

from __future__ import annotations

from pathlib import Path

from mmengine.runner import find_latest_checkpoint


def default_work_dir(config: str | Path) -> Path:
    """``work_dirs/<folder>_<stem>`` of a config file: configs of several detectors share stems."""
    path = Path(config).resolve()
    return Path("work_dirs") / "_".join(part for part in (path.parent.name, path.stem) if part)


def check_work_dir(work_dir: Path, resume: bool, load_from: str | None) -> None:
    """See that a training which begins in ``work_dir`` replaces no checkpoint of an earlier one.

    Args:
        work_dir: where the checkpoints will be written.
        resume: whether an earlier training goes on.
        load_from: the checkpoint that it goes on from; ``None``: the latest one of ``work_dir``.

    Raises:
        FileExistsError: there are checkpoints, and this training does not go on from their latest.
    """
    found = sorted(work_dir.glob("*.pth"))
    latest = find_latest_checkpoint(str(work_dir)) if found and resume else None
    if not found or (latest and (load_from is None or _same(load_from, latest))):
        return
    raise FileExistsError(
        f"work_dir: expected a folder without checkpoints, or --resume from its latest one; {work_dir} "
        f"holds {', '.join(path.name for path in found)}. Name another folder with --work-dir"
    )


def new_file(name: str, path: Path) -> Path:
    """``path``, if nothing is there; otherwise ``FileExistsError`` naming the argument."""
    if path.exists():
        raise FileExistsError(f"{name}: expected a new file, {path} exists; name another one")
    return path


def free_path(folder: Path, stem: str, suffix: str) -> Path:
    """``folder/stem.suffix``, or with ``-2``, ``-3`` ... behind the stem where that exists."""
    path, count = folder / f"{stem}{suffix}", 1
    while path.exists() or path.is_symlink():
        count += 1
        path = folder / f"{stem}-{count}{suffix}"
    return path


def _same(one: str, other: str) -> bool:
    return Path(one).resolve() == Path(other).resolve()
