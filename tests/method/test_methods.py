"""Methods by name, the baselines at equal counts, and what a method may hand back."""

import dataclasses

import pytest
import torch
from samples import encoded, scores_with

import prumerge
from prumerge import PRESETS, Encoded, Settings, names, reduce_tokens, register, resolve
from prumerge import methods as registry
from prumerge.methods import Method
from prumerge.reduction import Selection

BASELINES = ["all", "random", "uniform", "top_k"]
COUNTS = [0, 1, 5, 16]
PLAIN = Settings(neighbours=0, extra_token=False, order="raster")


def pictures(outliers=COUNTS, patches=64):
    features, _, scores = encoded(outliers, patches)
    side = round(patches**0.5)
    return Encoded(features, features, scores, (side, side))


@pytest.fixture
def clean_registry(monkeypatch):
    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))


def test_presets_and_baselines_have_names():
    assert set(names()) >= {*PRESETS, *BASELINES}


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_by_name_is_reduce_tokens(name):
    seen = pictures()
    expected = reduce_tokens(seen.features, seen.keys, seen.scores, name)
    found = resolve(name)(seen)
    assert found.kept == expected.kept
    assert all(map(torch.equal, found.tokens, expected.tokens))


def test_an_unknown_method_is_refused_with_what_exists():
    with pytest.raises(
        ValueError, match=r"unknown method 'prumerg': did you mean 'prumerge.*top_k"
    ):
        resolve("prumerg")


def test_an_unknown_setting_is_refused():
    with pytest.raises(ValueError, match="unknown setting 'budjet': did you mean 'budget'"):
        resolve("prumerge", budjet=3)


@pytest.mark.usefixtures("clean_registry")
def test_a_method_of_ones_own_works_by_name_and_as_a_function():
    @register("first", settings=Settings(budget=3, neighbours=0, extra_token=False))
    def keep_first(seen, settings):
        reason = (torch.arange(64) < settings.tokens_of(64)).expand(len(seen.scores), -1)
        return registry.reduce_tokens(seen.features, seen.keys, reason.float(), settings)

    assert "first" in names()
    assert resolve("first")(pictures()).kept == [3] * 4
    assert resolve("first", budget=7)(pictures()).kept == [7] * 4
    own = resolve(keep_first, budget=2)
    assert own.name == "keep_first" and own(pictures()).kept == [2] * 4
    assert resolve(own, budget=4).settings.budget == 4


@pytest.mark.usefixtures("clean_registry")
def test_registering_again_replaces_but_presets_are_taken():
    register("mine")(lambda seen, settings: "old")
    register("mine")(lambda seen, settings: "new")
    assert names().count("mine") == 1
    for name in PRESETS:
        with pytest.raises(ValueError, match="is a preset of PruMerge"):
            register(name)


def test_what_is_no_method_is_refused():
    with pytest.raises((ValueError, TypeError)):
        resolve(7)


def test_all_sends_everything_unchanged_whatever_the_budget():
    seen = pictures()
    for budget in (None, 5):
        assert torch.equal(torch.stack(resolve("all", budget=budget)(seen).tokens), seen.features)


@pytest.mark.parametrize("name", BASELINES[1:])
@pytest.mark.parametrize("budget", [1, 7, 0.25, 64, 100])
def test_baselines_meet_a_budget(name, budget):
    expected = Settings(budget=budget).tokens_of(64)
    assert resolve(name, budget=budget)(pictures()).kept == [expected] * 4


@pytest.mark.parametrize("extra", [False, True])
@pytest.mark.parametrize("name", BASELINES[1:])
def test_without_a_budget_baselines_send_as_many_as_prumerge(name, extra):
    expected = resolve("prumerge")(pictures()).kept
    assert expected == [2, 2, 6, 17]
    assert resolve(name, extra_token=extra)(pictures()).kept == expected


@pytest.mark.parametrize("name", BASELINES)
def test_baselines_send_features_unchanged_in_raster_order(name):
    seen = pictures()
    found = resolve(name, budget=9)(seen)
    for features, tokens, places in zip(seen.features, found.tokens, found.positions, strict=True):
        assert torch.equal(tokens, features[places])
        assert places.tolist() == sorted(set(places.tolist()))


@pytest.mark.parametrize("name", BASELINES)
def test_a_picture_does_not_depend_on_its_batch(name):
    seen = pictures()
    alone = Encoded(seen.features[2:3], seen.keys[2:3], seen.scores[2:3], seen.grid)
    assert torch.equal(resolve(name)(seen).positions[2], resolve(name)(alone).positions[0])


def test_random_depends_on_its_seed_only():
    places = [resolve("random", budget=9, seed=seed)(pictures()).positions for seed in (0, 0, 1)]
    assert torch.equal(places[0][0], places[1][0])
    assert not torch.equal(places[0][0], places[2][0])


def test_smaller_random_draws_are_part_of_larger_ones():
    small, large = (resolve("random", budget=count)(pictures()).positions for count in (9, 20))
    assert set(small[0].tolist()) < set(large[0].tolist())


def test_random_patches_are_drawn_evenly():
    counts = torch.zeros(64)
    for seed in range(400):
        places = resolve("random", budget=16, seed=seed)(pictures([1])).positions[0]
        counts[places] += 1
    assert counts.min() > 60 and counts.max() < 145  # 100 expected, standard deviation 9


def test_uniform_is_a_lattice():
    places = resolve("uniform", budget=16)(pictures()).positions[0]
    rows, columns = places // 8, places % 8
    assert sorted(set(rows.tolist())) == sorted(set(columns.tolist())) == [1, 3, 5, 7]


