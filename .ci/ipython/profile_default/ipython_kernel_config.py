"""Settings of the kernels that record and check notebooks (found through IPYTHONDIR)."""

import gc

c = get_config()  # noqa: F821  (IPython puts it there)

c.IPKernelApp.log_level = 40  # no "Kernel is running over TCP" on every start
c.HistoryManager.enabled = False  # kernels that start together do not wait for one history file
gc.set_threshold(50_000)  # at 700 a seventh of what a notebook imports is looking for garbage
