"""What holds for every rival: budgets, batches, order, types, and a method of one's own."""

import dataclasses
import functools
import itertools

import pytest
import torch
from samples import DEVICES, scores_with
from toy import PATCHES, batch, prompt, tiny_llava
from toy import pictures as toy_pictures
from transformers import CLIPVisionConfig, CLIPVisionModel

import prumerge
from prumerge import Encoded, Reduction, Settings, names, register, resolve
from prumerge import methods as registry
from prumerge.encoder import run_again
from prumerge.reduction import OUTLIER, rank_scores, reduce_to

EXACT = ["random", "uniform", "down_sampled", "top_k", "fastervlm", "evit"]
EXACT += ["tome", "tome_in_encoder", "visionzip", "vispruner", "divprune"]
EXACT += ["dpp", "cdpruner", "scope", "holov", "hiprune"]
AT_MOST = ["ats", "small_picture"]
ON_AVERAGE = ["ats_mean"]
RIVALS = EXACT + AT_MOST + ON_AVERAGE + ["enlarged_picture"]
OUTLIERS = [0, 1, 5, 16]
SIDE, WIDTH = 8, 12


def assert_meets(name, kept, wanted, patches=SIDE**2):
    """What a method sends is what it promises for ``wanted`` tokens."""
    assert min(kept) >= 1
    if name in EXACT:
        assert kept == [wanted] * len(kept)
    elif name in AT_MOST:
        assert max(kept) <= wanted
    elif name in ON_AVERAGE:
        assert sum(kept) <= wanted * len(kept)
    else:
        assert kept == [patches] * len(kept)


@functools.cache
def tower_of(side, dtype=torch.float32, device="cpu"):
    """An encoder of random weights for methods that run one again: 3 blocks of 3 heads."""
    torch.manual_seed(0)
    config = CLIPVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=16,
        num_hidden_layers=3,
        num_attention_heads=3,
        image_size=2 * side,
        patch_size=2,
    )
    return CLIPVisionModel(config).eval().requires_grad_(False).to(device, dtype)


def seen(outliers=OUTLIERS, side=SIDE, dtype=torch.float32, device="cpu"):
    """Random pictures of ``side`` x ``side`` patches, with all that a method may look at."""
    generator = torch.Generator().manual_seed(3)
    patches = side * side

    def draw(*shape):
        drawn = torch.randn(len(outliers), *shape, generator=generator)
        return drawn.to(device, dtype)

    features, keys, classes = draw(patches, WIDTH), draw(patches, WIDTH), draw(WIDTH)
    small, pixels = features.clone(), draw(3, 2 * side, 2 * side)

    def at_grid(grid, chosen):
        return small[chosen.to(small.device), : grid[0] * grid[1]]

    return Encoded(
        features,
        keys,
        scores_with(outliers, patches).to(device),
        (side, side),
        classes,
        heads=3,
        relevance=draw(patches),
        at_grid=at_grid,
        rerun=functools.partial(run_again, tower_of(side, dtype, device), pixels, 2),
    )


def test_all_rivals_are_registered():
    assert set(names()) >= {"all", *RIVALS}


@pytest.mark.parametrize("budget", [1, 2, 3, 7, 16, 37, 0.25, 63, 64, 100])
@pytest.mark.parametrize("name", RIVALS)
def test_budgets_are_met(name, budget):
    wanted = Settings(budget=budget).tokens_of(SIDE**2)
    assert_meets(name, resolve(name, budget=budget)(seen()).kept, wanted)


@pytest.mark.parametrize("name", EXACT)
def test_without_a_budget_counts_are_those_of_prumerge(name):
    assert resolve(name)(seen()).kept == resolve("prumerge")(seen()).kept == [2, 2, 6, 17]


@pytest.mark.parametrize("name", AT_MOST)
def test_without_a_budget_prumerge_counts_are_the_limit(name):
    counts = zip(resolve(name)(seen()).kept, [2, 2, 6, 17], strict=True)
    assert all(1 <= count <= limit for count, limit in counts)


# ats misses what is unlikely, with any number of points.
@pytest.mark.parametrize("name", sorted(set(RIVALS) - {"ats", "ats_mean"}))
def test_a_budget_of_all_patches_changes_nothing(name):
    pictures = seen()
    reduction = resolve(name, budget=SIDE**2)(pictures)
    found = torch.stack(reduction.tokens)
    patches = torch.stack(reduction.positions)[..., None].expand(-1, -1, WIDTH)
    torch.testing.assert_close(found, pictures.features.gather(1, patches))
    assert all(sorted(row.tolist()) == list(range(SIDE**2)) for row in reduction.positions)


@pytest.mark.parametrize("budget", [None, 21])
@pytest.mark.parametrize("name", sorted(set(RIVALS) - set(ON_AVERAGE)))
def test_a_picture_does_not_depend_on_its_batch(name, budget):
    pictures, method = seen(), resolve(name, budget=budget)
    together = method(pictures)
    for index in range(4):
        own = method(pictures.at(torch.tensor([index])))
        assert torch.equal(own.positions[0], together.positions[index])
        torch.testing.assert_close(own.tokens[0], together.tokens[index])
        assert torch.equal(own.selection.reason[0], together.selection.reason[index])


@pytest.mark.parametrize("name", RIVALS)
def test_no_picture_gives_no_tokens(name):
    nothing = seen().at(torch.tensor([], dtype=torch.int64))
    assert resolve(name, budget=5)(nothing).kept == []


@pytest.mark.parametrize("name", sorted(set(RIVALS) - {"visionzip", "evit"}))
def test_tokens_are_in_raster_order(name):
    for places in resolve(name, budget=21)(seen()).positions:
        assert places.tolist() == sorted(set(places.tolist()))


