"""Qwen3-VL's pictures in JAX, against transformers' causal LM with its vision tower."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText
from transformers.vision_utils import get_vision_interpolation_indices_and_weights, get_vision_position_ids

import jaxconv
from jaxconv.errors import SourceError, UsageError
from jaxconv.models.picture_tokens import PictureTokens
from jaxconv.models.vision import grid, prompts, tower
from jaxconv.models.vision.config import DEFAULTS, vision_config, vision_unsupported
from jaxconv.readers import open_checkpoint
from tests.pictures.test_scores import IDS, PAIRS, QWEN_MARK, SIZES, TEMPLATE, causal, side
from tests.support.multimodal import composite_checkpoint, picture

CONFIG = {"model_type": "qwen3_vl", "text_config": {"model_type": "qwen3_vl_text"}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with pictures and a template."""
    path = tmp_path_factory.mktemp("vision")
    for seed, (name, (width, height)) in enumerate(SIZES.items()):
        (path / name).write_bytes(picture(width, height, seed))
    (path / "prompt.jinja").write_text(TEMPLATE)
    return path


def converted(folder: Path, *, tie: bool) -> tuple[Path, Path]:
    """A Qwen3-VL and its classifier."""
    source, output = folder / f"source-{tie}", folder / f"output-{tie}"
    composite_checkpoint(source, "qwen3_vl", tie=tie)
    jaxconv.convert(source, output, token_ids=IDS, template=folder / "prompt.jinja", backend="numpy")
    return source, output


@pytest.fixture(scope="module")
def tied(folder: Path) -> tuple[Path, Path, list[float]]:
    """A tied one, its classifier, and the causal LM's scores of the pairs."""
    source, output = converted(folder, tie=True)
    return source, output, causal(source, output, QWEN_MARK, folder)


def pairs_of(folder: Path) -> list[tuple[Any, Any]]:
    """The pairs as the API takes them."""
    return [(side(*query, folder), side(*document, folder)) for query, document in PAIRS]


def test_scores_are_the_causal_lms(tied: tuple[Path, Path, list[float]], folder: Path) -> None:
    """No picture, one and several, of three sizes, in query and document; one by one and together."""
    _, output, truth = tied
    scorer = jaxconv.load(output, backend="jax")
    together = scorer.score_pairs(pairs_of(folder), raw=True)
    assert together == pytest.approx(truth, abs=1e-4)
    assert max(truth) - min(truth) > 0.01
    assert [scorer.score_pairs([pair], raw=True)[0] for pair in pairs_of(folder)] == pytest.approx(truth, abs=1e-4)


@pytest.mark.slow
def test_an_untied_one_with_older_keys(folder: Path) -> None:
    """transformers 4.57's spelling of the rotations; bfloat16 comes near."""
    source, output = converted(folder, tie=False)
    truth = causal(source, output, QWEN_MARK, folder)
    config = json.loads((output / "config.json").read_text())
    rope = config["text_config"].pop("rope_parameters")
    config["text_config"]["rope_theta"] = rope.pop("rope_theta")
    config["text_config"]["rope_scaling"] = rope
    (output / "config.json").write_text(json.dumps(config))
    scores = jaxconv.load(output, backend="jax").score_pairs(pairs_of(folder), raw=True)
    assert scores == pytest.approx(truth, abs=1e-4)
    rounded = jaxconv.load(output, backend="jax", dtype="bfloat16").score_pairs(pairs_of(folder), raw=True)
    assert rounded == pytest.approx(truth, abs=0.1) and rounded != scores


