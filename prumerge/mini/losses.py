"""What the mini-LLaVA is trained for: match captions, name and place patches, answer questions."""

import torch
import torch.nn.functional as F
from torch import Tensor

from prumerge.mini.batches import IGNORED, PROMPT_START, Batch
from prumerge.mini.glyphs import KINDS
from prumerge.mini.model import IDS, PAD, Learner, Pretraining

SEEING = {"match", "naming", "placing"}  # parts of the loss that train the tower
GROUND_WEIGHT = 0.1  # most patches are ground; they would drown the things in the naming loss


def losses(model: Learner, batch: Batch, parts: tuple[str, ...]) -> dict[str, Tensor]:
    """Return the parts of the loss that are asked for, and the shares that are right.

    ``match``: CLIP's contrastive loss between pictures and captions; ``matched``, the share of
    pictures that find their caption. ``naming``: what lies on each patch, from its penultimate
    feature. ``placing``: where the patch lies, from the same feature; ``misplaced``, how many
    patches off that is on average on things. ``answer``: cross entropy of the answers' tokens;
    ``right``, the share predicted. ``practice`` and ``practised``: the same of conversations about
    no picture. Without a part of ``SEEING`` the vision tower is frozen, as in LLaVA's own training.
    """
    values = {}
    with torch.set_grad_enabled(not SEEING.isdisjoint(parts)):
        features = model.see(batch)
    if "match" in parts:
        values |= _match(model, batch, model.tower.encoder.layers[-1](features, None))
    if "naming" in parts:
        values |= _naming(model, batch, features)
    if "placing" in parts:
        values |= _placing(model, batch, features)
    if "answer" in parts:
        values |= _answer(model, batch, features)
    if "practice" in parts:
        values |= _practice(model, batch)
    return values


def _patches(batch: Batch, features: Tensor) -> Tensor:
    """Return the features of patches, which stand behind the class token if there is one."""
    return features[:, -batch.kinds.shape[1] :]


def _answer(model: Learner, batch: Batch, features: Tensor) -> dict[str, Tensor]:
    llava = model.llava.model
    visual = model.shown(batch, features)
    words = llava.language_model.embed_tokens(batch.input_ids)
    start, end = len(PROMPT_START), len(PROMPT_START) + visual.shape[1]
    embeddings = torch.cat([words[:, :start], visual.to(words.dtype), words[:, end:]], dim=1)
    hidden = llava.language_model(
        inputs_embeds=embeddings,
        attention_mask=_additive(batch.attention_mask, visual.dtype),
        position_ids=batch.position_ids,
        use_cache=False,
    ).last_hidden_state
    loss, right = _predicted(model, hidden[:, end:], batch.targets[:, end:])
    return {"answer": loss, "right": right}


def _practice(model: Learner, batch: Batch) -> dict[str, Tensor]:
    language_model = model.llava.model.language_model
    hidden = language_model(input_ids=batch.practice_ids, use_cache=False).last_hidden_state
    loss, right = _predicted(model, hidden, batch.practice_targets)
    return {"practice": loss, "practised": right}


def _predicted(model: Learner, hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return cross entropy and share right of the tokens that are answers."""
    answers = targets != IGNORED
    logits, wanted = model.llava.lm_head(hidden[answers]).float(), targets[answers]
    return F.cross_entropy(logits, wanted), (logits.argmax(-1) == wanted).float().mean().detach()


def _additive(visible: Tensor, dtype: torch.dtype) -> Tensor:
    """Turn a mask into summands. Plain attention *adds* what it is given: True would add 1."""
    return torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill_(
        ~visible, torch.finfo(dtype).min
    )


def _match(model: Pretraining, batch: Batch, last: Tensor) -> dict[str, Tensor]:
    clip = model.clip
    seen = clip.visual_projection(clip.vision_model.post_layernorm(last[:, 0]))
    mask = (batch.captions != IDS[PAD]).long()
    read = clip.text_projection(clip.text_model(batch.captions, attention_mask=mask).pooler_output)
    scale = clip.logit_scale.exp().clamp(max=100)
    logits = scale * F.normalize(seen.float(), dim=-1) @ F.normalize(read.float(), dim=-1).T
    wanted = torch.arange(len(logits), device=logits.device)
    loss = (F.cross_entropy(logits, wanted) + F.cross_entropy(logits.T, wanted)) / 2
    return {"match": loss, "matched": (logits.argmax(-1) == wanted).float().mean().detach()}


def _naming(model: Learner, batch: Batch, features: Tensor) -> dict[str, Tensor]:
    logits = model.naming(model.told(_patches(batch, features))).float()
    kinds, colours = logits.split([len(KINDS) + 1, logits.shape[-1] - len(KINDS) - 1], dim=-1)
    weights = _weights(batch)
    parts = F.cross_entropy(kinds.transpose(1, 2), batch.kinds, reduction="none")
    parts = parts + F.cross_entropy(colours.transpose(1, 2), batch.colours, reduction="none")
    things = batch.kinds > 0
    named = ((kinds.argmax(-1) == batch.kinds) & things).sum() / things.sum().clamp(min=1)
    return {"naming": (parts * weights).sum() / weights.sum(), "named": named.detach()}


def _placing(model: Learner, batch: Batch, features: Tensor) -> dict[str, Tensor]:
    grid, places = model.size.grid, batch.tower_positions[1:] - 1
    wanted = torch.stack([places // grid, places % grid], dim=-1) / (grid / 2) - 1.0  # -1 to 1
    apart = model.placing(model.told(_patches(batch, features))).float() - wanted
    weights, things = _weights(batch), batch.kinds > 0
    far = apart.detach().norm(dim=-1)[things].mean() * (grid / 2)
    return {"placing": (apart.square().sum(-1) * weights).sum() / weights.sum(), "misplaced": far}


def _weights(batch: Batch) -> Tensor:
    return torch.where(batch.kinds == 0, GROUND_WEIGHT, 1.0)
