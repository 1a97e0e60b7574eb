"""A label for every pixel."""

from crosscale.tasks.segmentation.task import Segmentation

__all__ = ["Segmentation"]
