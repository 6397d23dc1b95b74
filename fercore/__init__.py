"""fercore: the thin library under the study of semi-supervised facial expression recognition."""

__version__ = "0.1.0"
