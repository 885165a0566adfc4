"""Running a stock vision encoder only as far as needed.

    open_tower      find embeddings and blocks
    needed_layers   which hidden states the features, scores and keys are read from
    hidden_states   run the blocks before them, and no other
    shrunk_features the features of smaller pictures

Hidden state number i is the input of block i, counted from 0; the last one is the output of the
last block. transformers numbers ``hidden_states`` the same way.
"""

from torch import Tensor, nn
from torch.nn.functional import interpolate

from prumerge.settings import Settings


def open_tower(vision_tower: nn.Module) -> nn.Module:
    """Find the module that holds the embeddings and the blocks.

    Args:
        vision_tower: ``CLIPVisionModel``, ``SiglipVisionModel``, or one built alike.

    Returns:
        The module itself, or the ``vision_model`` inside that older versions and other wrappers
        have.

    Raises:
        ValueError: If neither is built that way.
    """
    tower = getattr(vision_tower, "vision_model", vision_tower)
    if not (hasattr(tower, "embeddings") and hasattr(getattr(tower, "encoder", None), "layers")):
        raise ValueError(
            f"{type(vision_tower).__name__} has no embeddings and encoder.layers: pass a "
            "CLIPVisionModel or SiglipVisionModel, or build Encoded yourself"
        )
    return tower


def needed_layers(settings: Settings, feature_layer: int, blocks: int) -> tuple[int, int, int]:
    """Number the hidden state of the features and the blocks of scores and keys from 0.

    Args:
        settings: ``score_layer`` and ``key_layer`` are read; None means the block that reads the
            features.
        feature_layer: Hidden state of the features, -1 for the output of the last block.
        blocks: Blocks of the encoder.

    Returns:
        Hidden state of the features, block of the scores, block of the keys.

    Raises:
        ValueError: If a layer does not exist, or nothing reads the features and no block is named.

    Source:
        D1.

    Example:
        >>> needed_layers(Settings(), feature_layer=-2, blocks=24)
        (23, 23, 23)
    """
    if not isinstance(feature_layer, int):
        raise ValueError(
            f"feature_layer must be one int, got {feature_layer!r}: lists of layers "
            "have no single block that reads them"
        )
    if not -blocks - 1 <= feature_layer <= blocks:
        raise ValueError(f"feature_layer must be in [{-blocks - 1}, {blocks}], got {feature_layer}")
    features = feature_layer % (blocks + 1)
    found = []
    for name in ("score_layer", "key_layer"):
        layer = getattr(settings, name)
        if layer is None and features == blocks:
            raise ValueError(
                f"no block reads feature layer {feature_layer}: set {name}, -1 for the last block"
            )
        layer = features if layer is None else layer
        if not -blocks <= layer < blocks:
            raise ValueError(f"{name} must be in [{-blocks}, {blocks - 1}], got {layer}")
        found.append(layer % blocks)
    return features, found[0], found[1]


def check_pictures(tower: nn.Module, pixel_values: Tensor) -> None:
    """Refuse pictures that the encoder would misread or cut.

    Args:
        tower: As :func:`open_tower` finds it.
        pixel_values: Preprocessed pictures.

    Raises:
        ValueError: If they are no batch of pictures of the encoder's size.
    """
    size = tower.config.image_size
    if not isinstance(pixel_values, Tensor):
        raise ValueError(
            f"pixel_values must be a tensor, got {type(pixel_values).__name__}: pass "
            'processor(..., return_tensors="pt")["pixel_values"]'
        )
    if pixel_values.ndim != 4 or tuple(pixel_values.shape[1:]) != (3, size, size):
        raise ValueError(
            f"pixel_values must be [pictures, 3, {size}, {size}] for this encoder, got "
            f"{list(pixel_values.shape)}: use the processor saved with the model"
        )


def hidden_states(
    tower: nn.Module, pixel_values: Tensor, wanted: set[int], **options: bool
) -> dict[int, Tensor]:
    """Run the encoder up to the last hidden state wanted.

    Args:
        tower: As :func:`open_tower` finds it.
        pixel_values: Preprocessed pictures; moved to the type and device of the encoder.
        wanted: Hidden states to hand back; 0 is the input of the first block.
        options: For the embeddings, such as ``interpolate_pos_encoding=True``.

    Returns:
        The hidden states by number, class token included.

    Raises:
        ValueError: If the pictures do not have the encoder's size.
    """
    if not options:
        check_pictures(tower, pixel_values)
    weight = tower.embeddings.patch_embedding.weight
    hidden = tower.embeddings(pixel_values.to(weight.device, weight.dtype), **options)
    if hasattr(tower, "pre_layrnorm"):  # CLIP's LayerNorm before the first block, spelled so
        hidden = tower.pre_layrnorm(hidden)
    states = {}
    for index in range(max(wanted) + 1):
        if index:
            hidden = tower.encoder.layers[index - 1](hidden, attention_mask=None)
            hidden = hidden[0] if isinstance(hidden, tuple) else hidden
        if index in wanted:
            states[index] = hidden
    return states


def shrunk_features(
    tower: nn.Module,
    pixel_values: Tensor,
    layer: int,
    grid: tuple[int, int],
    pictures: Tensor,
) -> Tensor:
    """Encode pictures again after shrinking them, so that they have fewer patches.

    The pictures are resized with an antialiased bilinear filter, and the position embeddings are
    interpolated as ``transformers`` does for pictures of another size.

    Args:
        tower: As :func:`open_tower` finds it.
        pixel_values: Preprocessed pictures of the encoder's own size.
        layer: Hidden state of the features, counted from 0.
        grid: Rows and columns of patches that the shrunk pictures have.
        pictures: Which of the pictures to encode.

    Returns:
        Features [pictures, rows x columns, width], class token dropped.
    """
    size = [side * tower.config.patch_size for side in grid]
    chosen = pixel_values[pictures.to(pixel_values.device)].float()
    small = interpolate(chosen, size=size, mode="bilinear", antialias=True)
    hidden = hidden_states(tower, small, {layer}, interpolate_pos_encoding=True)[layer]
    return hidden[:, hidden.shape[1] - grid[0] * grid[1] :]
