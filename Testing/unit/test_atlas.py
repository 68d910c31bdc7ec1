"""Atlases: where their labels lie, what they are called, and how they are merged."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_volume import oblique_affine

from ADAttributionLogic.atlas.atlas import Atlas, RegionGroup, build_atlas, side_from_name
from ADAttributionLogic.atlas.library import (
    available_atlases,
    available_groupings,
    load_atlas,
    load_grouping,
    load_template,
)
from ADAttributionLogic.atlas.region_names import read_region_names
from ADAttributionLogic.errors import AtlasError, UnknownNameError
from ADAttributionLogic.geometry import Grid
from ADAttributionLogic.scan_files import write_volume
from ADAttributionLogic.volume import Volume

NAMES = {1: "Hippocampus_L", 2: "Hippocampus_R", 3: "Vermis_1_2", 40: "Left Thalamus"}


@pytest.fixture
def atlas() -> Atlas:
    labels = np.random.default_rng(0).choice([0, 1, 2, 3, 40, 41], (6, 7, 8)).astype(np.int32)
    return build_atlas("small", Volume(labels, oblique_affine(2)), NAMES)


def test_regions_come_from_the_voxels_and_names_from_the_list(atlas: Atlas) -> None:
    assert [r.label for r in atlas.regions] == [1, 2, 3, 40, 41]
    assert [r.name for r in atlas.regions] == [
        "Hippocampus_L",
        "Hippocampus_R",
        "Vermis_1_2",
        "Left Thalamus",
        "label 41",
    ]
    assert [r.hemisphere for r in atlas.regions] == ["left", "right", "unknown", "left", "unknown"]


@pytest.mark.parametrize(
    ("name", "group", "side"),
    [
        ("Hippocampus_L", "Hippocampus", "left"),
        ("Right_Inf_Lat_Vent", "Inf_Lat_Vent", "right"),
        ("ctx-rh-entorhinal", "entorhinal", "right"),
        ("Left-Cerebral-White-Matter", "Cerebral-White-Matter", "left"),
        ("Vermis_10", "", "unknown"),
        ("CSF", "", "unknown"),
        ("Lingual", "", "unknown"),
        ("Rectus", "", "unknown"),
    ],
)
def test_sides_are_read_from_names(name: str, group: str, side: str) -> None:
    assert side_from_name(name) == (group, side)


def test_an_empty_label_map_is_no_atlas() -> None:
    with pytest.raises(AtlasError, match="every voxel is 0"):
        build_atlas("empty", Volume(np.zeros((3, 3, 3), np.int32), np.eye(4)), {})


def test_an_atlas_elsewhere_does_not_overlap(atlas: Atlas) -> None:
    far = np.eye(4)
    far[0, 3] = 5000
    with pytest.raises(AtlasError, match=r"does not overlap.*6×7×8.*10×10×10"):
        atlas.on_grid(Grid((10, 10, 10), far))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 1000))
def test_resampled_labels_lie_where_they_were(seed: int) -> None:
    """For any two oblique grids: the label at a place is that of the atlas voxel nearest to it (trap 1)."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(1, 9, (9, 8, 7)).astype(np.int32)
    atlas = build_atlas("a", Volume(labels, oblique_affine(seed)), {})
    target = np.array(oblique_affine(seed + 5000))
    target[:3, 3] = atlas.labels.grid.to_ras((4, 4, 3)) - target[:3, :3] @ (3, 3, 3)
    grid = Grid((7, 7, 7), target)
    moved = atlas.on_grid(grid).labels.array
    voxels = atlas.labels.grid.to_voxel(
        grid.to_ras(np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), -1))
    )
    nearest = np.rint(voxels).astype(int)
    # Points half way between two voxels may go either way.
    clear = (np.abs(voxels - nearest) < 0.499).all(-1)
    inside = clear & ((nearest >= 0) & (nearest < labels.shape)).all(-1)
    i, j, k = np.moveaxis(nearest[inside], -1, 0)
    np.testing.assert_array_equal(moved[inside], labels[i, j, k])
    outside = ((voxels < -0.51) | (voxels > np.array(labels.shape) - 0.49)).any(-1)
    assert (moved[outside] == 0).all()


