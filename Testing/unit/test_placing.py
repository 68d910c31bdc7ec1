"""Results get to their place whole, or not at all; nothing that was there is lost."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ADAttributionLogic.errors import OutputError
from ADAttributionLogic.owned_folders import OWNER_FILE, OwnedFolder, remove_leftovers, remove_own_folders
from ADAttributionLogic.report.placing import check_place, check_replacement, hashes_of, tidy_up, writing

LAST = "complete.txt"


def write(folder: Path, text: str) -> None:
    (folder / "maps").mkdir()
    (folder / "maps" / "one.txt").write_text(text, encoding="utf-8")
    (folder / LAST).write_text(text, encoding="utf-8")


def result(target: Path, text: str) -> None:
    with writing(check_place(target, LAST)) as folder:
        write(folder, text)


def replace(target: Path, text: str) -> None:
    with writing(check_replacement(target, LAST, own_files(target))) as folder:
        write(folder, text)


def own_files(target: Path) -> dict[str, str]:
    return {name: value for name, value in hashes_of(target).items() if name != LAST}


def texts(target: Path) -> set[str]:
    return {p.read_text(encoding="utf-8") for p in target.rglob("*.txt")}


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Path]:
    """A folder that is a file system of its own, as the output of a container is."""
    folder = tmp_path / "mounted"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(folder)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"this user may not mount: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def bound(tmp_path: Path) -> Iterator[Path]:
    """A folder bound onto another of the same file system: it looks like any other, and cannot be renamed."""
    folder, source = tmp_path / "bound here", tmp_path / "source"
    folder.mkdir()
    source.mkdir()
    done = subprocess.run(["mount", "--bind", str(source), str(folder)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"this user may not mount: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("kind", ["mount", "bound", "working folder"])
def test_a_folder_that_cannot_be_renamed(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "working folder":
        folder = tmp_path / "here"
        folder.mkdir()
        monkeypatch.chdir(folder)
    else:
        folder = request.getfixturevalue(kind)
    result(folder, "first")
    assert hashes_of(folder).keys() == {LAST, "maps/one.txt"} and texts(folder) == {"first"}
    replace(folder, "second")
    assert hashes_of(folder).keys() == {LAST, "maps/one.txt"} and texts(folder) == {"second"}
    with pytest.raises(OutputError, match="exists; nothing is overwritten"):
        check_place(folder, LAST)
    assert [p.name for p in folder.iterdir() if p.name.startswith(".")] == []
    with pytest.raises(RuntimeError), writing(check_replacement(folder, LAST, own_files(folder))) as unfinished:
        (unfinished / "half").write_text("half", encoding="utf-8")
        raise RuntimeError("killed by a bug")
    assert texts(folder) == {"second"} and len(list(folder.iterdir())) == 2


def test_a_mount_point_that_shows_itself_only_when_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system does not list what is mounted."""
    target = tmp_path / "out"
    result(target, "first")
    rename = os.rename

    def busy(source: Path, to: Path) -> None:
        if target in (Path(source), Path(to)):
            raise OSError(16, "Device or resource busy", str(target))
        rename(source, to)

    monkeypatch.setattr(os, "rename", busy)
    replace(target, "second")
    assert texts(target) == {"second"} and [p.name for p in tmp_path.iterdir()] == ["out"]


def test_what_appears_meanwhile_stays(tmp_path: Path) -> None:
    place = check_place(tmp_path / "out", LAST)
    with pytest.raises(OutputError, match="appeared or changed"), writing(place) as folder:
        write(folder, "mine")
        result(tmp_path / "out", "somebody else's")
    assert texts(tmp_path / "out") == {"somebody else's"}
    place = check_replacement(tmp_path / "out", LAST, own_files(tmp_path / "out"))
    with pytest.raises(OutputError, match="appeared or changed"), writing(place) as folder:
        write(folder, "mine")
        replace(tmp_path / "out", "newer")
    assert texts(tmp_path / "out") == {"newer"}
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_what_appears_meanwhile_in_a_mount_point_stays(mount: Path) -> None:
    place = check_place(mount, LAST)
    with pytest.raises(OutputError, match="appeared or changed"), writing(place) as folder:
        write(folder, "mine")
        (mount / "notes.txt").write_text("a note", encoding="utf-8")
    assert texts(mount) == {"a note"}
    (mount / "notes.txt").unlink()
    result(mount, "first")
    place = check_replacement(mount, LAST, own_files(mount))
    with writing(place) as folder:
        write(folder, "second")
        (mount / "notes.txt").write_text("a note", encoding="utf-8")
    assert texts(mount) == {"a note", "second"}


