"""Which images of a BIDS dataset are meant, and whose they are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ADAttributionLogic.bids.cohort import cohort_from_bids
from ADAttributionLogic.bids.filters import filters_of, read_filters
from ADAttributionLogic.bids.images import named
from ADAttributionLogic.bids.selection import Selection, choose_images
from ADAttributionLogic.errors import CohortError, UsageError

IMAGES = (
    "sub-01/anat/sub-01_T1w.nii.gz",
    "sub-02/ses-1/anat/sub-02_ses-1_run-01_T1w.nii.gz",
    "sub-02/ses-1/anat/sub-02_ses-1_run-02_T1w.nii.gz",
    "sub-02/ses-2/anat/sub-02_ses-2_T1w.nii",
    "sub-03/anat/sub-03_T2w.nii.gz",
    "sub-04/anat/sub-04_acq-mprage_T1w.nii.gz",
    "sub-04/anat/sub-04_acq-spgr_part-mag_T1w.nii.gz",
    "sub-04/anat/sub-04_acq-spgr_part-phase_T1w.nii.gz",
)


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Four subjects; the name of the folder is that of a download from OpenNeuro."""
    root = tmp_path / "ds000001-1.0.0"
    for name in IMAGES:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    describe(root)
    lines = ["participant_id\tGroup\tage", "sub-01\tHC\t70", "sub-02\tAD\t71", "sub-04\tHC\t72", "sub-09\tHC\t73"]
    (root / "participants.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root


def describe(root: Path, kind: str = "raw") -> None:
    description = {"Name": "test", "BIDSVersion": "1.10.0", "DatasetType": kind}
    (root / "dataset_description.json").write_text(json.dumps(description), encoding="utf-8")


def chosen(root: Path, **asked: object) -> list[str]:
    return [Path(image.relative).name for image in choose_images(root, Selection(**asked)).images]  # type: ignore[arg-type]


def test_of_several_images_of_a_session_none_is_guessed(dataset: Path) -> None:
    with pytest.raises(UsageError) as refused:
        choose_images(dataset)
    for text in (
        "2 sessions have several",
        "sub-02_ses-1 has run-01, run-02",
        "sub-04 has acq-mprage, acq-spgr_part-mag",
        "--run NUMBER",
        "--acquisition LABEL",
    ):
        assert text in str(refused.value)


@pytest.mark.parametrize(
    ("run", "runs"),
    [
        ("1", ["run-01"]),
        ("run-02", ["run-02"]),
        ("first", ["run-01"]),
        ("last", ["run-02"]),
        ("all", ["run-01", "run-02"]),
    ],
)
def test_a_run_is_chosen_where_there_are_several(dataset: Path, run: str, runs: list[str]) -> None:
    """The session with one image without a run keeps it; files keep their zeros."""
    names = chosen(dataset, run=run, participants=["02"])
    assert names == [*(f"sub-02_ses-1_{r}_T1w.nii.gz" for r in runs), "sub-02_ses-2_T1w.nii"]


def test_a_run_that_a_session_has_not_is_no_other_run(dataset: Path) -> None:
    with pytest.raises(CohortError, match="none of its T1w images fits run: 3"):
        choose_images(dataset, Selection(["02"], ["1"], run="3"))
    with pytest.raises(UsageError, match="is 'second'"):
        choose_images(dataset, Selection(run="second"))


def test_labels_with_and_without_their_key(dataset: Path) -> None:
    assert chosen(dataset, participants=["01", "sub-02"], sessions=["ses-2"]) == ["sub-02_ses-2_T1w.nii"]
    assert choose_images(dataset, Selection(["01", "02"], ["2"])).missing == {
        "sub-01": "no T1w image of 2 (anat/*_T1w.nii or .nii.gz)."
    }
    with pytest.raises(
        UsageError, match="There is no participant sub-77 in .* It has 4: sub-01, sub-02, sub-03, sub-04"
    ):
        choose_images(dataset, Selection(["77"]))
    with pytest.raises(UsageError, match="There is no session ses-9 in .* It has 2: ses-1, ses-2"):
        choose_images(dataset, Selection(sessions=["9"]))


def test_acquisitions_and_complex_images(dataset: Path) -> None:
    assert chosen(dataset, participants=["04"], acquisition="acq-spgr") == ["sub-04_acq-spgr_part-mag_T1w.nii.gz"]


@pytest.mark.parametrize(
    ("section", "names"),
    [
        ({"session": "ses-1", "run": 2}, ["sub-02_ses-1_run-02_T1w.nii.gz"]),
        ({"ses": ["2"], "datatype": "anat", "suffix": "T1w"}, ["sub-02_ses-2_T1w.nii"]),
        ({"acquisition": None, "run": None}, ["sub-01_T1w.nii.gz", "sub-02_ses-2_T1w.nii"]),
        ({"acquisition": "mprage"}, ["sub-04_acq-mprage_T1w.nii.gz"]),
        ({"acquisition": "*", "part": "Query.NONE"}, ["sub-04_acq-mprage_T1w.nii.gz"]),
    ],
)
def test_a_filter_file_of_fmriprep(dataset: Path, tmp_path: Path, section: dict[str, object], names: list[str]) -> None:
    path = tmp_path / "filter.json"
    path.write_text(json.dumps({"t1w": section, "bold": {"task": "rest"}}), encoding="utf-8")
    assert chosen(dataset, filters=read_filters(path)) == names


def test_filters_that_are_not_understood_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "filter.json"
    for text, why in (
        ('{"bold": {}}', 'no section "t1w".*it has bold'),
        ("[]", "it is no object"),
        ("{", "cannot be read"),
        ('{"t1w": {"acquisitoin": "x"}}', "Did you mean acquisition"),
        ('{"t1w": {"suffix": "T2w"}}', "suffix is 'T2w'; only T1w"),
        ('{"t1w": {"run": {"$gt": 1}}}', "a text, a number, a list"),
    ):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(UsageError, match=why):
            read_filters(path)


def test_what_is_no_dataset_is_refused(tmp_path: Path, dataset: Path) -> None:
    with pytest.raises(CohortError, match=f"no folders of subjects.*But {dataset} has"):
        choose_images(dataset.parent)
    with pytest.raises(CohortError, match="no folders of subjects"):
        choose_images(tmp_path / "nowhere")
    (tmp_path / "twice/sub-1/anat").mkdir(parents=True)
    for suffix in (".nii", ".nii.gz"):
        (tmp_path / f"twice/sub-1/anat/sub-1_T1w{suffix}").touch()
    with pytest.raises(UsageError, match=r"sub-1 has sub-1_T1w.nii, sub-1_T1w.nii.gz.*move one"):
        choose_images(tmp_path / "twice", Selection(run="all"))


def test_names_have_the_standards_order() -> None:
    assert named({"desc": "lrp", "space": "x", "run": "01", "sub": "1", "acq": "a", "atlas": "aal", "ses": "2"}) == (
        "sub-1_ses-2_acq-a_run-01_space-x_atlas-aal_desc-lrp"
    )


def test_a_dataset_as_a_cohort(dataset: Path) -> None:
    cohort = cohort_from_bids(
        dataset, Selection(run="1", acquisition="", filters=filters_of({"acq": [None, "mprage"]}, ""))
    )
    rows = [(s.subject, s.session, s.diagnosis, s.number("age"), s.is_there) for s in cohort.scans]
    assert rows == [
        ("sub-01", "", "HC", 70, True),
        ("sub-02", "ses-1", "AD", 71, True),
        ("sub-02", "ses-2", "AD", 71, True),
        ("sub-04", "", "HC", 72, True),
        ("sub-09", "", "HC", 73, False),
    ]
    only = cohort_from_bids(dataset, Selection(["01"]), diagnosis="Group")
    assert [scan.subject for scan in only.scans] == ["sub-01"]
    with pytest.raises(CohortError, match="no column 'dx'; its columns are participant_id, Group, age"):
        cohort_from_bids(dataset, Selection(["01"]), diagnosis="dx")
    (dataset / "participants.tsv").write_text("participant_id\tGroup\nsub-01\tHC\n", encoding="utf-8")
    assert (
        "1 subjects have no row in participants.tsv"
        in cohort_from_bids(dataset, Selection(["01", "02"], run="1")).notes[-1]
    )
    (dataset / "participants.tsv").unlink()
    assert [scan.diagnosis for scan in cohort_from_bids(dataset, Selection(["01"])).scans] == [""]


def test_brains_of_derivatives_as_a_cohort(dataset: Path) -> None:
    """The table is that of the raw dataset around them."""
    derived = dataset / "derivatives" / "prepared"
    for space in ("MNI152NLin2009cAsym", "MNI152NLin6Asym"):
        for name in ("desc-brain_T1w", "desc-preproc_T1w", "label-GM_probseg"):
            path = derived / f"sub-01/anat/sub-01_space-{space}_{name}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    describe(derived, "derivative")
    with pytest.raises(UsageError, match="space-MNI152NLin2009cAsym, space-MNI152NLin6Asym"):
        cohort_from_bids(derived)
    (row,) = cohort_from_bids(derived, Selection(["01"], space="MNI152NLin6Asym"), diagnosis="Group").scans
    assert row.path is not None and row.path.name == "sub-01_space-MNI152NLin6Asym_desc-brain_T1w.nii.gz"
    assert (row.diagnosis, row.values) == ("HC", {"age": "70"})
