"""What LoRA trains in a LLaVA: updates of the language model, the projector, at two rates.

The paper's recipe (release, ``scripts/v1_5/finetune_lora_7b.sh``) is :class:`Lora` as it stands:
rank 128, alpha 256, dropout 0.05, rate 2e-4; the projector trained in full at 2e-5; the vision
tower frozen. Its command line adds one epoch, a cosine, 3 % of warm-up, bfloat16, length 2048.
"""

from dataclasses import dataclass
from typing import Any

from peft import LoraConfig, PeftModel, get_peft_model
from transformers import LlavaForConditionalGeneration

LANGUAGE_LAYERS = r".*language_model.*\.(q|k|v|o|gate|up|down)_proj"
PROJECTOR = "multi_modal_projector"
PROJECTOR_LAYERS = r".*multi_modal_projector\.linear_[12]"


@dataclass(frozen=True)
class Lora:
    """What is trained, and how fast.

    Args:
        rank: Of each update.
        alpha: Updates are scaled by alpha / rank.
        dropout: Share of an update's inputs dropped in training.
        projector: ``"full"`` trains its weights themselves, ``"lora"`` updates of them,
            ``"frozen"`` neither.
        rate: Highest learning rate of the language model's updates.
        projector_rate: Highest learning rate of the projector.

    Raises:
        ValueError: If a value is impossible.
    """

    rank: int = 128
    alpha: int = 256
    dropout: float = 0.05
    projector: str = "full"
    rate: float = 2e-4
    projector_rate: float = 2e-5

    def __post_init__(self) -> None:
        if self.projector not in ("full", "lora", "frozen"):
            raise ValueError(f"projector must be full, lora or frozen, got {self.projector!r}")
        if self.rank < 1 or self.alpha < 1:
            raise ValueError(f"rank and alpha must be at least 1, got {self.rank}, {self.alpha}")
        if not (0 <= self.dropout < 1 and self.rate > 0 and self.projector_rate > 0):
            raise ValueError(
                "dropout must be in [0, 1) and both rates positive, got "
                f"{self.dropout}, {self.rate}, {self.projector_rate}"
            )


def add_lora(model: LlavaForConditionalGeneration, lora: Lora) -> PeftModel:
    """Put fresh updates, which change nothing yet, into a stock model; the rest is frozen."""
    layers = LANGUAGE_LAYERS
    if lora.projector == "lora":
        layers = f"{layers}|{PROJECTOR_LAYERS}"
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=layers,
        modules_to_save=[PROJECTOR] if lora.projector == "full" else None,
        task_type="CAUSAL_LM",
    )
    tuned = get_peft_model(model, config)
    for parameter in tuned.parameters():
        if parameter.requires_grad:  # small steps vanish in bfloat16
            parameter.data = parameter.data.float()
    return tuned


def parameter_groups(tuned: PeftModel, lora: Lora) -> list[dict[str, Any]]:
    """Sort what is trained by its learning rate."""
    trained = [(name, p) for name, p in tuned.named_parameters() if p.requires_grad]
    projector = [p for name, p in trained if PROJECTOR in name]
    language = [p for name, p in trained if PROJECTOR not in name]
    groups = [{"params": language, "lr": lora.rate}]
    return groups + ([{"params": projector, "lr": lora.projector_rate}] if projector else [])
