"""Tables of subjects: what is read from them, and which are refused by name."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from ADAttributionLogic.cohort.table import Cohort, controls_of, read_cohort
from ADAttributionLogic.errors import CohortError, UnknownNameError


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
    from ADAttributionLogic.batch_list import find_scans

    scan(tmp_path, "one/T1.nii.gz", "two/T1.nii.gz", "sub-3/anat/T1.nii.gz")
    path = table(
        tmp_path, "scan,subject,name\none/T1.nii.gz,a,\ntwo/T1.nii.gz,b,B\nsub-3/anat/T1.nii.gz,,\none/../x.nii,c,\n"
    )
    scan(tmp_path, "x.nii")
    cohort = read_cohort(path)
    assert cohort.batch_scans() == find_scans(path) and cohort.scans[2].subject == "sub-3"


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
        ("scan,subject\na.nii,p\n./a.nii,q\n", r"a\.nii stands on lines 2, 3"),
        ("scan,subject\na.nii,p\na.nii,p\n", r"a\.nii stands on lines 2, 3"),
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
    with pytest.raises(CohortError, match=r"sex is F.*but M on line 3\..*stands on lines 4, 5|stands.*sex is F"):
        read_cohort(table(tmp_path, "scan,subject,sex\na,p,F\nb,p,M\nc,q,\nc,r,\n"))


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
