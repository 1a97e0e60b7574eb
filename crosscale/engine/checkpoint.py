"""Checkpoints by Orbax: written in the background, whole or not at all, the newest and the best kept."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from jax.sharding import Sharding
from orbax.checkpoint import checkpoint_managers as managers

from crosscale.errors import WorkError

log = logging.getLogger("crosscale.engine")


class Checkpoints:
    """The checkpoints of one run: a tree of arrays and a JSON dictionary for each step."""

    def __init__(self, folder: Path, *, keep: int) -> None:
        """
        Args:
          folder: made where it does not exist; what an interrupted save left in it is removed.
          keep: how many of the newest stay; the best one stays besides.
        """
        policy = managers.AnyPreservationPolicy(
            [
                managers.LatestN(keep),
                managers.BestN(
                    get_metric_fn=lambda metrics: tuple(metrics["score"]),
                    n=1,
                    keep_checkpoints_without_metrics=False,
                ),
            ]
        )
        # Orbax tells of ordinary things at warning level.
        logging.getLogger("absl").setLevel(logging.ERROR)
        # Orbax refuses relative paths, but not before the first save.
        self.folder = folder.resolve()
        self._manager = ocp.CheckpointManager(
            self.folder,
            item_names=("state", "progress"),
            options=ocp.CheckpointManagerOptions(
                cleanup_tmp_directories=True, preservation_policy=policy, save_root_metadata=False
            ),
        )

    def latest_step(self) -> int | None:
        """The newest whole checkpoint's step, or None."""
        step = self._manager.latest_step()
        return None if step is None else int(step)

    def save(self, step: int, state: Any, progress: dict[str, Any], score: Sequence[float] | None = None) -> None:
        """Starts to write a checkpoint; returns as soon as the arrays have been copied.

        A step that is already there is left as it is, unless there is a score now: a run that was stopped
        in a validation is saved once without and, after it was resumed, once with it.

        Args:
          state: a tree of arrays.
          progress: anything that JSON holds.
          score: of the validation at this step, larger is better; None where there was none.
        """
        if step in self._manager.all_steps():
            if score is None:
                return
            self._manager.wait_until_finished()
            self._manager.delete(step)
        items = ocp.args.Composite(state=ocp.args.StandardSave(state), progress=ocp.args.JsonSave(progress))
        metrics = None if score is None else {"score": list(score)}
        self._manager.save(step, args=items, metrics=metrics, force=True)

    def restore(self, target: Any, sharding: Sharding) -> tuple[Any, dict[str, Any]] | None:
        """Reads the newest checkpoint that can be read: (state, progress), or None where there is none.

        Args:
          target: a tree of the same structure, for the shapes and types.
          sharding: how the arrays are to lie on the devices.

        Raises:
          WorkError: there are checkpoints, but none can be read into `target`.
        """
        shapes = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),  # type: ignore[no-untyped-call]
            target,
        )
        items = ocp.args.Composite(state=ocp.args.StandardRestore(shapes), progress=ocp.args.JsonRestore())
        failures: list[str] = []
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                restored = self._manager.restore(step, args=items)
            except (OSError, ValueError, KeyError, TypeError) as error:
                reason = " ".join(str(error).split())[:200]
                failures.append(f"step {step}: {reason}")
                log.warning("%s: checkpoint %d cannot be read (%s)", self.folder, step, reason)
                continue
            if failures:
                log.warning("%s: going on from checkpoint %d instead", self.folder, step)
            self._forget_after(step)
            return restored["state"], dict(restored["progress"])
        if failures:
            raise WorkError(f"{self.folder}: no checkpoint can be read ({failures[0]})")
        return None

    def wait(self) -> None:
        """Returns when what was started has been written. Raises what went wrong in the background."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Finishes writing and lets go of the folder."""
        self._manager.close()

    def _forget_after(self, step: int) -> None:
        """Removes unreadable checkpoints, which would stand in the way of the same steps' new ones."""
        for later in self._manager.all_steps():
            if later > step:
                self._manager.delete(later)
