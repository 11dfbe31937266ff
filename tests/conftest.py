"""Before torch is imported anywhere: one thread a process, since the tests themselves run a process a core."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