@pytest.mark.parametrize("exists", [False, True])
def test_of_two_writers_one_wins(tmp_path: Path, exists: bool) -> None:
    """Thirty races: one result, whole; the other writer is told."""
    for trial in range(30):
        target = tmp_path / f"{trial}"
        if exists:
            result(target, "earlier")
        both, told = threading.Barrier(2), []

        def race(text: str, target: Path = target, both=both, told=told) -> None:
            place = check_replacement(target, LAST, own_files(target)) if exists else check_place(target, LAST)
            both.wait()
            try:
                with writing(place) as folder:
                    write(folder, text)
                    both.wait()
            except OutputError as error:
                told.append((text, str(error)))

        threads = [threading.Thread(target=race, args=(text,)) for text in ("A", "B")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(told) == 1, told
        assert texts(target) == {"A", "B"} - {told[0][0]}
    assert len(list(tmp_path.iterdir())) == 30, "nothing is left beside them"


def test_files_that_are_not_ours_outlive_a_replacement(tmp_path: Path) -> None:
    """One that is put there while the new result is being computed."""
    target = tmp_path / "out"
    result(target, "first")
    place = check_replacement(target, LAST, own_files(target))
    with writing(place) as folder:
        write(folder, "second")
        (target / "notes.txt").write_text("a note", encoding="utf-8")
    assert texts(target) == {"second"}
    assert (tmp_path / "out-earlier" / "notes.txt").read_text(encoding="utf-8") == "a note"
    (target / "notes.txt").write_text("another note", encoding="utf-8")
    with pytest.raises(OutputError, match=r"did not write.*notes\.txt"):
        check_replacement(target, LAST, {"maps/one.txt": ""})
    (target / "notes.txt").unlink()
    (target / "link").symlink_to(tmp_path / "out-earlier")
    with pytest.raises(OutputError, match=r"did not write.*link"):
        check_replacement(target, LAST, {"maps/one.txt": ""})


def test_what_cannot_be_written_is_said_before_the_computation(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(OutputError, match="cannot be written"):
        check_place(tmp_path / "file" / "out", LAST)
    with pytest.raises(OutputError, match="cannot be written"):
        check_place("/proc/out", LAST)


def test_results_are_their_owners_only(tmp_path: Path) -> None:
    result(tmp_path / "out", "private")
    modes = {p.stat().st_mode & 0o777 for p in (tmp_path / "out").rglob("*") if p.is_file()}
    assert modes == {0o600} and (tmp_path / "out").stat().st_mode & 0o777 == 0o700


# ----------------------------------------------------------------------------------------------------------- leftovers


def test_leftovers_of_the_dead_go_and_those_of_the_living_stay(tmp_path: Path) -> None:
    alive = OwnedFolder(tmp_path, ".out-writing-")
    (alive.path / "data").write_text("half", encoding="utf-8")
    dead = os.fork()
    if not dead:
        left = OwnedFolder(tmp_path, ".out-writing-")
        (left.path / "deep").mkdir()
        (left.path / "deep" / "data").write_text("half", encoding="utf-8")
        (tmp_path / ".out-writing-killed at once").mkdir()
        os._exit(0)
    os.waitpid(dead, 0)
    (tmp_path / ".my own-writing-book").mkdir()
    (tmp_path / ".my own-writing-book" / "chapter").write_text("1", encoding="utf-8")
    assert len(list(tmp_path.iterdir())) == 4
    assert tidy_up(tmp_path) == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([".my own-writing-book", alive.path.name])
    alive.close()
    assert not alive.path.exists()


def test_leaving_at_once_removes_what_was_open(tmp_path: Path) -> None:
    process = os.fork()
    if not process:
        OwnedFolder(tmp_path, "x-")
        remove_own_folders()
        os._exit(0)
    os.waitpid(process, 0)
    assert list(tmp_path.iterdir()) == [] and remove_leftovers(tmp_path, "*") == 0


@pytest.mark.parametrize("inside", [False, True])
def test_a_kill_at_any_step_of_a_replacement_is_finished_at_the_next_start(
    tmp_path: Path, inside: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every rename in turn is the last thing that the process does."""
    steps = 0
    while True:
        target = tmp_path / f"{steps}" / "out"
        target.parent.mkdir()
        result(target, "first")
        process = os.fork()
        if not process:
            if inside:
                os.chdir(target)  # must not be renamed
            rename, left = os.rename, [steps]

            def counted(source: Path, to: Path, rename=rename, left=left) -> None:
                if not left[0]:
                    os._exit(9)
                left[0] -= 1
                rename(source, to)

            os.rename = counted
            replace(target, "second")
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        tidy_up(target if inside else target.parent)
        assert texts(target) in ({"first"}, {"second"}) and set(hashes_of(target)) == {LAST, "maps/one.txt"}
        assert [p.name for p in target.parent.iterdir()] == ["out"]
        assert not any(p.name == OWNER_FILE for p in target.rglob("*"))
        steps += 1
        if code == 0:
            break
    assert steps >= (4 if inside else 2), steps