def test_merging_keeps_voxels_and_names_the_rest_itself(atlas: Atlas) -> None:
    merged = atlas.merged([RegionGroup("Hippocampus", left=(1,), right=(2,)), RegionGroup("Vermis", midline=(3,))])
    assert [(r.name, r.hemisphere, r.members) for r in merged.regions] == [
        ("Hippocampus", "both", (1, 2)),
        ("Vermis", "midline", (3,)),
        ("Left Thalamus", "midline", (40,)),
        ("label 41", "midline", (41,)),
    ]
    for region in merged.regions:
        expected = np.isin(atlas.labels.array, region.members)
        np.testing.assert_array_equal(merged.labels.array == region.label, expected)


def test_a_label_in_two_groups_is_an_error(atlas: Atlas) -> None:
    with pytest.raises(AtlasError, match="Label 1 stands in two groups: A and B"):
        atlas.merged([RegionGroup("A", left=(1,)), RegionGroup("B", left=(1,))])
    with pytest.raises(AtlasError, match="None of the labels"):
        atlas.merged([RegionGroup("A", left=(999,))])


# ----------------------------------------------------------------------------------------------- atlases of the wheel


@pytest.mark.parametrize(("name", "regions"), [("aal", 120), ("neuromorphometrics", 136), ("desikan-killiany", 112)])
def test_packaged_atlases_know_their_sides_by_list_and_by_place(name: str, regions: int) -> None:
    """Every region called left lies left of the midline (R < 0), every right one right, midline ones between."""
    atlas = load_atlas(name)
    assert len(atlas.regions) == regions
    for region in atlas.regions:
        voxels = np.argwhere(atlas.labels.array == region.label)
        centre = atlas.labels.grid.to_ras(voxels.mean(axis=0))[0]
        if region.hemisphere == "left":
            assert centre < -1, region
        elif region.hemisphere == "right":
            assert centre > 1, region
        else:
            assert region.hemisphere == "midline" and abs(centre) < 12, region


def test_the_hippocampus_lies_where_it_is_in_icbm152() -> None:
    """Placed by affines, not stretched to the scan (trap 1: 4 mm off in the published code)."""
    template = load_template()
    assert template.grid.shape == (193, 229, 193) and template.grid.spacing == (1, 1, 1)
    for name, label in (("neuromorphometrics", 48), ("aal", 4101)):
        labels = load_atlas(name).on_grid(template.grid).labels
        centre = labels.grid.to_ras(np.argwhere(labels.array == label).mean(axis=0))
        np.testing.assert_allclose(centre, (-26, -22, -13), atol=3.5)


@pytest.mark.parametrize("name", [e.name for e in available_atlases()])
def test_all_groupings_of_an_atlas_cover_it(name: str) -> None:
    entry = next(e for e in available_atlases() if e.name == name)
    atlas = load_atlas(name)
    for grouping in entry.groupings:
        groups = load_grouping(grouping)
        assert {label for group in groups for label in group.labels} >= {r.label for r in atlas.regions}
        merged = load_atlas(name, grouping=grouping)
        assert len(merged.regions) < len(atlas.regions)
        np.testing.assert_array_equal(merged.labels.array > 0, atlas.labels.array > 0)


def test_the_published_groupings() -> None:
    """Rieke et al.: 54 merged areas and 8 of the vermis. Böhle et al.: 68 areas."""
    rieke = load_grouping("aal116-rieke2018")
    assert [g.name for g in rieke if g.midline] == [
        "Vermis_1_2",
        "Vermis_3",
        "Vermis_4_5",
        "Vermis_6",
        "Vermis_7",
        "Vermis_8",
        "Vermis_9",
        "Vermis_10",
    ]
    assert len([g for g in rieke if g.left and g.right]) == 54
    assert sorted(label for g in rieke for label in g.labels) == list(range(1, 117))
    boehle = {g.name: g for g in load_grouping("neuromorphometrics-boehle2019")}
    assert len(boehle) == 68
    assert boehle["Hippocampus"].labels == (48, 47)
    assert set(boehle["Cerebellum"].labels) == {38, 39, 40, 41}
    assert boehle["Cereb. Verm. Lob."].midline == (71, 72, 73)


