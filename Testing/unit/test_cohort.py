"""Tables of subjects: what is read from them, and which are refused by name."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from small_reference import small_control

from ADAttributionLogic.atlas.library import load_atlas
from ADAttributionLogic.batch.explaining import explain_batch
from ADAttributionLogic.batch.question import BatchOptions
from ADAttributionLogic.cohort.joining import join_results
from ADAttributionLogic.cohort.scan_list import find_scans
from ADAttributionLogic.cohort.table import Cohort, controls_of, read_cohort, read_cohorts
from ADAttributionLogic.errors import CohortError, UnknownNameError, UsageError
from ADAttributionLogic.explanation import MethodRequest
from ADAttributionLogic.networks.packages import Model
from ADAttributionLogic.scan_files import write_volume


def table(folder: Path, text: str, name: str = "table.csv") -> Path:
    """A table and the scans that it names (empty files: nobody reads them here)."""
    path = folder / name
    path.write_text(text.replace("; ", "\t") if name.endswith("tsv") else text, encoding="utf-8")
    return path


def scan(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_a_row_is_a_scan_with_its_person_and_what_is_known_of_them(tmp_path: Path) -> None:
    scan(tmp_path, "a.nii.gz", "b.nii.gz")
    cohort = read_cohort(
        table(tmp_path, "scan,subject,session,diagnosis,Age,site\na.nii.gz,p1,v1,CN,70.5,A\nb.nii.gz,p2,v1,AD,n/a,B\n")
    )
    first, second = cohort.scans
    assert (first.subject, first.session, first.diagnosis, first.path) == ("p1", "v1", "CN", tmp_path / "a.nii.gz")
    assert cohort.variables == ("Age", "site") and first.number("Age") == 70.5 and math.isnan(second.number("Age"))
    assert first.line == 2 and second.values == {"site": "B"}
    assert [b.name for b in cohort.batch_scans()] == ["a", "b"] == [s.name for s in cohort.scans]
    with pytest.raises(CohortError, match=r"p1, v1 \(line 2\): site is 'A', which is no number"):
        first.number("site")


def test_names_are_those_that_a_batch_of_the_same_table_gives(tmp_path: Path) -> None:
    scan(tmp_path, "one/T1.nii.gz", "two/T1.nii.gz", "sub-3/anat/T1.nii.gz")
    path = table(
        tmp_path, "scan,subject,name\none/T1.nii.gz,a,\ntwo/T1.nii.gz,b,B\nsub-3/anat/T1.nii.gz,,\none/../x.nii,c,\n"
    )
    scan(tmp_path, "x.nii")
    cohort = read_cohort(path)
    names = [[(b.name, b.path) for b in scans] for scans in (cohort.batch_scans(), find_scans(path))]
    assert names[0] == names[1] and len(names[0]) == 4 and cohort.scans[2].subject == "sub-3"


@pytest.mark.parametrize("name", ["participants.tsv", "de.csv"])
def test_delimiters_are_recognised(tmp_path: Path, name: str) -> None:
    sign = "\t" if name.endswith("tsv") else ";"
    text = "\n".join(sign.join(row) for row in (("scan", "subject", "age"), ("a.nii", "p", "7"))) + "\n"
    assert read_cohort(table(tmp_path, text, name)).scans[0].values == {"age": "7"}


def test_bids_participants_and_their_sessions(tmp_path: Path) -> None:
    scan(
        tmp_path,
        "sub-01/ses-01/anat/sub-01_ses-01_T1w.nii.gz",
        "sub-01/ses-10/anat/sub-01_ses-10_T1w.nii.gz",
        "sub-01/ses-2/anat/sub-01_ses-2_T1w.nii.gz",
        "sub-02/anat/sub-02_T1w.nii",
        "sub-02/func/sub-02_bold.nii.gz",
    )
    table(tmp_path / "sub-01", "session_id\tage\tdiagnosis\nses-01\t70\tCN\nses-2\t71\tCN\nses-10\t79\tMCI\n",
          "sub-01_sessions.tsv")  # fmt: skip
    path = table(
        tmp_path,
        "participant_id\tsex\tdiagnosis\tage\nsub-01\tF\tCN\t70\n02\tM\tAD\t66\nsub-03\tM\tCN\t60\n",
        "participants.tsv",
    )
    cohort = read_cohort(path)
    found = [(s.subject, s.session, s.diagnosis, s.values.get("age")) for s in cohort.scans]
    assert found == [
        ("sub-01", "ses-01", "CN", "70"),
        ("sub-01", "ses-10", "MCI", "79"),
        ("sub-01", "ses-2", "CN", "71"),
        ("02", "", "AD", "66"),
        ("sub-03", "", "CN", "60"),
    ]
    assert [s.session for s in cohort.by_subject["sub-01"]] == ["ses-01", "ses-2", "ses-10"]
    notes = " ".join(cohort.notes)
    assert "1 of 3 persons were scanned several times (sub-01)" in notes and "not independent" in notes
    assert "1 of 5 scans are not there: sub-03 (line 4)" in notes and "differs between sessions: sub-01" in notes
    assert len(cohort.batch_scans()) == 4


def test_of_repeated_scans_the_first_counts_and_that_is_said(tmp_path: Path) -> None:
    scan(tmp_path, "a2.nii", "b.nii")
    cohort = read_cohort(
        table(tmp_path, "scan,subject,session\na10.nii,p,ses-10\na2.nii,p,ses-2\na1.nii,p,ses-1\nb.nii,q,ses-1\n")
    )
    single = cohort.one_per_subject()
    assert [(s.subject, s.session) for s in single.scans] == [("p", "ses-2"), ("q", "ses-1")], "ses-1 is not there"
    assert any("p was scanned 3 times; only the first scan (ses-2) counts" in note for note in single.notes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("scan,subject\na.nii,p\n./a.nii,q\n", r"a\.nii stands on line 2, line 3"),
        ("scan,subject\na.nii,p\na.nii,p\n", r"a\.nii stands on line 2, line 3"),
        ("scan,subject,sex\na.nii,p,F\nb.nii,p,M\n", "p: sex is F on line 2, but M on line 3"),
        (
            "scan,subject,session,age\na.nii,p,1,70\nb.nii,p,1,71\n",
            "p, 1: age is 70 on line 2, but 71 on line 3",
        ),
        (
            "scan,subject,session,diagnosis\na.nii,p,1,CN\nb.nii,p,1,AD\n",
            "p, 1: diagnosis is CN on line 2, but AD on line 3",
        ),
        ("scan,age\na.nii,3\n", "line 2: nothing says whose scan it is"),
        ("age,sex\n3,F\n", "neither a column 'scan' nor 'participant_id'"),
        ("scan,subject,age\na.nii,p\n", "line 2: it has 2 cells, but the head has 3"),
        ("scan,subject,Age,age\na.nii,p,1,2\n", "column 'Age' twice"),
        ("scan,subject\n", "no row beside its head"),
        ("scan,subject\na\0.nii,p\n", "is no path|cannot be read"),
    ],
)
def test_what_cannot_be_true_is_named(tmp_path: Path, text: str, message: str) -> None:
    scan(tmp_path, "a.nii", "b.nii")
    with pytest.raises(CohortError, match=message):
        read_cohort(table(tmp_path, text))


def test_all_contradictions_are_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(CohortError, match=r"sex is F.*but M on line 3\..*stands on line 4, line 5|stands.*sex is F"):
        read_cohort(table(tmp_path, "scan,subject,sex\na,p,F\nb,p,M\nc,q,\nc,r,\n"))


def test_several_tables_are_one_cohort(tmp_path: Path) -> None:
    first = table(tmp_path, "scan,subject,sex\na.nii,p,F\n", "first.csv")
    second = table(tmp_path, "scan,subject,age\nb.nii,q,70\n", "second.csv")
    both = read_cohorts([first, second])
    assert [s.subject for s in both.scans] == ["p", "q"] and both.variables == ("sex", "age")
    third = table(tmp_path, "scan,subject,sex\nc.nii,p,M\n", "third.csv")
    with pytest.raises(CohortError, match=r"p: sex is F on line 2 of first\.csv, but M on line 2 of third\.csv"):
        read_cohorts([first, third])


def groups(folder: Path, *diagnoses: str) -> Cohort:
    rows = "".join(f"{n}.nii,p{n},{d}\n" for n, d in enumerate(diagnoses))
    return read_cohort(table(folder, f"scan,subject,dx\n{rows}"))


def test_who_is_a_control_is_said_or_known_by_the_fields_words(tmp_path: Path) -> None:
    assert [s.subject for s in controls_of(groups(tmp_path, "AD", "HC", "hc", "")).scans] == ["p1", "p2"]
    assert len(controls_of(groups(tmp_path, "1", "2", "1"), ["1"])) == 2
    with pytest.raises(CohortError, match=r"does not say who is a control: its diagnoses are 1, 2\. Say .*--controls"):
        controls_of(groups(tmp_path, "1", "2"))
    with pytest.raises(CohortError, match="it has no diagnoses"):
        controls_of(groups(tmp_path, "", "n/a"))
    with pytest.raises(UnknownNameError, match="no diagnosis in .* named 'HC'"):
        controls_of(groups(tmp_path, "1", "2"), ["HC"])


# -------------------------------------------------------------------------------------------- joined to what was found


@pytest.fixture(scope="module")
def explained(tmp_path_factory: pytest.TempPathFactory, small_model: Model) -> Path:
    """A folder with three scans, a constant one, and the batch of them."""
    folder = tmp_path_factory.mktemp("explained")
    (folder / "scans").mkdir()
    for seed in range(3):
        write_volume(small_control(seed), folder / "scans" / f"s{seed}.nii.gz")
    write_volume(small_control(0).with_array(np.ones((78, 92, 78), np.float32)), folder / "scans" / "flat.nii.gz")
    options = BatchOptions([MethodRequest("gradient-x-input")], figure=False)
    explain_batch(find_scans(folder / "scans"), small_model, options, folder / "out", atlas=load_atlas("aal"))
    return folder


def test_a_table_is_joined_to_a_batch_by_the_scans_themselves(explained: Path) -> None:
    """The batch was of a folder, and gave other names than the table's."""
    cohort = read_cohort(table(explained, "scan,subject,dx\nscans/s1.nii.gz,sub-1,CN\nscans/s0.nii.gz,sub-0,AD\n"))
    joined = join_results(cohort, explained / "out")
    assert [(r.scan.subject, r.folder.name) for r in joined.results] == [("sub-1", "s1"), ("sub-0", "s0")]
    assert joined.unlisted == ("s2",) and not joined.missing
    first = joined.results[0]
    assert first.heatmaps == ("gradient-x-input",) and set(first.values) == {"CN", "AD"}
    assert first.heatmap("gradient-x-input").array.shape == (78, 92, 78)
    assert len(first.table("gradient-x-input")) == 121 and first.record["target_class"] == "AD"


