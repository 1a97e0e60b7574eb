"""The model and the task that an artifact describes."""

from pathlib import Path

from crosscale.artifact import Artifact
from crosscale.errors import RequestError
from crosscale.models.model import ImageModel
from crosscale.models.registry import create_model
from crosscale.pretrained.naming import parameter_shapes
from crosscale.tasks.registry import stored_task
from crosscale.tasks.task import Task


def restore_model(artifact: Artifact, where: str | Path) -> ImageModel:
    """Builds the model, which the weights beside the artifact fit.

    Args:
      where: the artifact's file or folder, which errors name.

    Raises:
      RequestError: an unknown task, model or option, or options from which no model can be built.
    """
    decided = restore_task(artifact, where).model_options({})
    try:
        model = create_model(artifact.model, **{**artifact.options, **decided})
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


def restore_task(artifact: Artifact, where: str | Path) -> Task:
    """What the model's outputs mean.

    Args:
      where: as for `restore_model`.

    Raises:
      RequestError: an unknown task, or options that are not the task's.
    """
    try:
        return stored_task(artifact)
    except RequestError as error:
        raise RequestError(f"{where}: {error}") from None
