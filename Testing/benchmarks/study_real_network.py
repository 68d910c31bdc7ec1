"""What changes the score of a real network: preparation, and simulated atrophy. Tables as TSV on the output.

``study_real_network.py preparation``: one healthy head (Colin27) through the published steps as far as they can be
rebuilt here (BET's brain, linear interpolation, no winsorising), and through ours, one step changed at a time.
``study_real_network.py atrophy``: the medial temporal lobe of a real brain and of the template shrunk more and more.
All five networks of Qiu et al. 2022 (COG), reported as they are.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parents[1])]

import torch  # noqa: E402
from heads import BRAIN, HEAD, colin27  # noqa: E402
from ncomms2022 import SOURCE  # noqa: E402

from ADAttributionLogic.atlas.library import load_template  # noqa: E402
from ADAttributionLogic.networks.loading import load_model  # noqa: E402
from ADAttributionLogic.networks.packages import Model  # noqa: E402
from ADAttributionLogic.networks.qiu2022_package import convert  # noqa: E402
from ADAttributionLogic.preprocessing.model_input import prepare  # noqa: E402
from ADAttributionLogic.preprocessing.pipeline import Options, preprocess  # noqa: E402
from ADAttributionLogic.registration.target import RegistrationTarget  # noqa: E402
from ADAttributionLogic.scan_files import read_scan  # noqa: E402
from ADAttributionLogic.simulation.anatomy import icbm152_anatomy  # noqa: E402
from ADAttributionLogic.simulation.subject import PATIENT, SubjectParameters, simulate_subject  # noqa: E402
from ADAttributionLogic.volume import Volume, resample  # noqa: E402

#: Displacement of the structures' rims on both sides, mm.
DOSES = (0.0, 1.0, 2.0, 3.0, 4.0, 6.0)


def main() -> int:
    studies = {"preparation": (preparations, "preparation"), "atrophy": (atrophies, "brain\tdose\tleft hippocampus")}
    if len(sys.argv) != 2 or sys.argv[1] not in studies:
        print(f"usage: study_real_network.py {'|'.join(studies)}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        # The members are read one by one, from this folder.
        model = load_model(convert("qiu2022-impairment", SOURCE, Path(folder) / "package"))
        inputs, heading = studies[sys.argv[1]]
        return _table(model, heading, list(inputs(model)))


def preparations(model: Model) -> Iterator[tuple[str, Volume]]:
    """Name of a way, and what the networks see."""
    assert model.grid is not None
    head, bet = colin27()
    template = RegistrationTarget(load_template())
    ours = Options("affine", registered=False)
    yield "as published, as far as can be rebuilt: BET brain in MNI space, linear interpolation", read_scan(BRAIN)
    ways = {
        "ours": (template, ours, None),
        "ours, BET's brain mask": (template, ours, bet),
        "ours, no winsorising": (template, replace(ours, winsorising=False), None),
        "ours, no bias correction": (template, replace(ours, bias_correction=False), None),
        "ours, registered to nilearn's ICBM152 2009a": (_nilearn_target(), ours, None),
    }
    for name, (target, options, mask) in ways.items():
        yield name, preprocess(head, model.grid, target, options, mask=mask).brain


def _nilearn_target() -> RegistrationTarget:
    import numpy as np
    from nilearn.datasets import load_mni152_template

    image = load_mni152_template(resolution=1)
    return RegistrationTarget(Volume(np.asarray(image.dataobj, np.float32), image.affine, "nilearn"))


def atrophies(_model: Model) -> Iterator[tuple[str, Volume]]:
    """Name of a brain and dose, and the brain."""
    anatomy = icbm152_anatomy()
    brains = {"template": anatomy.template, "Colin27": resample(read_scan(BRAIN), anatomy.template.grid)}
    for name, brain in brains.items():
        made = replace(anatomy, template=brain.with_array(brain.array.astype("float32").clip(min=0)))
        for dose in DOSES:
            parameters = SubjectParameters(PATIENT, (dose, dose), 0.0, 0.0, 1.0, 0.0, 1)
            found = simulate_subject(made, parameters)
            change = found.volume_change["left Hippocampus"]
            yield f"{name}\t{dose:g} mm\t{change:+.0%}", found.scan


def _table(model: Model, heading: str, inputs: list[tuple[str, Volume]]) -> int:
    images = [prepare(scan, model.grid, model.normalisation).array for _, scan in inputs]
    columns = []
    for member in model.members:
        graph = member.load().folded
        with torch.no_grad():
            columns.append([float(graph.logits(torch.from_numpy(image)[None, None])) for image in images])
    print("\t".join([heading, *(m.name for m in model.members), "mean", "verdicts by own thresholds"]))
    for number, (name, _) in enumerate(inputs):
        scores = [column[number] for column in columns]
        levels = [model.output.level_of(s, m.thresholds) for s, m in zip(scores, model.members, strict=True)]
        numbers = [f"{s:.3f}" for s in (*scores, sum(scores) / len(scores))]
        print("\t".join([name, *numbers, ", ".join(f"{levels.count(x)} {x}" for x in dict.fromkeys(levels))]))
    return 0


if __name__ == "__main__":
    if not (SOURCE / "checkpoint_dir").is_dir() or not HEAD.exists():
        sys.exit(f"needs {SOURCE} and {HEAD}")
    sys.exit(main())
