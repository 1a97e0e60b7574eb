"""Any number of labels per picture."""

from crosscale.tasks.multilabel.options import MultiLabelOptions as MultiLabelOptions
from crosscale.tasks.multilabel.task import MultiLabel as MultiLabel