SELECTING = ["random", "uniform", "top_k", "ats", "ats_mean", "vispruner", "divprune"]
SELECTING += ["dpp", "cdpruner", "scope", "holov", "hiprune"]


@pytest.mark.parametrize("name", SELECTING)
def test_selectors_send_features_unchanged(name):
    pictures = seen()
    reduction = resolve(name, budget=21)(pictures)
    rows = zip(pictures.features, reduction.tokens, reduction.positions, strict=True)
    assert all(torch.equal(tokens, features[places]) for features, tokens, places in rows)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", RIVALS)
def test_halves_stay_halves(name, dtype, device):
    tokens = resolve(name, budget=21)(seen(dtype=dtype, device=device)).tokens
    assert all(row.dtype == dtype and row.device.type == device for row in tokens)


@pytest.mark.skipif(DEVICES == ["cpu"], reason="no second device")
def test_devices_agree():
    for name, budget in itertools.product(RIVALS, [None, 21]):
        method = resolve(name, budget=budget)
        here, there = method(seen()), method(seen(device=DEVICES[-1]))
        for index in range(4):
            assert torch.equal(here.positions[index], there.positions[index].cpu()), name
            torch.testing.assert_close(here.tokens[index], there.tokens[index].cpu())


@pytest.mark.parametrize("name", RIVALS)
def test_grids_need_not_be_square(name):
    pictures = seen(side=6)
    wide = dataclasses.replace(pictures, grid=(3, 12))
    assert_meets(name, resolve(name, budget=10)(wide).kept, 10, patches=36)


@pytest.mark.parametrize("name", RIVALS)
def test_one_patch_is_sent_whatever_happens(name):
    assert resolve(name, budget=1)(seen(outliers=[0, 0], side=1)).kept == [1, 1]


@pytest.mark.parametrize("name", RIVALS)
def test_pictures_of_one_colour_have_no_distances_but_tokens(name):
    flat = torch.ones(2, 16, WIDTH)
    pixels = torch.ones(2, 3, 8, 8)
    same = Encoded(
        flat,
        flat,
        torch.full((2, 16), 1 / 16),
        (4, 4),
        flat[:, 0],
        heads=3,
        relevance=torch.full((2, 16), 0.2),
        at_grid=lambda grid, _: flat[:, : grid[0] * grid[1]],
        rerun=functools.partial(run_again, tower_of(4), pixels, 2),
    )
    assert_meets(name, resolve(name, budget=5)(same).kept, 5, patches=16)


def project_of(model):
    return model.model.multi_modal_projector


@pytest.mark.parametrize("name", RIVALS)
def test_rivals_answer_inside_a_model(name):
    model = tiny_llava()
    inputs = batch(prompt(3, 5), prompt(2, 0, 9)) | {"pixel_values": toy_pictures(3)}
    with prumerge.attach(model, name, budget=6) as reducer:
        if name == "cdpruner":
            encoded = reducer.encode(inputs["pixel_values"])
            relevance = torch.rand(3, PATCHES, generator=torch.Generator().manual_seed(0))
            inputs["pixel_values"] = dataclasses.replace(encoded, relevance=relevance)
        output = model.generate(**inputs, max_new_tokens=3, do_sample=False)
        pictures = inputs["pixel_values"]
        pictures = pictures if name == "cdpruner" else reducer.encode(pictures)
        by_hand = reducer.method(dataclasses.replace(pictures, project=project_of(model)))
    assert output.shape[1] == inputs["input_ids"].shape[1] + 3
    assert_meets(name, reducer.kept, 6, PATCHES)
    assert all(map(torch.equal, by_hand.positions, reducer.reduction.positions))


@pytest.fixture
def clean_registry(monkeypatch):
    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))


@pytest.mark.usefixtures("clean_registry")
def test_a_readers_own_method_of_twenty_lines_runs_in_a_model():
    plain = Settings(budget=4, neighbours=0, extra_token=False, order="raster")

    @register("brightest_quarter", settings=plain)
    def brightest_quarter(encoded: Encoded, settings: Settings) -> Reduction:
        """Keep the patches with the longest features, as many in each quarter of the picture."""
        rows, columns = encoded.grid
        lengths = encoded.features.float().norm(dim=-1)
        quarters = lengths.unflatten(1, (2, rows // 2, 2, columns // 2))
        quarters = quarters.permute(0, 1, 3, 2, 4).flatten(3)  # [images 2 2 patches of a quarter]
        ranks = rank_scores(quarters.flatten(0, 2)).view_as(quarters)
        kept = ranks < settings.tokens_of(rows * columns) // 4
        kept = kept.unflatten(3, (rows // 2, columns // 2)).permute(0, 1, 3, 2, 4).flatten(1)
        reason = (kept * OUTLIER).to(torch.int8)
        return reduce_to(reason, encoded.features, encoded.keys, encoded.scores, settings)

    model = tiny_llava()
    inputs = batch(prompt(3, 5), prompt(2, 0, 9)) | {"pixel_values": toy_pictures(3)}
    with prumerge.attach(model, "brightest_quarter", budget=8, positions="original") as reducer:
        output = model.generate(**inputs, max_new_tokens=3, do_sample=False)
    assert torch.equal(output[:, :-3], inputs["input_ids"])
    assert reducer.kept == [8, 8, 8]
    quarters = reducer.reduction.selection.kept.view(3, 2, 2, 2, 2).sum(dim=(2, 4))
    assert (quarters == 2).all()
    # What it does not promise is told by name: 6 tokens are no four equal quarters.
    with pytest.raises(
        ValueError, match=r"'brightest_quarter' sent \[4, 4, 4\] tokens, the budget"
    ):
        resolve("brightest_quarter", budget=6)(reducer.encode(inputs["pixel_values"]))