def test_top_k_takes_the_best_scored():
    seen = pictures()
    found = resolve("top_k", budget=9)(seen).selection.kept
    assert torch.equal(found, seen.scores >= seen.scores.topk(9).values[:, -1:])


def test_baselines_can_merge_as_well():
    seen = pictures()
    plain, merging = (resolve("top_k", budget=9, neighbours=n)(seen) for n in (0, 4))
    assert torch.equal(plain.positions[0], merging.positions[0])
    assert not torch.equal(plain.tokens[0], merging.tokens[0])


def test_uniform_needs_no_square():
    seen = Encoded(*[torch.randn(2, 12, 3)] * 2, scores_with([1, 2], 12), (3, 4))
    assert resolve("uniform", budget=5)(seen).kept == [5, 5]


def test_the_package_shows_a_dozen_names_and_no_other():
    assert len(prumerge.__all__) <= 12
    assert all(hasattr(prumerge, name) for name in prumerge.__all__)
    with pytest.raises(AttributeError, match="no attribute 'atach'"):
        _ = prumerge.atach


def test_a_file_that_fails_is_told_with_its_line_and_the_trace_behind(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("import torch\n\n\ndef nine():\n    return torch.nine\n\n\nnine()\n")
    with pytest.raises(ValueError, match=r"mine\.py' fails in line 5: AttributeError") as raised:
        registry.import_file(str(file))
    assert "\n" not in str(raised.value)
    assert "line 8, in <module>" in raised.value.__notes__[0]
    file.write_text("import torch\nnine = = 9\n")
    with pytest.raises(ValueError, match=r"mine\.py, line 2: SyntaxError: invalid syntax"):
        registry.import_file(str(file))
    file.write_text("raise SystemExit(3)\n")
    with pytest.raises(ValueError, match=r"fails in line 1: SystemExit: 3"):
        registry.import_file(str(file))
    with pytest.raises(ValueError, match=r"is no Python file: its name must end in \.py"):
        registry.import_file("README.md")


@pytest.mark.usefixtures("clean_registry")
def test_a_file_that_registers_nothing_is_told_and_one_may_be_run_twice(tmp_path, monkeypatch):
    empty, mine = tmp_path / "empty.py", tmp_path / "wrapper.py"
    empty.write_text("def unregistered(encoded, settings): ...\n")
    for _ in range(2):
        with pytest.raises(ValueError, match=r"empty\.py' registers no method: put @prumerge"):
            registry.import_file(str(empty))
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "imported_methods.py").write_text(
        "import prumerge\nprumerge.register('top_k')(prumerge.methods.prumerge)\n"
    )
    mine.write_text("import imported_methods\n")
    assert [registry.import_file(str(mine)) for _ in range(2)] == [["top_k"]] * 2


def changed(change, budget=4, sends="exact"):
    """A method called "mine" that spoils what top-k returns."""

    def function(seen, settings):
        return change(resolve("top_k", budget=4)(seen))

    return Method("mine", function, PLAIN.with_changes(budget=budget), sends)


def replaced(**fields):
    def change(reduction):
        return dataclasses.replace(reduction, **{k: v(reduction) for k, v in fields.items()})

    return change


def twice(reduction):
    old = reduction.selection
    order = old.order.clone()
    order[1, 2] = order[1, 0]
    return Selection(old.reason, order, old.counts)


def fewer(name):
    return lambda reduction: [row[:-1] for row in getattr(reduction, name)]


def test_what_is_right_passes():
    assert changed(lambda reduction: reduction)(pictures([1, 5], 16)).kept == [4, 4]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda reduction: reduction.tokens, "must return a Reduction, got list: end it with"),
        (
            replaced(tokens=lambda r: r.tokens[:1], positions=lambda r: r.positions[:1]),
            "returned tokens of 1 pictures, 2 were given",
        ),
        (replaced(tokens=fewer("tokens")), r"sent \[3, 3\] tokens with \[4, 4\] positions"),
        (
            replaced(tokens=fewer("tokens"), positions=fewer("positions")),
            r"sent \[3, 3\] tokens, the budget is exact 4; register it with sends='at most'",
        ),
        (
            replaced(positions=lambda r: [row + 13 for row in r.positions]),
            "gave positions outside 0 to 15",
        ),
        (
            replaced(positions=lambda r: [row - 16 for row in r.positions]),
            "gave positions outside 0 to 15",
        ),
        (replaced(selection=twice), "kept a patch twice"),
    ],
)
def test_what_is_wrong_is_refused_by_name(change, message):
    with pytest.raises(ValueError, match=rf"method 'mine' {message}"):
        changed(change)(pictures([1, 5], 16))


def test_more_than_the_budget_is_refused_even_if_fewer_were_allowed():
    for sends in ("exact", "at most", "on average"):
        with pytest.raises(ValueError, match=rf"sent \[4, 4\] tokens, the budget is {sends} 3$"):
            changed(lambda reduction: reduction, budget=3, sends=sends)(pictures([1, 5], 16))


def test_fewer_may_be_allowed_and_budgets_may_not_matter():
    assert changed(lambda reduction: reduction, 5, "at most")(pictures([1, 5], 16)).kept == [4, 4]
    assert changed(lambda reduction: reduction, 2, "all")(pictures([1, 5], 16)).kept == [4, 4]


def test_without_a_budget_any_number_is_right():
    assert changed(lambda reduction: reduction, None)(pictures([1, 5], 16)).kept == [4, 4]


def test_overrides_keep_what_a_budget_means():
    assert resolve("ats", budget=7).sends == "at most"
    assert resolve("top_k", budget=7).sends == "exact"
