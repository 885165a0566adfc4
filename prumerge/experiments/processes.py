"""Several processes of one launch, as ``accelerate launch`` starts them."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


def end_process_group() -> None:
    """Leave the group of processes, if this one is in any.

    The group's threads would still run while the interpreter is taken apart, and now and then end
    the process by ``std::terminate``, after its work is done.
    """
    distributed = sys.modules.get("torch.distributed")  # not imported: in no group
    if distributed and distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


@contextmanager
def process_group_ended() -> Iterator[None]:
    """End the group of processes behind a block or a function, whatever happens in it."""
    try:
        yield
    finally:
        end_process_group()
