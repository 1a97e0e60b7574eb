"""What a process that loads pictures does first."""

import os
import threading
import time

from crosscale.data.decode import reuse_pillow_blocks


def init_worker(worker_index: int, worker_count: int, parent: int) -> None:
    """Keeps a loader process off the accelerator, and ends it when the process that started it is gone.

    Args:
      parent: the id of that process. Asked here, it would be another one's where that has died already.
    """
    import signal
    import sys

    reuse_pillow_blocks()
    os.environ["JAX_PLATFORMS"] = "cpu"
    if "jax" in sys.modules:
        sys.modules["jax"].config.update("jax_platforms", "cpu")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent, which gets it too, stops the workers

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="watch-parent").start()
