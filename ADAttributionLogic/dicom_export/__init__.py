"""Results as DICOM objects for the study that the scan came from.

Heatmaps become Parametric Maps, the atlas's regions a Segmentation, region tables measurement reports (TID 1500) that
refer to both, the figure a Secondary Capture for viewers that know none of them. All are in the space of the source
series, slice by slice, and belong to its patient and study: unlike everything else that this program writes, they
carry the patient's name and number, without which no archive would take them. Without the series there is no export.

- :mod:`.context`: what all objects of one export share: patient, study, equipment, marks, texts that fit;
- :mod:`.parametric_map`, :mod:`.segmentation`, :mod:`.measurement_report`, :mod:`.secondary_capture`: an object each;
- :mod:`.export`: all of a result, into a folder, once it is certain that the series is the scan that was explained.
"""
