"""Scans in and out: volumes with axes and units, how they were acquired, DICOM."""
