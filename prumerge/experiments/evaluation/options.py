"""The arguments of an evaluated model, as text from a command line or as values, checked."""

import dataclasses
from typing import Any, get_args, get_type_hints

import torch

from prumerge.methods import Method, import_file, names, resolve
from prumerge.settings import Settings, suggestion

FULL = "full"
"""The method's name for the stock model, with nothing attached."""

CONVERSATIONS = ("template", "vicuna_v1")
_WHOLE = ("score_layer", "key_layer", "neighbours", "spatial_factor", "seed")
FIELDS = tuple(field.name for field in dataclasses.fields(Settings))
_NONE_IS_A_VALUE = [n for n, kind in get_type_hints(Settings).items() if "none" in get_args(kind)]


@dataclasses.dataclass(frozen=True)
class Options:
    """How a model is loaded, reduced and asked; a ValueError says what is possible.

    Args:
        pretrained: ``mini``, a folder, a hub id, best with a revision behind ``@``, or
            ``random-7b`` for that shape with random weights.
        dtype: Name of a torch type; None takes float32 on a CPU and bfloat16 elsewhere.
        do_pad: Pad pictures to squares with the processor's mean colour, as LLaVA-1.5 does;
            False leaves it at the processor's centre crop, which cuts off edges. Neither is done
            for a model that takes pictures of any shape.
        conversation: ``template`` of the checkpoint, or ``vicuna_v1``: the same with LLaVA-1.5's
            sentences about a curious user in front, as its authors evaluated.
        adapter: PEFT folder or hub id, best with a revision behind ``@``, merged into the weights.
        module: Python file with methods of your own, run first.
        answers: Folder of the journal: answers found there are not asked again. None keeps none.
        run: Begins the names of this run's own files there; all are read.
    """

    pretrained: str = "mini"
    method: str = FULL
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    batch_size: int = 16
    device: str | None = None
    dtype: str | None = None
    do_pad: bool = True
    conversation: str = "template"
    adapter: str | None = None
    module: str | None = None
    answers: str | None = None
    run: str = "answers"

    def __post_init__(self) -> None:
        if self.pretrained.endswith("-random"):
            from prumerge.models.random_weights import known_name  # loads transformers

            object.__setattr__(self, "pretrained", known_name(self.pretrained))
        if self.module:
            import_file(self.module)
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be an int of at least 1, got {self.batch_size}")
        if self.conversation not in CONVERSATIONS:
            known = suggestion(str(self.conversation), CONVERSATIONS)
            raise ValueError(f"unknown conversation {self.conversation!r}: {known}")
        if self.dtype is not None and not isinstance(getattr(torch, self.dtype, 0), torch.dtype):
            raise ValueError(f"dtype must name a type of torch such as float16, got {self.dtype!r}")
        if self.method != FULL and self.method not in names():
            known = suggestion(str(self.method), [FULL, *names()])
            raise ValueError(f"unknown method {self.method!r}: {known}")
        self.reducer()

    @property
    def runs_on(self) -> str:
        """The device, such as ``cpu``; where none is named, ``cuda`` if there is one."""
        return self.device or ("cuda" if torch.cuda.is_available() else "cpu")

    def reducer(self) -> Method | None:
        """Return the method with its settings, or None for the stock model."""
        if self.method != FULL:
            return resolve(self.method, **self.settings)
        changed = {name for name, value in self.settings.items() if value is not None}
        if changed - {"seed"}:
            raise ValueError(
                f"method 'full' reduces nothing and takes no {', '.join(sorted(changed))}: "
                "name a method, such as method=prumerge+"
            )
        return None


def read(arguments: dict[str, Any]) -> Options:
    """Sort arguments as lmms-eval's command line hands them over, fields of Settings among them.

    The text ``None`` stands for None, and ``none`` too where it is no value of a setting; whole
    numbers may have come as floats.

    Example:
        >>> read({"method": "prumerge+", "budget": 64, "key_layer": -1.0}).settings
        {'budget': 64, 'key_layer': -1}
    """
    own = [f.name for f in dataclasses.fields(Options) if f.name != "settings"]
    values, settings = {}, {}
    for name, value in arguments.items():
        empty = ("None", "") if name in _NONE_IS_A_VALUE else ("None", "none", "")
        value = None if value in empty else value
        if name in FIELDS:
            whole = name in _WHOLE and isinstance(value, float) and value.is_integer()
            settings[name] = int(value) if whole else value
        elif name in (*own, "revision"):
            values[name] = value
        else:
            raise ValueError(
                f"unknown argument {name!r}: {suggestion(name, [*own, 'revision', *FIELDS])}"
            )
    revision = values.pop("revision", None)
    if revision is not None:
        values["pretrained"] = f"{values.get('pretrained', 'mini')}@{revision}"
    values = {name: value for name, value in values.items() if value is not None}
    if not isinstance(values.get("do_pad", True), bool):
        raise ValueError(f"do_pad must be True or False, got {values['do_pad']!r}")
    if not str(values.setdefault("batch_size", Options.batch_size)).isdecimal():
        raise ValueError(f"batch_size must be an int of at least 1, got {values['batch_size']!r}")
    values["batch_size"] = int(values["batch_size"])
    return Options(**values, settings=settings)
