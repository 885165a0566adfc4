"""Standing before a model's own methods, on one instance, without touching its class.

Whoever copies, saves or wraps a model handles the cover as it handles a bound method.
"""

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from prumerge.models.attachment import Attachment


class Cover:
    """The function that stands before one of a model's methods, and receives the model.

    While ``attachment`` is attached, its cover of that name is called with it, the model, the stock
    method and the arguments of the call. ``before`` is what the model's instance had under that
    name; None for its class's method.
    """

    def __init__(
        self, attachment: "Attachment", name: str, before: Callable[..., Any] | None
    ) -> None:
        self.attachment = attachment
        self.name = name
        self.before = before

    @torch.compiler.disable(recursive=False)
    def __call__(self, model: nn.Module, *args: Any, **kwargs: Any) -> Any:
        stock = self.before
        if stock is None:
            stock = getattr(type(model), self.name).__get__(model)
        if not self.attachment.attached:
            return stock(*args, **kwargs)
        instead = self.attachment.covers[self.name]
        return instead(self.attachment, model, stock, *args, **kwargs)

    @property
    def __signature__(self) -> inspect.Signature:
        """The stock signature must show through: ``generate`` and trainers look at it."""
        return inspect.signature(getattr(type(self.attachment.model), self.name))


class BoundCover:
    """A cover bound to its model: a bound method that is copied and saved along with it.

    Whoever takes a bound method apart, as ``accelerate`` does for mixed precision, finds the parts
    under their usual names.
    """

    def __init__(self, model: nn.Module, cover: Cover) -> None:
        self.__self__ = model
        self.__func__ = cover

    @torch.compiler.disable(recursive=False)
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.__func__(self.__self__, *args, **kwargs)

    @property
    def __signature__(self) -> inspect.Signature:
        stock = self.__func__.__signature__
        return stock.replace(parameters=list(stock.parameters.values())[1:])


def replicate(
    attachment: "Attachment", model: nn.Module, stock: Callable[..., nn.Module]
) -> nn.Module:
    """DataParallel copies the attributes: the covers among them must be the replica's own."""
    replica = stock()
    for name, cover in list(vars(replica).items()):
        if isinstance(cover, BoundCover):
            setattr(replica, name, BoundCover(replica, cover.__func__))
    return replica


def by_name(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, Any]:
    """The arguments of a call by the names of a function's parameters."""
    arguments = dict(inspect.signature(function).bind(*args, **kwargs).arguments)
    return arguments | arguments.pop("kwargs", {})
