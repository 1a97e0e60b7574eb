"""Checkpoints by Orbax: written in the background, whole or not at all, the newest and the best kept."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as managers
from orbax.checkpoint._src.multihost import multihost

from crosscale.cluster.hosts import all_texts, from_first, is_first, wait_for_all
from crosscale.engine.digests import check_digests, write_digests
from crosscale.errors import WorkError

AGREE_SECONDS = 40  # for all processes to find a checkpoint unreadable

# Orbax limits its waiting by the time of day: a clock set forward during a save would end the save, and the run with
# it. No clock jumps a hundred years. The first limit is that of the parts of a save that wait for one another,
# and has no public name.
_LONG_SECONDS = 100 * 365 * 24 * 3600
multihost._DEFAULT_BARRIER_TIMEOUT = _LONG_SECONDS

_ITEMS = ("state", "progress")

log = logging.getLogger("crosscale.engine")


class _Manager(ocp.CheckpointManager):  # type: ignore[misc]  # Orbax has no types
    """Orbax's manager, which leaves it to the loop to ask whether to stop: the question is counted."""

    def reached_preemption(self, step: int) -> bool:
        return False


class Checkpoints:
    """The checkpoints of one run: a tree of arrays and a JSON dictionary for each step.

    Where several processes train, all of them call every method, in the same order, and see one folder.
    """

    def __init__(self, folder: Path, *, keep: int) -> None:
        """
        Args:
          folder: made where it does not exist; what an interrupted save left in it is removed.
          keep: how many of the newest stay; the best one also stays.
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
        # Orbax reports ordinary things at warning level, and logs the errors that it raises as well.
        logging.getLogger("absl").setLevel(logging.CRITICAL)
        # A write that fails is raised once; at the process's end Orbax's other writes would each print the same again.
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)
        # Orbax refuses relative paths, but not before the first save.
        self.folder = folder.resolve()
        self._saving = 0
        wait_for_all("checkpoints")  # Orbax's own exchange between the processes, which follows, gives up after 30 s
        self._manager = _Manager(
            self.folder,
            item_names=_ITEMS,
            options=ocp.CheckpointManagerOptions(
                cleanup_tmp_directories=True,
                preservation_policy=policy,
                save_root_metadata=False,
                async_options=ocp.AsyncOptions(
                    timeout_secs=_LONG_SECONDS, post_finalization_callback=self._write_digests
                ),
            ),
        )

    def latest_step(self) -> int | None:
        """The newest whole checkpoint's step, or None."""
        step = self._manager.latest_step()
        return None if step is None else int(step)

    def save(self, step: int, state: Any, progress: dict[str, Any], score: Sequence[float] | None = None) -> None:
        """Starts to write a checkpoint; returns as soon as the arrays have been copied.

        A step that is already there is left as it is, unless there is a score now: a run that was stopped
        in a validation is saved once without one and, after it is resumed, once with one.

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
        self._manager.wait_until_finished()
        self._saving = step
        self._manager.save(step, args=items, metrics=metrics, force=True)

    def restore(self, target: Any, shardings: Any) -> tuple[Any, dict[str, Any]] | None:
        """Reads the newest checkpoint that can be read: (state, progress), or None where there is none.

        Args:
          target: a tree of the same structure, for the shapes and types.
          shardings: how the arrays lie on the devices, one for all or a tree; they may have lain on others.

        Raises:
          WorkError: there are checkpoints, but none can be read into `target`.
        """
        shapes = jax.tree.map(
            lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
            target,
            jax.tree.broadcast(shardings, target),
        )
        items = ocp.args.Composite(state=ocp.args.StandardRestore(shapes), progress=ocp.args.JsonRestore())
        failures: list[str] = []
        for step in sorted(self._manager.all_steps(), reverse=True):
            reason = from_first(self._damage(step) if is_first() else "")
            try:
                if not reason:
                    restored = self._manager.restore(step, args=items)
                    state, progress = restored["state"], dict(restored["progress"])
            except MemoryError:
                raise
            except Exception as error:  # Orbax wraps what it meets in a bare Exception
                reason = " ".join(str(error.__cause__ or error).split())[:200] or type(error).__name__
            self._check_agreed(step, reason)
            if reason:
                failures.append(f"step {step}: {reason}")
                log.warning("%s: checkpoint %d cannot be read (%s)", self.folder, step, reason)
                continue
            if failures:
                log.warning("%s: going on from checkpoint %d instead", self.folder, step)
            self._forget_after(step)
            return state, progress
        if failures:
            raise WorkError(f"{self.folder}: no checkpoint can be read ({failures[0]})")
        return None

    def _write_digests(self) -> None:
        # Orbax calls this when the files are complete and their folder does not have its name yet.
        if is_first():
            for unnamed in self.folder.glob(f"{self._saving}{ocp.utils.TMP_DIR_SUFFIX}*"):
                write_digests(unnamed)

    def _damage(self, step: int) -> str:
        try:
            check_digests(self.folder / str(step), below=_ITEMS)
        except (WorkError, OSError) as error:
            return str(error)
        return ""

    def _check_agreed(self, step: int, reason: str) -> None:
        """Raises WorkError where this process could not read what others could: they would part ways."""
        try:
            # Those that could read it wait for this process inside Orbax.
            reasons = all_texts(reason, seconds=AGREE_SECONDS if reason else None)
        except TimeoutError:
            reasons = [reason, ""]
        if any(reasons) and not all(reasons):
            why = next(text for text in reasons if text)
            raise WorkError(
                f"{self.folder}: not every process can read checkpoint {step} ({why}); all of them need the same "
                "folder; if it is the same, remove that checkpoint to go on from the one before"
            )

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
