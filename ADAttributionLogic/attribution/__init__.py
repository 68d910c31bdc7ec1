"""Attribution methods: one file per family, one registry."""

# Importing a family registers its methods; this order is the order in which they are listed.
from ADAttributionLogic.attribution import lrp as lrp  # isort: skip
from ADAttributionLogic.attribution import deeplift as deeplift  # isort: skip
from ADAttributionLogic.attribution import gradients as gradients  # isort: skip
from ADAttributionLogic.attribution import occlusion as occlusion  # isort: skip
from ADAttributionLogic.attribution import voxel_occlusion as voxel_occlusion  # isort: skip
from ADAttributionLogic.attribution import area_occlusion as area_occlusion  # isort: skip
from ADAttributionLogic.attribution import gradcam as gradcam  # isort: skip
from ADAttributionLogic.attribution import rollout as rollout  # isort: skip
