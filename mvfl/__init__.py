"""mvfl: from six calibrated cameras to single-image 3D of laboratory mice."""

__version__ = "0.2.0"
