"""An attached model on every device here, in each precision and with each attention."""

from types import SimpleNamespace

import pytest
import torch
from samples import DEVICES
from test_generate import NEW, PROMPTS, SHOWN, attached, generate, inputs_of
from toy import by_hand, tiny_llava
from transformers.utils import is_flash_attn_2_available

import prumerge

NEAR = {torch.float32: 2e-4, torch.float16: 0.02, torch.bfloat16: 0.1}
"""How far logits may be apart, as a share of the largest: batches round otherwise."""
FLASH = "flash_attention_2"


def cases():
    """FlashAttention has neither float32 nor a CPU; where it is not installed it is skipped."""
    missing = pytest.mark.skipif(not is_flash_attn_2_available(), reason="flash-attn is missing")
    for device in DEVICES:
        for dtype in NEAR:
            for attention in ("eager", "sdpa", FLASH):
                if attention == FLASH and (device == "cpu" or dtype == torch.float32):
                    continue
                marks = [missing] if attention == FLASH else []
                name = f"{device}-{str(dtype).removeprefix('torch.')}-{attention}"
                yield pytest.param(device, dtype, attention, id=name, marks=marks)


each = pytest.mark.parametrize(("device", "dtype", "attention"), list(cases()))


def built(device, dtype, attention):
    """The toy model and four prompts of unequal length, with one, two, no and two pictures."""
    model = tiny_llava(dtype=dtype).to(device)
    model.set_attn_implementation(attention)
    return model, {name: value.to(device) for name, value in inputs_of(0, 1, 2, 3).items()}


def assert_near(found, expected):
    apart = (found.float() - expected.float()).abs().max()
    assert apart <= NEAR[expected.dtype] * expected.abs().max(), apart


@each
@torch.no_grad()
def test_keeping_all_tokens_is_the_stock_model(device, dtype, attention):
    model, inputs = built(device, dtype, attention)
    real = inputs["attention_mask"].bool()
    stock = model(**inputs).logits[real]
    with prumerge.attach(model, "all", order="raster"):
        ours = model(**inputs).logits[real]
    assert ours.device.type == device and ours.dtype == dtype
    assert_near(ours, stock)


@each
@torch.no_grad()
def test_a_batch_of_unequal_counts_answers_as_by_hand(device, dtype, attention):
    """The same tokens through the bare language model: no padding, no cache, no batch."""
    model, inputs = built(device, dtype, attention)
    with attached(model, positions="original") as reducer:
        output = generate(model, inputs, return_dict_in_generate=True, output_logits=True)
        sent = reducer.reduction
        assert len(set(reducer.kept)) > 1
    length, logits = inputs["input_ids"].shape[1], torch.stack(output.logits, dim=1)
    for row in range(4):
        places = slice(SHOWN[row][0], SHOWN[row][-1] + 1) if SHOWN[row] else slice(0)
        own = SimpleNamespace(tokens=sent.tokens[places], positions=sent.positions[places])
        answer, expected = by_hand(model, own, PROMPTS[row], "original", NEW)
        assert_near(logits[row, 0], expected[0])
        if dtype == torch.float32:  # halves may tie, and then go on otherwise
            assert_near(logits[row], expected)
            assert output.sequences[row, length:].tolist() == answer


@pytest.mark.skipif(DEVICES == ["cpu"], reason="no second device")
@torch.no_grad()
def test_devices_agree():
    found = []
    for device in DEVICES:
        model, inputs = built(device, torch.float32, "sdpa")
        with attached(model) as reducer:
            found.append((model(**inputs).logits.cpu(), reducer.kept))
    (here, kept), (there, too) = found
    assert kept == too
    torch.testing.assert_close(there, here, atol=1e-2, rtol=1e-2)
