"""DICOM in and out.

`series` finds the series of a folder and describes them from their headers alone, `rules` chooses among them,
`convert` reads one as a `Volume`, `derived` writes a translated volume as a new series on the geometry of its source.
Below them: `tags` opens a file, `headers` says what its slices are, `values` what their numbers mean, and `pixels`
decodes them (pydicom and imagecodecs).
Nothing here imports TensorFlow.
"""
