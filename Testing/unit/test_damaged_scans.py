"""Scans that were damaged, or made to do harm: each is refused with a sentence, and quickly."""

from __future__ import annotations

import gzip
import os
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from test_volume import oblique_affine
from whole_scans import save, scanned, start_of_stream

from ADAttributionLogic.errors import GeometryError, ScanError
from ADAttributionLogic.reading.limits import free_memory
from ADAttributionLogic.scan_files import read_labels, read_scan
from ADAttributionLogic.volume import Volume

PACKED = [".nii.gz", ".mgz", ".nrrd", ".bz2.nrrd", ".mha", ".mhd"]


@pytest.fixture(scope="module")
def volume() -> Volume:
    return scanned()


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("suffix", [".nii", ".img", ".mgh", *PACKED])
def test_every_format_gives_the_same_voxels_at_the_same_place(
    volume: Volume, tmp_path: Path, suffix: str, packed: bool
) -> None:
    found = read_scan(save(volume, tmp_path, suffix, packed))
    np.testing.assert_array_equal(found.array, volume.array)
    np.testing.assert_allclose(found.affine, volume.affine, atol=1e-4)
    labels = read_labels(save(volume, tmp_path, suffix, packed))
    assert labels.array.dtype == np.int32
    np.testing.assert_array_equal(labels.array, volume.array)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int32, np.uint32, np.float32, np.float64])
@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_every_type_of_voxels(tmp_path: Path, suffix: str, dtype: type) -> None:
    array = np.random.default_rng(1).integers(0, 100, (4, 5, 6)).astype(dtype)
    path = save(Volume(array, np.diag([1.0, 2, 3, 1])), tmp_path, suffix)
    np.testing.assert_array_equal(read_scan(path).array, array)


