"""DICOM in and out.

`series` finds the series of a folder and describes them from their headers alone, `rules` chooses among them,
`convert` reads one as a `Volume` (by dcm2niix), `derived` writes a translated volume as a new series on the geometry of
its source.
Nothing here imports TensorFlow.
"""
