"""Inside a model: loading, random weights of its shape, tuned adapters.

loading         a LLaVA and its processor by name; what tells weights apart
random_weights  LLaVA-1.5's shape without its checkpoint
adapters        PEFT adapters put in, LLaVA's own converted
checks          is this environment fit?
"""


def __getattr__(name: str):
    if name in ("load", "load_processor"):  # late: transformers takes seconds
        from prumerge.models import loading

        return getattr(loading, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
