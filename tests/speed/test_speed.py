"""Benchmarks of the reduction, for pytest-benchmark: ``make bench``; ``make test`` leaves them out.

Every benchmark notes in ``extra_info`` what a row needs; ``prumerge.timing.bench`` makes rows.
"""

import shutil

import loops
import pytest
import torch
from inputs import PLAIN, TYPICAL, encoded
from transformers import CLIPVisionConfig, CLIPVisionModel

from prumerge import names, resolve
from prumerge.experiments.timing.clock import elapsed_ms, finished
from prumerge.scores import encode

# These encode anew, and their cost is that of the encoder; cdpruner waits for a question.
ENCODING = ("small_picture", "enlarged_picture", "tome_in_encoder", "hiprune", "cdpruner")
METHODS = [name for name in names() if name not in ("all", *ENCODING)]
torch.set_grad_enabled(False)


@pytest.fixture
def draw(device, dtype):
    """Draws pictures on the device."""
    return lambda images, patches=576: encoded(images, patches, device=device, dtype=dtype)


@pytest.fixture
def timed(benchmark, device, dtype):
    """Times a call until the device is done; the columns travel with the result."""

    def time(call, rounds, **columns):
        precision = str(dtype).removeprefix("torch.")
        benchmark.extra_info.update(columns | {"dtype": precision})
        how = {"rounds": rounds, "warmup_rounds": int(rounds > 1)}
        return benchmark.pedantic(finished(call, device), **how)

    return time


def assert_same(sent, expected):
    """In 16 bits near ties may choose other neighbours, so only 32 bits are compared."""
    for row, tokens in zip(sent, expected, strict=True):
        if tokens.dtype == torch.float32:
            row = torch.as_tensor(row, device=tokens.device)
            torch.testing.assert_close(row, tokens, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("batch", [1, 8, 32])
@pytest.mark.parametrize("name", METHODS)
def test_method(timed, draw, name, batch):
    method, seen = resolve(name), draw(batch)
    timed(lambda: method(seen), 15, what="method", name=name, batch=batch)


@pytest.mark.parametrize("batch", [1, 8, 32])
@pytest.mark.parametrize("name", METHODS)
def test_one_picture_at_a_time(timed, draw, name, batch):
    method, seen = resolve(name), draw(batch)
    pictures = [seen.at(slice(i, i + 1)) for i in range(batch)]
    call = lambda: [method(picture) for picture in pictures]  # noqa: E731
    timed(call, 5, what="one_at_a_time", name=name, batch=batch)


@pytest.mark.parametrize("batch", [1, 8, 32])
@pytest.mark.parametrize("loop", ["lean", "released"])
@pytest.mark.parametrize("name", PLAIN)
def test_torch_loop(timed, draw, name, loop, batch):
    method, seen = resolve(name), draw(batch)
    expected = method(seen)
    how = (seen, expected.selection, method.settings)
    call = lambda: getattr(loops, loop)(*how)  # noqa: E731
    assert_same(timed(call, 5, what=f"{loop}_loop", name=name, batch=batch), expected.tokens)


@pytest.mark.parametrize("name", PLAIN)
def test_plain_loop(timed, draw, name):
    """Once, with two pictures like the mean: Python's loops take as long for each further one."""
    seen = draw(8).at(slice(*TYPICAL))
    call = lambda: loops.plain(seen, PLAIN[name])  # noqa: E731
    sent = timed(call, 1, what="plain_loop", name=name, batch=len(seen.scores))
    assert_same([tokens for _, tokens in sent], resolve(name)(seen).tokens)


@pytest.mark.parametrize("batch", [1, 8, 32])
def test_reading_the_inputs(timed, draw, batch):
    """Features, keys and scores read from memory once, and summed up."""
    seen = draw(batch)
    call = lambda: [values.sum() for values in (seen.features, seen.keys, seen.scores)]  # noqa: E731
    timed(call, 15, what="read_inputs", name="inputs", batch=batch)


@pytest.mark.parametrize("batch", [1, 2, 4, 8, 16, 32])
@pytest.mark.parametrize("budget", [64, 1 / 9])
def test_batches(timed, draw, batch, budget):
    method, seen = resolve("prumerge", budget=budget), draw(batch)
    columns = {"what": "batches", "name": "prumerge", "budget": budget}
    timed(lambda: method(seen), 15, batch=batch, **columns)


@pytest.mark.parametrize("side", [12, 16, 24, 32, 48])
@pytest.mark.parametrize("budget", [64, 1 / 9])
def test_patches(timed, draw, side, budget):
    method, seen = resolve("prumerge", budget=budget), draw(4, side * side)
    columns = {"what": "patches", "name": "prumerge", "budget": budget, "patches": side * side}
    timed(lambda: method(seen), 15, batch=4, **columns)


@pytest.mark.skipif(not shutil.which("c++"), reason="torch.compile needs a compiler")
def test_compiled(timed, draw, device, tmp_path, monkeypatch):
    """torch.compile: what it saves in each call, and what it takes before the first."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))  # as on a machine new to it
    method, seen = resolve("prumerge+"), draw(8)
    compiled = torch.compile(method)
    columns = {"what": "compiled", "name": "prumerge+", "batch": 8}
    columns["compile_s"] = elapsed_ms(lambda: compiled(seen), device) / 1e3
    reduction = timed(lambda: compiled(seen), 15, **columns)
    assert_same(reduction.tokens, method(seen).tokens)


@pytest.fixture(scope="module")
def tower():
    """CLIP ViT-L/14 at 336 pixels, random weights."""
    config = CLIPVisionConfig(
        hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16,
        image_size=336, patch_size=14,
    )  # fmt: skip
    torch.manual_seed(0)
    return CLIPVisionModel(config).eval()


@pytest.mark.parametrize("how", ["stock", "reduced"])  # varies first: one after the other
@pytest.mark.parametrize("batch", [1, 8])
def test_encoder(timed, tower, device, dtype, how, batch):
    """All blocks, or those that are needed and PruMerge+."""
    tower, method = tower.to(device, dtype), resolve("prumerge+")
    pixels = torch.randn(batch, 3, 336, 336).to(device, dtype)
    calls = {
        "stock": lambda: tower(pixels, output_hidden_states=True).hidden_states[-2],
        "reduced": lambda: method(encode(tower, pixels, method.settings)),
    }
    timed(calls[how], 3, what=f"encoder_{how}", name="prumerge+", batch=batch)
