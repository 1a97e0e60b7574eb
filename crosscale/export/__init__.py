"""Trained models as files that run without this package, and engines that run them in the model's place."""

from crosscale.export.engines import Chosen as Chosen
from crosscale.export.engines import Trial as Trial
from crosscale.export.engines import choose_engine as choose_engine
from crosscale.export.export import Exported as Exported
from crosscale.export.export import export as export
