"""One label per picture."""

from crosscale.tasks.classification.options import ClassificationOptions as ClassificationOptions
from crosscale.tasks.classification.task import Classification as Classification
