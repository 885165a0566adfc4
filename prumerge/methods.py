"""Ways to reduce visual tokens, by name, behind one signature.

A method is a function from what the encoder says and the settings to a reduction. Registering one
takes a decorator; after that its name works wherever ``"prumerge+"`` does::

    @prumerge.register("brightest", settings=Settings(neighbours=0, extra_token=False))
    def brightest(encoded, settings):
        '''Keep the patches with the longest features.'''
        ...
        return reduce_to(reason, encoded.features, encoded.keys, encoded.scores, settings)
"""

import dataclasses
import importlib.util
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch

from prumerge.encoder import Encoded
from prumerge.reduction import Reduction, reduce_tokens
from prumerge.settings import PRESETS, Settings, resolve_settings, suggestion

Sends = Literal["exact", "at most", "on average", "all"]
Function = Callable[[Encoded, Settings], Reduction]


@dataclasses.dataclass(frozen=True)
class Method:
    """A way to reduce tokens together with its settings.

    Args:
        name: What tables call it.
        settings: Also say how the encoder is to be read (``score`` and the layers).
        sends: Tokens sent with a budget: ``"exact"``, as many; ``"at most"`` as many, depending on
            the picture; ``"on average"``, so over the pictures of a batch; ``"all"``, it sends
            every patch whatever the budget.
        reads_question: Whether it needs ``Encoded.relevance``; then a picture is reduced anew for
            each question about it.
        encodes_again: Whether it needs ``Encoded.at_grid`` or ``rerun``, and so whole pictures or
            frames whose patches the model sends as they are.
    """

    name: str
    function: Function
    settings: Settings
    sends: Sends = "exact"
    reads_question: bool = False
    encodes_again: bool = False

    @property
    def needs(self) -> list[str]:
        """What the method asks for beside features and keys.

        Example:
            >>> resolve("prumerge+").needs
            ['a class token (score="received" needs none)']
        """
        asked = {
            'a class token (score="received" needs none)': self.settings.score != "received",
            "the pictures, to encode them again": self.encodes_again,
            "the question": self.reads_question,
        }
        return [what for what, is_asked in asked.items() if is_asked]

    def __call__(self, encoded: Encoded) -> Reduction:
        """Reduce the tokens of encoded pictures.

        Raises:
            ValueError: If what the function returns is no reduction of these pictures, misses the
                budget, or sends a patch twice; the message names the method.
        """
        reduction = self.function(encoded, self.settings)
        images, patches = encoded.scores.shape
        budget = None if self.sends == "all" else self.settings.tokens_of(patches)
        twice = self.settings.duplicates
        check_returned(self.name, reduction, images, patches, budget, self.sends, twice)
        return reduction


_REGISTRY: dict[str, Method] = {}

INSIDE = ("fastv", "pyramiddrop", "sparsevlm")
"""Methods that drop tokens inside the language model: no function from what the encoder says."""


def register(
    name: str,
    settings: Settings | None = None,
    sends: Sends = "exact",
    reads_question: bool = False,
    encodes_again: bool = False,
) -> Callable[[Function], Function]:
    """Make a function known under a name, for ``attach``, ``resolve`` and tables.

    ``sends``, ``reads_question`` and ``encodes_again`` are those of :class:`Method`. The decorator
    hands the function back unchanged.

    Args:
        name: New name. Registering it again replaces the method, as a re-run notebook cell does.
        settings: Its defaults. None: ``Settings()``.

    Raises:
        ValueError: If the name belongs to a preset.
    """
    if name in PRESETS and name in _REGISTRY:
        raise ValueError(f"{name!r} is a preset of PruMerge: choose another name")
    settings = Settings() if settings is None else resolve_settings(settings)

    def keep(function: Function) -> Function:
        flags = (sends, reads_question, encodes_again)
        _REGISTRY[name] = Method(name, function, settings, *flags)
        return function

    return keep


def import_file(path: str) -> list[str]:
    """Run a Python file, and return the names of the methods it registered, when first run or now.

    Raises:
        ValueError: If there is no such file, it fails, or registers nothing. The message names
            file and line; the trace is a note behind it.
    """
    file = Path(path)
    if not file.is_file():
        raise ValueError(f"module={path!r}: there is no such file")
    name = f"prumerge_module_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None:
        raise ValueError(f"module={path!r} is no Python file: its name must end in .py")
    former, before = sys.modules.get(name), dict(_REGISTRY)
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise _module_failure(path, error) from None
    found = [name for name, method in _REGISTRY.items() if before.get(name) is not method]
    # What a file imports registers once: a second run of the file adds nothing.
    if not found and getattr(former, "__file__", None) == module.__file__:
        found = [name for name in former.__registered__ if name in _REGISTRY]
    if not found:
        del sys.modules[name]
        raise ValueError(
            f'module={path!r} registers no method: put @prumerge.register("name") before the '
            "function"
        )
    module.__registered__ = found
    return found


