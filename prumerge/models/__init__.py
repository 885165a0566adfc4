"""Inside a model: the reduction attached, prompts shortened, questions asked, weights loaded.

attachment      ``attach``: the reducer at work in a LLaVA
prompts         room for exactly the visual tokens that are sent
positions       where the language model is told that they stand
inputs          a call on full prompts, rewritten
forward         the stock forward pass on shortened prompts
generation      the stock ``generate`` from shortened prompts
caches          what a KV cache has read, for the next turn
covers          functions put over a model's own
inside          tokens dropped between the language model's layers, by masks
stages          FastV, PyramidDrop, SparseVLM: when they drop, and how many
ratings         by whose attention they do
recycling       the dropped ones that SparseVLM sends on as means
asking          questions about pictures: the one engine of all experiments
preprocessing   from any picture to what the processor is given
loading         a LLaVA and its processor by name; what tells weights apart
videos          processors, prompts and loading of models that are shown clips
clip_files      frames of clips, read from files
frames          frames prepared for Qwen and InternVL, without torchvision
towers          a vision tower by name: a pretrained one, offline too
random_weights  LLaVA-1.5's shape without its checkpoint
adapters        PEFT adapters put in, LLaVA's own converted
checks          is this environment fit?
"""


def __getattr__(name: str):
    if name in ("load", "load_processor"):  # late: transformers takes seconds
        from prumerge.models import loading

        return getattr(loading, name)
    if name == "load_tower":
        from prumerge.models import towers

        return towers.load_tower
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
