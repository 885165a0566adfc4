"""Benchmarks of the reduction, for pytest-benchmark: ``make bench``; ``make test`` leaves them out.

Every benchmark notes in ``extra_info`` what a row needs; ``prumerge.timing.bench`` makes rows.
"""

import functools
import shutil

import loops
import pytest
import torch
from inputs import PLAIN, TYPICAL, encoded
from transformers import AutoModelForImageTextToText, CLIPVisionConfig, CLIPVisionModel

from prumerge import names, resolve
from prumerge.experiments.timing.clock import elapsed_ms, finished, peak_mib
from prumerge.models.canvases import reduce_packed
from prumerge.models.families import family_of
from prumerge.models.random_weights import random_config
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


class Visual:
    """A picture of five tiles, or a clip of eight frames, and a model that sees it.

    Tower and packing are LLaVA-NeXT's and Video-LLaVA's; the language model, which has nothing to
    do with encoding, is tiny. All weights are random.
    """

    def __init__(self, shown, device, dtype):
        tiles = shown == "tiles"
        config = random_config("random-next-7b" if tiles else "random-video-7b")
        text = config.text_config
        text.hidden_size = text.intermediate_size = 64
        text.num_hidden_layers, text.num_attention_heads = 1, 4
        text.num_key_value_heads, text.head_dim = 4, 16
        torch.manual_seed(0)
        self.model = AutoModelForImageTextToText.from_config(config).eval().to(device, dtype)
        self.kind, self.count = ("image", 2880) if tiles else ("video", 2048)
        pixels = torch.randn(1, *((5, 3, 336, 336) if tiles else (8, 3, 224, 224)))
        pixels = pixels.to(device, dtype)
        self.given = {"pixel_values_videos": pixels}
        if tiles:
            self.given = {"pixel_values": pixels, "image_sizes": torch.tensor([[672, 672]])}
        self.method = resolve("prumerge+", budget=640 if tiles else 512)

    def stock(self):
        """Encode as the model does by itself, projected and packed."""
        return getattr(self.model.model, f"get_{self.kind}_features")(**self.given)

    def attached(self):
        """Encode as far as the reduction needs it, with scores and keys."""
        packed = family_of(self.model).pack(self.model, self.given, self.method.settings)
        return packed[self.kind]

    def reduced(self, packed):
        """Keep the budget of what is encoded."""
        return reduce_packed(packed, self.method)


@pytest.fixture(scope="module")
def seen(pytestconfig):
    """Makes each visual once."""
    return functools.cache(Visual)


@pytest.mark.parametrize("how", ["stock", "attached", "reduced"])  # varies first
@pytest.mark.parametrize("shown", ["tiles", "frames"])
def test_tiles_and_frames(timed, seen, device, dtype, shown, how):
    visual = seen(shown, device, dtype)
    call = getattr(visual, how)
    if how == "reduced":
        call = functools.partial(call, visual.attached())
    columns = {"name": "prumerge+", "batch": 1, "patches": visual.count}
    timed(call, 15 if how == "reduced" else 3, what=f"{shown}_{how}", **columns)


@pytest.mark.parametrize("shown", ["tiles", "frames"])
def test_reduction_is_a_hundredth_of_encoding_tiles_and_frames(seen, device, dtype, shown):
    """Turn by turn, so that what else a machine does meets all; memory is a few times the features.

    That no array is tokens by tokens is shown by sizes in ``tests/models/test_slots.py``. On a GPU
    many small kernels take longer to start than to run: there the reduction may take longer.
    """
    visual, times = seen(shown, device, dtype), {"stock": [], "attached": [], "reduced": []}
    packed = visual.attached()
    assert visual.reduced(packed).kept == [visual.method.settings.budget]
    for _ in range(3):
        times["stock"].append(elapsed_ms(visual.stock, device))
        times["attached"].append(elapsed_ms(visual.attached, device))
        for _ in range(5):
            times["reduced"].append(elapsed_ms(lambda: visual.reduced(packed), device))
    quickest = {how: min(own) for how, own in times.items()}
    print(shown, {how: round(own, 1) for how, own in quickest.items()})
    assert quickest["attached"] < 1.02 * quickest["stock"]  # the last block is left out
    if device == "cpu":
        assert quickest["reduced"] < 0.01 * quickest["stock"]
    held = peak_mib(lambda: visual.reduced(packed), device) * 2**20
    width = packed.parts[0].features.shape[2]
    assert held < 8 * visual.count * width * dtype.itemsize  # a few times the features