def test_rows_without_a_result_are_named_with_the_reason(explained: Path, tmp_path: Path) -> None:
    text = "scan,subject\n" + "".join(f"scans/{n}.nii.gz,p{k}\n" for k, n in enumerate(("s0", "flat", "gone", "new")))
    write_volume(small_control(9), explained / "scans" / "new.nii.gz")
    joined = join_results(read_cohort(table(explained, text)), explained / "out")
    (explained / "scans" / "new.nii.gz").unlink()
    assert [r.scan.subject for r in joined.results] == ["p0"]
    why = [f"{scan.shown}: {reason}" for scan, reason in joined.missing]
    assert [name.split(" ")[0] for name in why] == ["p1", "p2", "p3"] and "(line 3)" in why[0]
    for reason, expected in zip(why, ("constant", "not there", "the batch has not explained it"), strict=True):
        assert expected in reason


def test_a_scan_that_was_changed_since_is_not_taken_for_the_one_that_was_explained(explained: Path) -> None:
    path = explained / "scans" / "s2.nii.gz"
    before = path.read_bytes()
    path.unlink()
    write_volume(small_control(8), path)
    joined = join_results(read_cohort(table(explained, "scan,subject\nscans/s2.nii.gz,p\n")), explained / "out")
    path.write_bytes(before)
    assert "the scan was changed since" in joined.missing[0][1]


def test_one_scan_under_two_names_and_damaged_results_are_refused(explained: Path) -> None:
    (explained / "scans" / "copy.nii.gz").write_bytes((explained / "scans" / "s0.nii.gz").read_bytes())
    cohort = read_cohort(table(explained, "scan,subject\nscans/s0.nii.gz,p\nscans/copy.nii.gz,q\n"))
    with pytest.raises(CohortError, match=r"p \(line 2\) and q \(line 3\) have the same scan"):
        join_results(cohort, explained / "out")
    joined = join_results(cohort.where(lambda s: s.subject == "p"), explained / "out")
    heatmap = explained / "out" / "s0" / "heatmaps" / "gradient-x-input.nii.gz"
    before = heatmap.read_bytes()
    heatmap.write_bytes(before[:-1])
    with pytest.raises(CohortError, match="was changed since it was written"):
        joined.results[0].heatmap("gradient-x-input")
    heatmap.write_bytes(before)
    with pytest.raises(CohortError, match="has no heatmaps/lrp"):
        joined.results[0].heatmap("lrp")
    with pytest.raises(UsageError, match="is no batch"):
        join_results(cohort, explained)