def _module_failure(path: str, error: BaseException) -> ValueError:
    """Name file and line of what failed, innermost in the user's file, with the trace noted."""
    file, trace = Path(path).resolve(), traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in trace if Path(frame.filename).resolve() == file]
    place, reason = f"line {lines[-1]}" if lines else "", str(error)
    if isinstance(error, SyntaxError):  # perhaps of a file that this one imports
        place, reason = f"{error.filename}, line {error.lineno}", error.msg
    told = ValueError(f"module={path!r} fails in {place}: {type(error).__name__}: {reason}")
    told.add_note("".join(traceback.format_exception(error)).rstrip())
    return told


def names() -> list[str]:
    """Return the names of all registered methods, in the order they were registered.

    Those in ``INSIDE`` are not among them: each name here can be attached, and called on what an
    encoder says.
    """
    return list(_REGISTRY)


def inside_only(name: str) -> ValueError:
    """Say that a method works inside the language model alone, and what to call instead."""
    return ValueError(
        f"{name} drops visual tokens inside the language model, so it reduces no prompt: write "
        f'`with prumerge.models.inside.inside(model, "{name}", budget=...):` around your calls'
    )


def resolve(method: str | Function | Method, **overrides: Any) -> Method:
    """Find a method, by name or as a function with a method's signature, and change its settings.

    Raises:
        ValueError: If no method has that name (the message lists them), or a setting is unknown or
            outside its limits.

    Example:
        >>> resolve("prumerge+", budget=64).settings.budget
        64
    """
    if isinstance(method, str):
        if method in INSIDE and method not in _REGISTRY:
            raise inside_only(method)
        if method not in _REGISTRY:
            raise ValueError(f"unknown method {method!r}: {suggestion(method, _REGISTRY)}")
        method = _REGISTRY[method]
    if not isinstance(method, Method):
        if not callable(method):
            raise ValueError(f"method must be a name or a function, got {method!r}")
        method = Method(getattr(method, "__name__", type(method).__name__), method, Settings())
    return dataclasses.replace(method, settings=method.settings.with_changes(**overrides))


def check_returned(
    name: str,
    reduction: object,
    images: int,
    patches: int,
    budget: int | None = None,
    sends: Sends = "exact",
    twice: bool = False,
) -> None:
    """Raise ValueError for what cannot be the reduction of these pictures; it names the method.

    A slip of a method is not blamed on the model. Without a ``budget`` the number of tokens is left
    to the method; with ``twice`` a patch may be kept twice.
    """
    problem = _problem(reduction, images, patches, twice)
    if problem is None and budget is not None:
        counts = reduction.kept
        wrong = [c for c in counts if c > budget or (c < budget and sends == "exact")]
        if sends == "on average":
            wrong = sum(counts) > budget * len(counts)
        if wrong:
            problem = f"sent {counts} tokens, the budget is {sends} {budget}"
            if max(counts) <= budget:
                problem += "; register it with sends='at most' if that is meant"
    if problem is not None:
        raise ValueError(f"method {name!r} {problem}")


def _problem(reduction: object, images: int, patches: int, may_repeat: bool) -> str | None:
    if not isinstance(reduction, Reduction):
        return (
            f"must return a Reduction, got {type(reduction).__name__}: end it with reduce_to(...)"
        )
    counts, places = reduction.kept, reduction.positions
    if len(counts) != images or len(places) != images:
        return f"returned tokens of {len(counts)} pictures, {images} were given"
    if [len(row) for row in places] != counts:
        return f"sent {counts} tokens with {[len(row) for row in places]} positions"
    if not images:
        return None
    # One answer for all pictures together: a device waits once.
    everywhere, order = torch.cat(places), reduction.selection.order.sort(dim=1).values
    outside = ((everywhere < 0) | (everywhere >= patches)).any()
    twice = ((order[:, 1:] == order[:, :-1]) & (order[:, 1:] >= 0)).any()
    outside, twice = torch.stack([outside, twice.to(outside.device)]).tolist()
    if outside:
        return f"gave positions outside 0 to {patches - 1}: they are patch indices"
    return "kept a patch twice" if twice and not may_repeat else None


def prumerge(encoded: Encoded, settings: Settings) -> Reduction:
    """Reduce tokens as LLaVA-PruMerge does; the settings say which reading of it."""
    return reduce_tokens(
        encoded.features, encoded.keys, encoded.scores, settings, grid=encoded.grid
    )


for _name, _settings in PRESETS.items():
    register(_name, _settings)(prumerge)
