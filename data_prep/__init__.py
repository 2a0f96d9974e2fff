"""Scans to records: the digital knee, building TFRecords, pseudo-pairs. Beam and SimpleITK live here and only here."""