def test_big_endian_files(volume: Volume, tmp_path: Path) -> None:
    image = nib.Nifti1Image(volume.array, volume.affine, nib.Nifti1Header(endianness=">"))
    nib.save(image, tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(read_scan(tmp_path / "a.nii.gz").array, volume.array)
    for name in ("a.mhd", "a.nhdr"):
        header = save(volume, tmp_path, Path(name).suffix, packed=False)
        voxels = next(p for p in tmp_path.glob("scan.raw"))
        voxels.write_bytes(volume.array.T.astype(">i2").tobytes())
        text = header.read_text(encoding="utf-8")
        text = text.replace("OrderMSB = False", "OrderMSB = True").replace("little", "big")
        header.write_text(text, encoding="utf-8")
        np.testing.assert_array_equal(read_scan(header).array, volume.array)
        voxels.unlink()


# ------------------------------------------------------------------------------------------------------ damaged streams


@pytest.mark.parametrize("suffix", PACKED)
def test_one_flipped_bit_in_a_packed_stream_is_never_taken_as_whole(
    volume: Volume, tmp_path: Path, suffix: str
) -> None:
    """Only bits of the gzip header that say nothing of the voxels (the time, the system) may flip."""
    path = save(volume, tmp_path, suffix)
    file, start = start_of_stream(path)
    whole = file.read_bytes()
    accepted = 0
    for place in np.random.default_rng(2).integers(start * 8, len(whole) * 8, 60):
        damaged = bytearray(whole)
        damaged[place // 8] ^= 1 << (place % 8)
        file.write_bytes(damaged)
        try:
            found = read_scan(path)
        except ScanError:
            continue
        accepted += 1
        np.testing.assert_array_equal(found.array, volume.array)
    assert accepted <= 2


@pytest.mark.parametrize("suffix", PACKED)
def test_a_truncated_stream_is_refused_wherever_it_ends(volume: Volume, tmp_path: Path, suffix: str) -> None:
    """Also without the last bytes, where only the checksum stands."""
    path = save(volume, tmp_path, suffix)
    file, start = start_of_stream(path)
    whole = file.read_bytes()
    cuts = [1, 2, 3, 4, 5, 8, *np.random.default_rng(3).integers(9, len(whole) - start, 24)]
    for cut in cuts:
        file.write_bytes(whole[:-cut])
        with pytest.raises(ScanError, match="cannot be read|empty"):
            read_scan(path)


def test_several_members_and_padding_are_one_stream(volume: Volume, tmp_path: Path) -> None:
    """bgzip and pigz write several members; tapes and some servers fill up with zeros."""
    raw = save(volume, tmp_path, ".nii").read_bytes()
    path = tmp_path / "a.nii.gz"
    path.write_bytes(gzip.compress(raw[:1000]) + gzip.compress(raw[1000:]) + bytes(512))
    np.testing.assert_array_equal(read_scan(path).array, volume.array)
    path.write_bytes(gzip.compress(raw) + b"and something else")
    with pytest.raises(ScanError, match="damaged or truncated"):
        read_scan(path)


def test_a_name_that_does_not_fit_the_contents(volume: Volume, tmp_path: Path) -> None:
    raw = save(volume, tmp_path, ".nii").read_bytes()
    (tmp_path / "b.nii").write_bytes(gzip.compress(raw))
    np.testing.assert_array_equal(read_scan(tmp_path / "b.nii").array, volume.array)
    (tmp_path / "c.nii.gz").write_bytes(raw)
    with pytest.raises(ScanError, match="no gzip file, as its name says"):
        read_scan(tmp_path / "c.nii.gz")


# --------------------------------------------------------------------------------------------------- sizes and memory


def with_shape(raw: bytes, shape: tuple[int, int, int], datatype: int = 2, bits: int = 8) -> bytes:
    data = bytearray(raw)
    data[42:48] = np.array(shape, "<i2").tobytes()
    data[70:74] = np.array([datatype, bits], "<i2").tobytes()
    return bytes(data)


def test_a_bomb_is_refused_before_it_is_unpacked(volume: Volume, tmp_path: Path) -> None:
    """30,000³ voxels in a kilobyte; a gigabyte of zeros behind a small image; more than the memory that is free."""
    raw = save(volume, tmp_path, ".nii").read_bytes()
    path = tmp_path / "bomb.nii.gz"
    path.write_bytes(gzip.compress(with_shape(raw, (30000, 30000, 30000))))
    with pytest.raises(ScanError, match="more than any scan has"):
        read_scan(path)
    path.write_bytes(gzip.compress(with_shape(raw, (800, 800, 800))))
    with pytest.raises(ScanError, match=r"says 512000000 bytes of voxels, but the file has \d+, which hold at most"):
        read_scan(path)
    packer = zlib.compressobj(1, wbits=31)
    path.write_bytes(
        packer.compress(raw) + b"".join(packer.compress(bytes(1 << 24)) for _ in range(5)) + packer.flush()
    )
    began = time.process_time()
    with pytest.raises(ScanError, match="follow the image"):
        read_scan(path)
    assert time.process_time() - began < 1


def test_an_image_larger_than_the_free_memory_is_refused(
    volume: Volume, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(volume, tmp_path, ".nii.gz")
    assert free_memory() is not None and free_memory() > 1e6
    monkeypatch.setattr("ADAttributionLogic.reading.limits._machine", lambda: 10_000)
    with pytest.raises(ScanError, match=r"needs 0\.0 GB of memory, but 0\.0 GB are free"):
        read_scan(path)


def test_a_declared_size_beyond_the_file_is_refused_in_every_format(volume: Volume, tmp_path: Path) -> None:
    for suffix, old, new in (
        (".nrrd", "sizes: 18 19 20", "sizes: 800 800 800"),
        (".mha", "DimSize = 18 19 20", "DimSize = 800 800 800"),
    ):
        for packed in (True, False):
            path = save(volume, tmp_path, suffix, packed)
            path.write_bytes(path.read_bytes().replace(old.encode(), new.encode()))
            with pytest.raises(ScanError, match="1024000000 bytes of voxels, but the file has"):
                read_scan(path)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
@pytest.mark.parametrize("suffix", [".nii.gz", ".mgz", ".nrrd", ".mha"])
def test_reading_takes_no_more_than_three_times_the_image_and_200_mb(tmp_path: Path, suffix: str) -> None:
    """64 million voxels of one byte, which become 256 MB of float32; no second copy may be held."""
    array = np.zeros((400, 400, 400), np.uint8)
    array[::7] = 9
    path = save(Volume(array, np.diag([1.0, 1, 1, 1])), tmp_path, suffix)
    code = """if True:
        import resource, sys
        import nibabel, nrrd
        from ADAttributionLogic.scan_files import read_scan
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        assert read_scan(sys.argv[1]).array.max() == 9
        print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
    """
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert int(done.stdout) <= 3 * array.nbytes + 200e6


# -------------------------------------------------------------------------------------------------- detached voxels


def edit(path: Path, old: str, new: str) -> Path:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "name",
    [
        "%s%n",
        "%d.raw",
        "/dev/zero",
        "/etc/passwd",
        "../scan.raw",
        "sub/scan.raw",
        "..",
        ".",
        "LIST",
        "LIST 3",
        "a b c",
        "",
    ],
)
@pytest.mark.parametrize("suffix", [".mhd", ".nhdr"])
def test_voxels_elsewhere_are_refused(volume: Volume, tmp_path: Path, suffix: str, name: str) -> None:
    """ITK took the name for a pattern of printf, for any file of the computer, or for a list with slices missing."""
    path = save(volume, tmp_path, suffix, packed=False)
    edit(
        path,
        "= scan.raw" if suffix == ".mhd" else "file: scan.raw",
        f"= {name}" if suffix == ".mhd" else f"file: {name}",
    )
    with pytest.raises(ScanError, match="cannot be read"):
        read_scan(path)


@pytest.mark.parametrize("suffix", [".mhd", ".nhdr", ".img"])
def test_a_pipe_a_device_or_a_link_is_no_file_of_voxels(volume: Volume, tmp_path: Path, suffix: str) -> None:
    path = save(volume, tmp_path, suffix, packed=False)
    header = path.with_suffix(".hdr") if suffix == ".img" else path
    voxels = path if suffix == ".img" else tmp_path / "scan.raw"
    voxels.rename(tmp_path / "elsewhere")
    voxels.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ScanError, match="no plain file"):
        read_scan(header)
    voxels.unlink()
    os.mkfifo(voxels)
    with pytest.raises(ScanError, match="no plain file"):
        read_scan(header)
    voxels.unlink()
    voxels.write_bytes((tmp_path / "elsewhere").read_bytes()[:-1])
    with pytest.raises(ScanError, match="cannot be read"):
        read_scan(header)
    voxels.unlink()
    with pytest.raises(ScanError, match="missing"):
        read_scan(header)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.nrrd", "a.mha", "a.mgz", "a.hdr"])
def test_a_pipe_is_never_waited_for(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(ScanError, match="no plain file|missing"):
        read_scan(tmp_path / name)


# ----------------------------------------------------------------------------------------------------------- geometry


@pytest.mark.parametrize(
    ("suffix", "old", "reason"),
    [
        (".nrrd", r"space: left-posterior-superior\n", "lacks space"),
        (".nrrd", r"space directions: [^\n]*\n", "lacks space directions"),
        (".nrrd", r"space origin: [^\n]*\n", "lacks space origin"),
        (".mha", r"TransformMatrix = [^\n]*\n", "no TransformMatrix"),
        (".mha", r"Offset = [^\n]*\n", "no Offset"),
        (".mha", r"ElementSpacing = [^\n]*\n", "no ElementSpacing"),
    ],
)
def test_geometry_that_is_not_there_is_refused(
    volume: Volume, tmp_path: Path, suffix: str, old: str, reason: str
) -> None:
    import re

    path = save(volume, tmp_path, suffix)
    data = path.read_bytes()
    changed = re.sub(old.encode(), b"", data, count=1)
    assert changed != data
    path.write_bytes(changed)
    with pytest.raises(GeometryError, match=reason):
        read_scan(path)


def test_spaces_that_say_nothing_of_the_patient_are_refused(volume: Volume, tmp_path: Path) -> None:
    path = save(volume, tmp_path, ".nrrd")
    path.write_bytes(path.read_bytes().replace(b"left-posterior-superior", b"scanner-xyz"))
    with pytest.raises(GeometryError, match="has the space 'scanner-xyz'"):
        read_scan(path)


@pytest.mark.parametrize(
    ("space", "signs"), [("RAS", (1, 1, 1)), ("left-anterior-superior", (-1, 1, 1)), ("LPS", (-1, -1, 1))]
)
def test_named_spaces_of_nrrd(volume: Volume, tmp_path: Path, space: str, signs: tuple[int, int, int]) -> None:
    import nrrd

    affine = np.diag([*signs, 1]) @ volume.affine
    header = {"space": space, "space origin": affine[:3, 3], "space directions": affine[:3, :3].T, "encoding": "gzip"}
    nrrd.write(str(tmp_path / "a.nrrd"), volume.array, header)
    np.testing.assert_allclose(read_scan(tmp_path / "a.nrrd").affine, volume.affine, atol=1e-5)


@pytest.mark.parametrize("flip", [np.diag([-1.0, 1, 1, 1]), np.diag([-1.0, -1, 1, 1])], ids=["mirrored", "turned"])
def test_an_sform_and_a_qform_with_opposite_sides_are_refused(tmp_path: Path, flip: np.ndarray) -> None:
    image = nib.Nifti1Image(np.random.default_rng(0).random((6, 7, 8)).astype(np.float32), np.eye(4))
    image.set_sform(np.eye(4), code=1)
    image.set_qform(flip, code=1)
    nib.save(image, tmp_path / "a.nii")
    with pytest.raises(GeometryError, match="two opposite things about left and right"):
        read_scan(tmp_path / "a.nii")
    image.set_qform(oblique_affine(1) if np.linalg.det(oblique_affine(1)[:3, :3]) > 0 else np.eye(4), code=0)
    nib.save(image, tmp_path / "b.nii")
    read_scan(tmp_path / "b.nii")


def test_lengths_in_metres_become_millimetres(volume: Volume, tmp_path: Path) -> None:
    affine = np.array(volume.affine)
    affine[:3] /= 1000
    image = nib.Nifti1Image(volume.array, affine)
    image.header.set_xyzt_units("meter")
    nib.save(image, tmp_path / "a.nii")
    found = read_scan(tmp_path / "a.nii")
    np.testing.assert_allclose(found.affine, volume.affine, atol=1e-3)
    assert "converted to mm" in found.notes[0]


def test_an_mgh_file_without_its_flag_is_refused(volume: Volume, tmp_path: Path) -> None:
    path = save(volume, tmp_path, ".mgh")
    data = bytearray(path.read_bytes())
    data[28:30] = bytes(2)
    path.write_bytes(data)
    with pytest.raises(GeometryError, match="goodRASFlag"):
        read_scan(path)


# -------------------------------------------------------------------------------------------------------------- labels


@pytest.mark.parametrize("label", [2**31, 2**31 + 7, 2**32 - 1])
def test_labels_never_wrap(tmp_path: Path, label: int) -> None:
    array = np.zeros((4, 5, 6), np.uint32)
    array[1, 2, 3] = label
    for suffix in (".nii.gz", ".nrrd"):
        with pytest.raises(ScanError, match=f"holds the label {label}; the largest is 2147483647"):
            read_labels(save(Volume(array, np.eye(4)), tmp_path, suffix))
    with pytest.raises(ScanError, match="label"):
        read_labels(save(Volume(array.astype(np.float64), np.eye(4)), tmp_path, ".nii.gz"))


# ------------------------------------------------------------------------------------------------------- the boundary


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.mgh", "a.mgz", "a.hdr", "a.nrrd", "a.nhdr", "a.mha", "a.mhd"])
def test_noise_is_refused_with_a_sentence(tmp_path: Path, name: str) -> None:
    random = np.random.default_rng(4)
    magic = {"nrrd": b"NRRD0005\n", "nhdr": b"NRRD0005\n", "gz": b"\x1f\x8b\x08\0", "mgz": b"\x1f\x8b\x08\0"}
    for size in (1, 4, 100, 348, 352, 600, 5000):
        for start in (
            b"",
            magic.get(name.split(".")[-1], b"NDims = 3\n"),
            struct.pack("<i", 348),
            struct.pack(">i", 540),
        ):
            (tmp_path / name).write_bytes((start + random.bytes(size))[:size])
            with pytest.raises(ScanError):
                read_scan(tmp_path / name)


def test_an_error_of_a_library_names_the_file(volume: Volume, tmp_path: Path) -> None:
    path = save(volume, tmp_path, ".nrrd")
    data = path.read_bytes()
    path.write_bytes(data.replace(b"sizes: 18 19 20", b"sizes: 18 oo 20"))
    with pytest.raises(ScanError, match=r"scan\.nrrd cannot be read.*Copy or export it again"):
        read_scan(path)