@pytest.mark.slow
@pytest.mark.parametrize(
    ("vision", "merge"),
    [({"deepstack_visual_indexes": []}, 2), ({"deepstack_visual_indexes": [3, 1]}, 2), ({"spatial_merge_size": 1}, 1)],
)
def test_other_towers(folder: Path, tmp_path: Path, vision: dict[str, Any], merge: int) -> None:
    """No deepstack, layers in another order, tokens of one patch; a table of another size and few heads."""
    source = composite_checkpoint(tmp_path / "source", "qwen3_vl")
    config = AutoConfig.from_pretrained(source)
    for key, value in {**vision, "num_position_embeddings": 100, "num_heads": 1}.items():
        setattr(config.vision_config, key, value)
    torch.manual_seed(1)
    model = AutoModelForImageTextToText.from_config(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    (source / "model.safetensors").unlink()
    model.save_pretrained(source)
    for path in source.glob("*preprocessor_config.json"):
        path.write_text(json.dumps({**json.loads(path.read_text()), "merge_size": merge}))
    jaxconv.convert(source, tmp_path / "output", token_ids=IDS, template=folder / "prompt.jinja", backend="numpy")
    truth = causal(source, tmp_path / "output", QWEN_MARK, folder)
    scores = jaxconv.load(tmp_path / "output", backend="jax").score_pairs(pairs_of(folder), raw=True)
    assert scores == pytest.approx(truth, abs=1e-4 * max(1, *map(abs, truth)))


def without_deepstack(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = PictureTokens.layer
    monkeypatch.setattr(PictureTokens, "layer", lambda self, number, dtype: layer(self, number, dtype) * (number == 0))


def without_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompts, "stream_of_frequency", lambda config, count: np.zeros(count, int))


def without_interpolation(monkeypatch: pytest.MonkeyPatch) -> None:
    taps = grid._taps
    monkeypatch.setattr(grid, "_taps", lambda *args: (taps(*args)[0], np.round(taps(*args)[1])))


def without_rotations(monkeypatch: pytest.MonkeyPatch) -> None:
    def still(config: Any, positions: jax.Array) -> tuple[jax.Array, jax.Array]:
        shape = (1, len(positions), config.hidden_size // config.num_heads // 2)
        return jnp.ones(shape), jnp.zeros(shape)

    monkeypatch.setattr(tower, "_rotations", still)


@pytest.mark.slow
@pytest.mark.parametrize("sabotage", [without_deepstack, without_streams, without_interpolation, without_rotations])
def test_every_part_of_the_tower_counts(
    tied: tuple[Path, Path, list[float]], folder: Path, monkeypatch: pytest.MonkeyPatch, sabotage: Any
) -> None:
    """Without one of them the scores of pictures differ, and those of text do not."""
    _, output, truth = tied
    sabotage(monkeypatch)
    jax.clear_caches()
    scores = jaxconv.load(output, backend="jax").score_pairs(pairs_of(folder), raw=True)
    monkeypatch.undo()
    jax.clear_caches()
    assert scores[0] == pytest.approx(truth[0], abs=1e-4)
    assert max(abs(np.subtract(scores, truth))) > 1e-3


@pytest.mark.slow
def test_verify_runs_pictures_in_jax(tied: tuple[Path, Path, list[float]]) -> None:
    """On both sides where JAX is named."""
    source, output, _ = tied
    report = jaxconv.verify(source, output, backend="jax")
    assert report.passed and report.scores is not None and report.scores.max_abs_error <= 1e-4, report.findings


@pytest.mark.parametrize("size", [(2, 2), (4, 16), (14, 30), (96, 74)])
def test_patches_lie_where_transformers_puts_them(size: tuple[int, int]) -> None:
    """Rows and columns, and the four places of the position table with their weights."""
    config, thw = vision_config(CONFIG), torch.tensor([[1, *size]])
    patches = grid.patch_grid(size, config)
    assert np.array_equal(patches.positions, get_vision_position_ids(thw, config.merge).numpy())
    taps, weights = get_vision_interpolation_indices_and_weights(
        thw, config.side, align_corners=True, spatial_merge_size=config.merge
    )
    table = np.random.default_rng(0).normal(size=config.side**2)
    ours, theirs = (table[patches.taps] * patches.weights).sum(1), (table[taps.numpy()] * weights.numpy()).sum(1)
    assert ours == pytest.approx(theirs, abs=1e-5)


@pytest.mark.parametrize(
    ("indexes", "merge"), [([2, 0], 2), ([0, 9], 2), ([1, 1], 2), ([], 2), ([0, 1, 2], 1), ([1], 3), ([0, 2], 4)]
)
def test_a_tower_of_other_numbers(tmp_path: Path, indexes: list[int], merge: int) -> None:
    """Layers in any order, twice, missing or none, and other blocks: the features are transformers'."""
    sizes = {"depth": 3, "hidden_size": 16, "intermediate_size": 24, "num_heads": 2, "patch_size": 4, "out_hidden_size": 8}
    settings = {**sizes, "num_position_embeddings": 64, "deepstack_visual_indexes": indexes, "spatial_merge_size": merge}
    torch.manual_seed(0)
    theirs = AutoModel.from_config(AutoConfig.for_model("qwen3_vl", vision_config=settings).vision_config).eval()
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    tensors = {f"{tower.PREFIX}{name}": tensor for name, tensor in theirs.state_dict().items()}
    save_file(tensors, tmp_path / "model.safetensors")
    ours = tower.VisionTower(
        open_checkpoint(tmp_path), vision_config(CONFIG | {"vision_config": settings}), "float32", jnp.asarray
    )
    size = (2 * merge, 3 * merge)
    pixels = torch.randn(size[0] * size[1], 3 * 2 * 4 * 4)
    with torch.no_grad():
        output = theirs(pixels, grid_thw=torch.tensor([[1, *size]]))
    expected = [output.pooler_output, *output.deepstack_features]
    features = ours.features(pixels.numpy(), size)
    assert len(features) == len(expected)
    assert features == pytest.approx(torch.stack(expected).numpy(), abs=1e-4)


def test_defaults_are_transformers() -> None:
    """What an absent key of vision_config means."""
    theirs = AutoConfig.for_model("qwen3_vl").vision_config
    assert {key: getattr(theirs, key) for key in DEFAULTS if key != "deepstack_visual_indexes"} == {
        key: value for key, value in DEFAULTS.items() if key != "deepstack_visual_indexes"
    }
    assert list(theirs.deepstack_visual_indexes) == DEFAULTS["deepstack_visual_indexes"]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "qwen2_vl"}, r"JAX scores the pictures of qwen3_vl and only pairs of text of qwen2_vl"),
        (CONFIG | {"vision_config": {"hidden_act": "relu"}}, r"'relu' as vision_config\.hidden_act"),
        (CONFIG | {"vision_config": {"depth": "4"}}, r"'4' as vision_config\.depth"),
        (CONFIG | {"vision_config": {"depth": 0}}, r"0 as vision_config\.depth"),
        (CONFIG | {"text_config": {"rope_scaling": {"mrope_section": [24, -1, 20]}}}, r"\[24, -1, 20\] as mrope_section"),
        (CONFIG | {"text_config": {"rope_scaling": {"mrope_interleaved": False}}}, "mrope_interleaved false"),
    ],
)
def test_what_jax_does_not_run_is_said(config: dict[str, Any], message: str) -> None:
    """With a next step."""
    with pytest.raises(UsageError, match=rf"{message}.*--backend torch"):
        vision_config(config)
    assert vision_unsupported(CONFIG) is None