def test_unknown_names_say_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="Did you mean neuromorphometrics"):
        load_atlas("neuromorphometric")
    with pytest.raises(UnknownNameError, match="aal116-rieke2018"):
        load_atlas("aal", grouping="nonsense")
    (tmp_path / "g.json").write_text(json.dumps({"groups": [{"left": [1]}]}), encoding="utf-8")
    with pytest.raises(AtlasError, match="not a grouping"):
        load_grouping(str(tmp_path / "g.json"))
    assert "aal2-left-right" in available_groupings()


def test_a_users_own_atlas(tmp_path: Path, atlas: Atlas) -> None:
    path = write_volume(atlas.labels, tmp_path / "mine.nrrd")
    names = tmp_path / "names.csv"
    names.write_text("index,name\n1,Left Thing\n2,Right Thing\n", encoding="utf-8")
    own = load_atlas(str(path), names_file=names)
    assert [(r.name, r.hemisphere) for r in own.regions[:2]] == [("Left Thing", "left"), ("Right Thing", "right")]
    assert own.regions[2].name == "label 3"


# ------------------------------------------------------------------------------------------------------- region names

FORMATS = {
    "csv": "index,name\n1,Precentral_L\n2,Precentral_R\n",
    "semicolons and other headings": "Value;Region\n1;Precentral_L\n2;Precentral_R\n",
    "tsv (BIDS)": "index\tname\tabbreviation\n1\tPrecentral_L\tPreCG\n2\tPrecentral_R\tPreCG\n",
    "without heading": "1,Precentral_L\n2,Precentral_R\n",
    "index and label": "index,label\n1,Precentral_L\n2,Precentral_R\n",
    "byte order mark and comments": "\ufeff# a comment\nindex,name\n1,Precentral_L\n2,Precentral_R\n",
    "FreeSurfer": "#No. Label Name: R G B A\n0 Unknown 0 0 0 0\n"
    "1   Precentral_L    70 130 180 0\n2 Precentral_R 245 245 245 0\n",
    "ITK-SNAP": '# ITK-SnAP Label Description File\n    0     0    0    0        0  0  0    "Clear Label"\n'
    '    1   255    0    0        1  1  1    "Precentral_L"\n    2     0  255    0        1  1  1    "Precentral_R"\n',
    "SPM": '<?xml version="1.0" encoding="UTF-8"?>\n<atlas version="2"><header><name>AAL</name></header><data>'
    "<label><index>1</index><name>Precentral_L</name></label>"
    "<label><index>2</index><name>Precentral_R</name></label></data></atlas>",
}


@pytest.mark.parametrize("kind", FORMATS)
def test_label_formats_of_the_field(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "names.txt"
    path.write_text(FORMATS[kind], encoding="utf-8")
    read = read_region_names(path)
    assert read.names == {1: "Precentral_L", 2: "Precentral_R"}
    if kind == "FreeSurfer":
        assert read.colours[1] == (70, 130, 180)
    if kind == "ITK-SNAP":
        assert read.colours[2] == (0, 255, 0)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no region names"),
        ("just some prose\nwithout any table", "no region names"),
        ("index,name\n1,A\n1,B\n", "label 1 twice: 'A' and 'B'"),
        ("<atlas><data><label>", "not valid XML"),
        ('<!DOCTYPE a [<!ENTITY b "c">]><atlas>&b;</atlas>', "entities"),
    ],
)
def test_unusable_lists_of_names_are_refused(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "names.txt"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(AtlasError, match=reason):
        read_region_names(path)


def test_missing_or_huge_lists_of_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(AtlasError, match="does not exist"):
        read_region_names(tmp_path / "nothing.csv")
    (tmp_path / "huge.csv").write_bytes(b"1,a\n" * 3_000_000)
    with pytest.raises(AtlasError, match="at most"):
        read_region_names(tmp_path / "huge.csv")
