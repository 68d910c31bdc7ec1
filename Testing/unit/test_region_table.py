"""The region table: right sums, right places, and columns that add up."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_volume import ORIENTATIONS, oblique_affine, reoriented

from ADAttributionLogic.atlas.atlas import Atlas, build_atlas
from ADAttributionLogic.atlas.library import load_atlas, load_template
from ADAttributionLogic.errors import AtlasError, OutputError
from ADAttributionLogic.relevance.region_table import COLUMNS, OUTSIDE_NAME, index_regions, region_table
from ADAttributionLogic.relevance.table_files import write_region_table
from ADAttributionLogic.volume import Volume

NAMES = {1: "Hippocampus_L", 2: "Hippocampus_R", 7: "Vermis"}


def random_case(seed: int, shape: tuple[int, int, int] = (9, 8, 7)) -> tuple[Volume, Atlas]:
    generator = np.random.default_rng(seed)
    affine = oblique_affine(seed)
    heatmap = Volume(generator.normal(size=shape).astype(np.float32), affine)
    labels = generator.choice([0, 0, 1, 2, 7], shape).astype(np.int32)
    labels.flat[:4] = (0, 1, 2, 7)
    return heatmap, build_atlas("small", Volume(labels, affine), NAMES)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 100_000))
def test_every_column_equals_a_loop_over_masks(seed: int) -> None:
    heatmap, atlas = random_case(seed)
    table = region_table(heatmap, atlas)
    assert list(table.columns) == [c.name for c in COLUMNS]
    total_in_regions = heatmap.array[atlas.labels.array > 0].sum(dtype=np.float64)
    for row in table.rows():
        mask = atlas.labels.array == row["label"]
        values = heatmap.array[mask].astype(np.float64)
        assert row["voxels"] == mask.sum()
        assert row["volume_mm3"] == pytest.approx(mask.sum() * abs(np.linalg.det(heatmap.affine[:3, :3])))
        assert row["sum"] == pytest.approx(values.sum(), abs=1e-9)
        assert row["absolute_sum"] == pytest.approx(np.abs(values).sum(), abs=1e-9)
        assert row["positive_sum"] == pytest.approx(np.maximum(values, 0).sum(), abs=1e-9)
        assert row["density"] == pytest.approx(values.sum() / row["volume_mm3"], abs=1e-12)
        place = np.argwhere(mask)[np.argmax(np.abs(values))]
        assert row["peak"] == pytest.approx(heatmap.array[tuple(place)])
        np.testing.assert_allclose((row["peak_r"], row["peak_a"], row["peak_s"]), heatmap.grid.to_ras(place), atol=1e-9)
        if row["label"]:
            assert row["share"] == pytest.approx(values.sum() / total_in_regions)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 100_000))
def test_the_columns_add_up_to_the_map(seed: int) -> None:
    heatmap, atlas = random_case(seed)
    columns = region_table(heatmap, atlas).columns
    assert columns["name"][-1] == OUTSIDE_NAME
    assert columns["sum"].sum() == pytest.approx(heatmap.array.sum(dtype=np.float64), abs=1e-9)
    assert columns["absolute_sum"].sum() == pytest.approx(np.abs(heatmap.array).sum(dtype=np.float64), abs=1e-9)
    assert columns["voxels"].sum() == heatmap.array.size
    assert np.nansum(columns["share"]) == pytest.approx(1)


def test_ranks_and_asymmetry() -> None:
    labels = np.zeros((4, 3, 3), np.int32)
    labels[0], labels[1], labels[2] = 1, 2, 7
    heat = np.zeros((4, 3, 3), np.float32)
    heat[0], heat[1], heat[2] = 3, 1, -5
    affine = np.diag([3.0, 3, 3, 1])  # regions of 243 mm³
    table = region_table(Volume(heat, affine), build_atlas("a", Volume(labels, affine), NAMES))
    rows = {row["name"]: row for row in table.rows()}
    assert [rows[n]["rank"] for n in ("Hippocampus_L", "Hippocampus_R", "Vermis", OUTSIDE_NAME)] == [1, 2, 3, 0]
    assert rows["Hippocampus_L"]["asymmetry"] == rows["Hippocampus_R"]["asymmetry"] == pytest.approx((27 - 9) / 36)
    assert np.isnan(rows["Vermis"]["asymmetry"])
    assert rows["Vermis"]["peak"] == -5
    assert [row["name"] for row in table.ranked()] == ["Hippocampus_L", "Hippocampus_R", "Vermis"]


@pytest.mark.parametrize(("voxel_mm", "is_ranked"), [(1.0, True), (0.999, False)])
def test_a_region_below_100_mm3_is_listed_but_not_ranked(tmp_path: Path, voxel_mm: float, is_ranked: bool) -> None:
    """One of exactly 100 mm³ still is; a smaller one keeps its row, its numbers and its place in the sums."""
    labels = np.zeros((10, 10, 4), np.int32)
    labels[..., 0], labels[..., 1], labels[..., 2], labels[0, 0, 3] = 1, 2, 2, 7  # 100, 200 and 1 voxels
    heat = np.where(labels == 7, 50, np.where(labels == 1, 2, 1)).astype(np.float32)
    affine = np.diag([voxel_mm, 1, 1, 1.0])
    table = region_table(Volume(heat, affine), build_atlas("a", Volume(labels, affine), NAMES))
    by_name = {row["name"]: row for row in table.rows()}
    small = by_name["Vermis"]
    assert (small["rank"], small["density_rank"], small["sum"], small["voxels"]) == (0, 0, 50, 1)
    assert small["share"] == pytest.approx(50 / 450) and small["density"] == pytest.approx(50 / voxel_mm)
    assert [row["name"] for row in table.ranked("density_rank")] == ["Hippocampus_L", "Hippocampus_R"][not is_ranked :]
    assert table.ranked("density_rank")[0]["density_rank"] == 1, "ranks count what is ranked"
    with open(write_region_table(table, tmp_path / "t.csv"), newline="", encoding="utf-8") as file:
        assert {row["name"]: row["density_rank"] for row in csv.DictReader(file)}["Vermis"] == "n/a"
    rows = json.loads(write_region_table(table, tmp_path / "t.json").read_text(encoding="utf-8"))["rows"]
    assert [row["rank"] for row in rows if row["name"] in ("Vermis", OUTSIDE_NAME)] == [None, None]
    described = json.loads((tmp_path / "t.units.json").read_text(encoding="utf-8"))["columns"]
    assert "below 100 mm³" in described["density_rank"]["description"]


def test_a_map_of_zeros_has_no_shares_and_no_nonsense() -> None:
    heatmap, atlas = random_case(1)
    table = region_table(heatmap.with_array(np.zeros_like(heatmap.array)), atlas)
    assert np.isnan(table.columns["share"]).all()
    assert (table.columns["asymmetry"][:2] == 0).all()
    labels = np.append(atlas.labels.array.ravel(), 0)
    for row in table.rows():
        place = np.rint(heatmap.grid.to_voxel((row["peak_r"], row["peak_a"], row["peak_s"]))).astype(int)
        assert labels[np.ravel_multi_index(tuple(place), heatmap.array.shape)] == row["label"]


def test_an_atlas_without_outside() -> None:
    heat = np.arange(27, dtype=np.float32).reshape(3, 3, 3)
    atlas = build_atlas("full", Volume(np.ones((3, 3, 3), np.int32), np.eye(4)), {})
    row = region_table(Volume(heat, np.eye(4)), atlas).rows()[-1]
    assert (row["name"], row["voxels"], row["sum"]) == (OUTSIDE_NAME, 0, 0)
    assert np.isnan(row["peak"]) and np.isnan(row["density"])


def test_the_atlas_must_be_on_the_heatmaps_grid() -> None:
    heatmap, atlas = random_case(1)
    moved = np.array(heatmap.affine)
    moved[0, 3] += 1
    with pytest.raises(AtlasError, match="resample it first"):
        region_table(Volume(heatmap.array, moved), atlas)


def test_regions_that_the_grid_does_not_contain_are_named() -> None:
    heatmap, atlas = random_case(2)
    only_left = atlas.labels.with_array(np.where(atlas.labels.array == 1, 1, 0).astype(np.int32))
    index = index_regions(Atlas("a", only_left, atlas.regions))
    assert index.missing == ("Hippocampus_R", "Vermis")
    assert len(region_table(heatmap, index)) == 2


@pytest.mark.slow
@pytest.mark.parametrize(("axes", "signs"), ORIENTATIONS[3::11])
def test_storage_order_changes_no_figure_of_a_real_atlas(axes: tuple[int, ...], signs: tuple[int, ...]) -> None:
    template = load_template()
    atlas = load_atlas("aal")
    expected = region_table(template, atlas.on_grid(template.grid)).columns
    turned = reoriented(template, axes, signs)
    found = region_table(turned, atlas.on_grid(turned.grid)).columns
    for name in ("label", "voxels", "rank"):
        np.testing.assert_array_equal(found[name], expected[name])
    for name in ("sum", "density", "share", "asymmetry"):
        np.testing.assert_allclose(found[name].astype(float), expected[name].astype(float), rtol=1e-9)


# -------------------------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize(("suffix", "delimiter"), [(".csv", ","), (".tsv", "\t")])
def test_text_tables_with_units_in_a_sidecar(tmp_path: Path, suffix: str, delimiter: str) -> None:
    table = region_table(*random_case(4))
    path = write_region_table(table, tmp_path / f"lrp{suffix}")
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter=delimiter))
    assert [float(row["sum"]) for row in rows] == table.columns["sum"].tolist()
    assert rows[-1]["share"] == "n/a"
    units = json.loads((tmp_path / "lrp.units.json").read_text(encoding="utf-8"))
    assert units["columns"]["density"]["unit"] == "relevance/mm³"
    assert set(units["columns"]) == set(rows[0])


def test_json_tables_hold_null_not_nan(tmp_path: Path) -> None:
    table = region_table(*random_case(4), "lrp")
    document = json.loads(write_region_table(table, tmp_path / "t.json").read_text(encoding="utf-8"))
    assert document["method"] == "lrp" and document["rows"][-1]["share"] is None
    assert document["rows"][0]["peak"] == table.columns["peak"][0]


def test_tables_are_not_overwritten(tmp_path: Path) -> None:
    table = region_table(*random_case(4))
    path = write_region_table(table, tmp_path / "t.csv")
    with pytest.raises(OutputError, match="exists"):
        write_region_table(table, path)
    with pytest.raises(OutputError, match=r"\.csv, \.tsv, \.json"):
        write_region_table(table, tmp_path / "t.xlsx")
