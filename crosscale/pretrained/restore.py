"""The model that an artifact describes."""

from pathlib import Path

from crosscale.artifact import Artifact
from crosscale.errors import RequestError
from crosscale.models.model import ImageModel
from crosscale.models.registry import create_model
from crosscale.pretrained.naming import parameter_shapes

_TASK = "classification"


def restore_model(artifact: Artifact, where: str | Path) -> ImageModel:
    """Builds the model, which the weights beside the artifact fit.

    Args:
      where: the artifact's file or folder, which errors name.

    Raises:
      RequestError: an unknown task, model or option, or options from which no model can be built.
    """
    if artifact.task != _TASK:
        raise RequestError(f"{where}: task: '{artifact.task}' is not known here; '{_TASK}' is")
    try:
        model = create_model(artifact.model, **{**artifact.options, "num_classes": artifact.num_outputs})
        parameter_shapes(model)  # some values are looked at no earlier, such as dtype
    except RequestError as error:
        raise RequestError(f"{where}: {error}") from None
    except Exception as error:  # whatever a constructor meets in a value of a type that it does not expect
        reason = " ".join(str(error).split())[:200]
        raise RequestError(
            f"{where}: options: no {artifact.model} can be built from them ({type(error).__name__}: {reason}); "
            "give the constructor's fields as the run wrote them"
        ) from None
    return model
