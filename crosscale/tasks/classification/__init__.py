"""One label per picture."""

from crosscale.tasks.classification.task import Classification as Classification
from crosscale.tasks.classification.task import ClassificationOptions as ClassificationOptions
