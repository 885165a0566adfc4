"""What holds for every rival: budgets, batches, order, types, and a method of one's own."""

import itertools

import pytest
import torch
from samples import DEVICES, scores_with
from toy import PATCHES, batch, prompt, tiny_llava
from toy import pictures as toy_pictures

import prumerge
from prumerge import Encoded, Reduction, Settings, names, register, resolve
from prumerge import methods as registry
from prumerge.reduction import OUTLIER, rank_scores, reduce_to

EXACT = ["random", "uniform", "down_sampled", "top_k", "fastervlm", "evit"]
EXACT += ["tome", "visionzip", "vispruner", "divprune"]
AT_MOST = ["ats", "small_picture"]
RIVALS = EXACT + AT_MOST
OUTLIERS = [0, 1, 5, 16]
SIDE, WIDTH = 8, 12


def seen(outliers=OUTLIERS, side=SIDE, dtype=torch.float32, device="cpu"):
    """Random pictures of ``side`` x ``side`` patches, with all that a method may look at."""
    generator = torch.Generator().manual_seed(3)
    patches = side * side

    def draw(*shape):
        drawn = torch.randn(len(outliers), *shape, WIDTH, generator=generator)
        return drawn.to(device, dtype)

    features, keys, classes = draw(patches), draw(patches), draw()
    small = features.clone()

    def at_grid(grid, chosen):
        return small[chosen.to(small.device), : grid[0] * grid[1]]

    scores = scores_with(outliers, patches).to(device)
    return Encoded(features, keys, scores, (side, side), classes, heads=3, at_grid=at_grid)


def alone(pictures, index):
    def at_grid(grid, chosen):
        return pictures.at_grid(grid, chosen + index)

    rows = (pictures.features, pictures.keys, pictures.scores)
    rows = [tensor[index : index + 1] for tensor in rows]
    own = pictures.class_feature[index : index + 1]
    return Encoded(*rows, pictures.grid, own, pictures.heads, at_grid=at_grid)


def test_all_rivals_are_registered():
    assert set(names()) >= {"all", *RIVALS}


@pytest.mark.parametrize("budget", [1, 2, 3, 7, 16, 37, 0.25, 63, 64, 100])
@pytest.mark.parametrize("name", RIVALS)
def test_budgets_are_met(name, budget):
    wanted = Settings(budget=budget).tokens_of(SIDE**2)
    kept = resolve(name, budget=budget)(seen()).kept
    if name in EXACT:
        assert kept == [wanted] * 4
    else:
        assert all(1 <= count <= wanted for count in kept)


@pytest.mark.parametrize("name", EXACT)
def test_without_a_budget_counts_are_those_of_prumerge(name):
    assert resolve(name)(seen()).kept == resolve("prumerge")(seen()).kept == [2, 2, 6, 17]


@pytest.mark.parametrize("name", AT_MOST)
def test_without_a_budget_prumerge_counts_are_the_limit(name):
    counts = zip(resolve(name)(seen()).kept, [2, 2, 6, 17], strict=True)
    assert all(1 <= count <= limit for count, limit in counts)


@pytest.mark.parametrize("name", sorted(set(RIVALS) - {"ats"}))  # ats misses what is unlikely
def test_a_budget_of_all_patches_changes_nothing(name):
    pictures = seen()
    reduction = resolve(name, budget=SIDE**2)(pictures)
    found = torch.stack(reduction.tokens)
    patches = torch.stack(reduction.positions)[..., None].expand(-1, -1, WIDTH)
    torch.testing.assert_close(found, pictures.features.gather(1, patches))
    assert all(sorted(row.tolist()) == list(range(SIDE**2)) for row in reduction.positions)


@pytest.mark.parametrize("budget", [None, 21])
@pytest.mark.parametrize("name", RIVALS)
def test_a_picture_does_not_depend_on_its_batch(name, budget):
    pictures, method = seen(), resolve(name, budget=budget)
    together = method(pictures)
    for index in range(4):
        own = method(alone(pictures, index))
        assert torch.equal(own.positions[0], together.positions[index])
        torch.testing.assert_close(own.tokens[0], together.tokens[index])
        assert torch.equal(own.selection.reason[0], together.selection.reason[index])


@pytest.mark.parametrize("name", RIVALS)
def test_no_picture_gives_no_tokens(name):
    method = resolve(name, budget=5)
    nothing = seen()
    rows = (nothing.features, nothing.keys, nothing.scores)
    empty = Encoded(*(t[:0] for t in rows), nothing.grid, nothing.class_feature[:0], 3)
    if name == "small_picture":
        empty = Encoded(*(t[:0] for t in rows), nothing.grid, at_grid=nothing.at_grid)
    assert method(empty).kept == []


@pytest.mark.parametrize("name", sorted(set(RIVALS) - {"visionzip", "evit"}))
def test_tokens_are_in_raster_order(name):
    for places in resolve(name, budget=21)(seen()).positions:
        assert places.tolist() == sorted(set(places.tolist()))


@pytest.mark.parametrize("name", ["random", "uniform", "top_k", "ats", "vispruner", "divprune"])
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
    wide = Encoded(
        pictures.features,
        pictures.keys,
        pictures.scores,
        (3, 12),
        pictures.class_feature,
        heads=2,
        at_grid=pictures.at_grid,
    )
    kept = resolve(name, budget=10)(wide).kept
    assert kept == [10] * 4 if name in EXACT else max(kept) <= 10


@pytest.mark.parametrize("name", RIVALS)
def test_one_patch_is_sent_whatever_happens(name):
    assert resolve(name, budget=1)(seen(outliers=[0, 0], side=1)).kept == [1, 1]


@pytest.mark.parametrize("name", RIVALS)
def test_pictures_of_one_colour_have_no_distances_but_tokens(name):
    flat = torch.ones(2, 16, 6)
    scores = torch.full((2, 16), 1 / 16)
    same = Encoded(flat, flat, scores, (4, 4), flat[:, 0], at_grid=lambda grid, _: flat)
    if name != "small_picture":
        kept = resolve(name, budget=5)(same).kept
        assert kept == [5, 5] if name in EXACT else max(kept) <= 5


@pytest.mark.parametrize("name", RIVALS)
def test_rivals_answer_inside_a_model(name):
    model = tiny_llava()
    inputs = batch(prompt(3, 5), prompt(2, 0, 9)) | {"pixel_values": toy_pictures(3)}
    with prumerge.attach(model, name, budget=6) as reducer:
        output = model.generate(**inputs, max_new_tokens=3, do_sample=False)
        by_hand = reducer.method(reducer.encode(inputs["pixel_values"]))
    assert output.shape[1] == inputs["input_ids"].shape[1] + 3
    assert reducer.kept == ([6] * 3 if name in EXACT else by_hand.kept)
    assert all(map(torch.equal, by_hand.positions, reducer.reduction.positions))
    assert all(1 <= count <= 6 < PATCHES for count in reducer.kept)


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
