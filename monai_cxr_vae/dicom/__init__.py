"""DICOM without torch: decoding, display, selection, derived objects."""
