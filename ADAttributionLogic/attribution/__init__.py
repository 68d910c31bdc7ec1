"""Attribution methods: one file per family, one registry."""

# Importing a family registers its methods; this order is the order in which they are listed.
from ADAttributionLogic.attribution import lrp as lrp  # isort: skip
from ADAttributionLogic.attribution import gradients as gradients  # isort: skip
from ADAttributionLogic.attribution import occlusion as occlusion  # isort: skip
from ADAttributionLogic.attribution import gradcam as gradcam  # isort: skip
