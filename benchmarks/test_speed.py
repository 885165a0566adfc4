"""Benchmarks of the reduction, for pytest-benchmark: ``make bench``; ``make test`` leaves them out.

Every benchmark notes in ``extra_info`` what a row needs; :mod:`benchmarks.rows` makes the rows.
"""

import loops
import pytest
import torch
from inputs import PLAIN, encoded
from transformers import CLIPVisionConfig, CLIPVisionModel

from prumerge import names, resolve
from prumerge.scores import encode

# small_picture encodes anew: its cost is that of the encoder.
METHODS = [name for name in names() if name not in ("all", "small_picture")]
torch.set_grad_enabled(False)


def timed(benchmark, call, rounds, **columns):
    """Time a call; the columns travel with the result."""
    benchmark.extra_info.update(columns)
    return benchmark.pedantic(call, rounds=rounds, warmup_rounds=int(rounds > 1))


@pytest.mark.parametrize("batch", [1, 8, 32])
@pytest.mark.parametrize("name", METHODS)
def test_method(benchmark, name, batch):
    method, seen = resolve(name), encoded(batch)
    timed(benchmark, lambda: method(seen), 15, what="method", name=name, batch=batch)


@pytest.mark.parametrize("batch", [1, 8, 32])
@pytest.mark.parametrize("name", METHODS)
def test_one_picture_at_a_time(benchmark, name, batch):
    method = resolve(name)
    seen = [encoded(1)] * batch
    call = lambda: [method(picture) for picture in seen]  # noqa: E731
    timed(benchmark, call, 5, what="one_at_a_time", name=name, batch=batch)


@pytest.mark.parametrize("batch", [1, 8, 32])
@pytest.mark.parametrize("loop", ["lean", "released"])
@pytest.mark.parametrize("name", PLAIN)
def test_torch_loop(benchmark, name, loop, batch):
    method, seen = resolve(name), encoded(batch)
    expected = method(seen)
    how = (seen, expected.selection, method.settings)
    call = lambda: getattr(loops, loop)(*how)  # noqa: E731
    sent = timed(benchmark, call, 5, what=f"{loop}_loop", name=name, batch=batch)
    for row, tokens in zip(sent, expected.tokens, strict=True):
        torch.testing.assert_close(row, tokens, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", PLAIN)
def test_plain_loop(benchmark, name):
    """Once, with one picture: Python's loops take as long for each further one."""
    seen = encoded(1)
    call = lambda: loops.plain(seen, PLAIN[name])  # noqa: E731
    ((_, tokens),) = timed(benchmark, call, 1, what="plain_loop", name=name, batch=1)
    expected = resolve(name)(seen).tokens[0]
    torch.testing.assert_close(torch.tensor(tokens), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("batch", [1, 2, 4, 8, 16, 32])
@pytest.mark.parametrize("budget", [64, 1 / 9])
def test_batches(benchmark, batch, budget):
    method, seen = resolve("prumerge", budget=budget), encoded(batch)
    columns = {"what": "batches", "name": "prumerge", "budget": budget}
    timed(benchmark, lambda: method(seen), 15, batch=batch, **columns)


@pytest.mark.parametrize("side", [12, 16, 24, 32, 48])
@pytest.mark.parametrize("budget", [64, 1 / 9])
def test_patches(benchmark, side, budget):
    method, seen = resolve("prumerge", budget=budget), encoded(4, side * side)
    columns = {"what": "patches", "name": "prumerge", "budget": budget, "patches": side * side}
    timed(benchmark, lambda: method(seen), 15, batch=4, **columns)


@pytest.mark.parametrize("how", ["stock", "reduced"])
def test_encoder(benchmark, how):
    """CLIP ViT-L/14 at 336 pixels, random weights: all blocks, or those needed and PruMerge+."""
    config = CLIPVisionConfig(
        hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16,
        image_size=336, patch_size=14,
    )  # fmt: skip
    torch.manual_seed(0)
    tower, method = CLIPVisionModel(config).eval(), resolve("prumerge+")
    pixels = torch.randn(1, 3, 336, 336)
    calls = {
        "stock": lambda: tower(pixels, output_hidden_states=True).hidden_states[-2],
        "reduced": lambda: method(encode(tower, pixels, method.settings)),
    }
    timed(benchmark, calls[how], 3, what=f"encoder_{how}", name="prumerge+", batch=1)