@pytest.mark.parametrize(
    ("vision", "text", "message"),
    [
        ({"num_heads": 7}, {}, r"7 as vision_config\.num_heads; expected hidden_size 1152 in heads"),
        ({"hidden_size": 12, "num_heads": 2}, {}, r"2 as vision_config\.num_heads"),
        ({"head_dim": 64}, {}, r"64 as vision_config\.head_dim; expected 72"),
        (
            {"rope_parameters": {"rope_type": "linear", "factor": 2.0}},
            {},
            r"as vision_config\.rope_parameters; expected rope_type .axial",
        ),
        ({"rope_parameters": {"rope_theta": None}}, {}, r"as vision_config\.rope_parameters; .* above zero"),
        ({"rope_parameters": [1]}, {}, r"\[1\] as vision_config\.rope_parameters"),
        ({}, {"mrope_section": None}, "None as mrope_section; expected three whole numbers"),
        ({}, {"mrope_section": [24, 20]}, r"\[24, 20\] as mrope_section"),
    ],
)
def test_what_no_class_runs_is_said(vision: dict[str, Any], text: dict[str, Any], message: str) -> None:
    """With what was expected, and without sending anyone to a backend that fails too."""
    config = CONFIG | {"vision_config": vision, "text_config": {"model_type": "qwen3_vl_text", "rope_parameters": text}}
    with pytest.raises(UsageError, match=rf"{message}.* get the model's own config\.json") as error:
        vision_config(config)
    assert "--backend" not in str(error.value)


@pytest.mark.parametrize(
    "vision",
    [
        {"head_dim": 72},
        {"head_dim": None},
        {"rope_parameters": {"rope_type": "axial"}},
        {"rope_parameters": {"rope_type": "default"}},
    ],
)
def test_keys_that_say_what_absent_ones_mean_are_run(vision: dict[str, Any]) -> None:
    """A width of heads that follows from the others, and the rotations that transformers writes."""
    assert vision_config(CONFIG | {"vision_config": vision}) == vision_config(CONFIG)


def test_image_tokens_that_are_no_pictures_are_an_error() -> None:
    """A text that holds the token, and a picture without its tokens."""
    config = vision_config(CONFIG)
    token = config.image_token
    assert grid.token_positions([1, token, token, token, token, 2], [(4, 4)], config).tolist() == [
        [0, 1, 1, 1, 1, 3], [0, 1, 1, 2, 2, 3], [0, 1, 2, 1, 2, 3],
    ]  # fmt: skip
    for token_ids, grids in (([1, token, 2], []), ([1, 2], [(4, 4)]), ([token] * 3, [(4, 4)])):
        with pytest.raises(UsageError, match=r"a run of \d image tokens where its picture gives"):
            grid.token_positions(token_ids, grids, config)


def test_a_tower_without_a_tensor_is_named(tied: tuple[Path, Path, list[float]], folder: Path, tmp_path: Path) -> None:
    """Text is scored without it."""
    _, output, truth = tied
    broken = tmp_path / "broken"
    broken.mkdir()
    for path in output.iterdir():
        if path.is_file() and path.suffix != ".safetensors":
            (broken / path.name).hardlink_to(path)
    tensors = load_file(output / "model.safetensors")
    del tensors["model.visual.blocks.1.attn.proj.bias"]
    save_file(tensors, broken / "model.safetensors", {"format": "pt"})
    scorer = jaxconv.load(broken, backend="jax")
    assert scorer.score_pairs(pairs_of(folder)[:1], raw=True) == pytest.approx(truth[:1], abs=1e-4)
    with pytest.raises(SourceError, match=r"no tensor model\.visual\.blocks\.1\.attn\.proj\.bias"):
        scorer.score_pairs(pairs_of(folder)[1:2], raw=True)
