"""Using the cores that the scheduler gave and no more. Loads no torch: a stage that does not need it starts without it."""

from __future__ import annotations

import os
import sys


def limit_threads(threads: int) -> None:
    """Tell the libraries that compute, those loaded and those still to be loaded.

    Args:
        threads: cores of this job.
    """
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[variable] = str(threads)
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(threads)
