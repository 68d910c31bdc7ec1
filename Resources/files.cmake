# Data that ships with the extension (relative to the repository's root).
set(ADATTRIBUTION_RESOURCES
  Resources/Atlases/aal116-labels.tsv
  Resources/Atlases/aal116-rieke2018.json
  Resources/Atlases/aal2-left-right.json
  Resources/Atlases/desikan-killiany-left-right.json
  Resources/Atlases/neuromorphometrics-boehle2019.json
  Resources/Atlases/neuromorphometrics-left-right.json
  Resources/Models/model.schema.json
  )
