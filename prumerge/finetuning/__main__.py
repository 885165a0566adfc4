"""``python -m prumerge.finetuning``; see :mod:`prumerge.finetuning.command`."""

import sys

from prumerge.extras import needs
from prumerge.finetuning.command import main
from prumerge.processes import process_group_ended

if __name__ == "__main__":
    with needs("notebooks", "train"), process_group_ended():
        sys.exit(main())
