"""Objects: boxes with a class and a score, and with masks."""

from crosscale.tasks.detection.instances import Instances
from crosscale.tasks.detection.task import Detection

__all__ = ["Detection", "Instances"]
