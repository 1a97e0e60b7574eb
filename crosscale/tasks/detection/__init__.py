"""Boxes with a class and a score."""

from crosscale.tasks.detection.task import Detection

__all__ = ["Detection"]
