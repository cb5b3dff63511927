"""mlx-vlm answers a converted folder token for token as this project does: through the `model_file`, and not without it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mlx_phi3v.adapters import LANGUAGE, AdapterArgs, save_adapter
from mlx_phi3v.backend import Backend, load_backend
from mlx_phi3v.batches import Example, ExampleMaker, collate
from mlx_phi3v.checkpoint.fingerprint import base_fingerprint
from mlx_phi3v.convert import ConvertConfig, convert
from mlx_phi3v.crops import image_token_count, process_image
from mlx_phi3v.decoding import generate, load_model
from mlx_phi3v.fuse import FuseConfig, fuse
from mlx_phi3v.prompts import PromptProcessor
from mlx_phi3v.task import PROMPT, Task, chat_prompt
from mlx_phi3v.trained_task import TrainedTask
from tests.helpers.catalogue import random_picture
from tests.helpers.paths import ROOT
from tests.mlx_phi3v.test_adapters import filled
from tests.mlx_phi3v.test_generate import greedy, questions

mlx_vlm = pytest.importorskip("mlx_vlm")
served = pytest.importorskip("tests.helpers.served")
apply_chat_template = pytest.importorskip("mlx_vlm.prompt_utils").apply_chat_template
pytestmark = pytest.mark.numeric
GOLDEN = ROOT / "tests" / "golden"


def converted(source: Path | str, folder: Path, **options: Any) -> Path:
    convert(ConvertConfig(str(source), folder, dtype="float32", **options))
    return folder


def ours(folder: Path) -> Backend:
    return load_backend("mlx", folder, dtype="float32")


def ids_of(backend: Backend, examples: Sequence[Example], tokens: int) -> list[list[int]]:
    return [answer.token_ids for answer in greedy(backend, list(examples), tokens)]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return converted("tiny", tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="module")
def loaded(tiny: Path) -> Iterator[tuple[Any, Any]]:
    yield served.load(tiny)


@pytest.mark.parametrize("case", json.loads((GOLDEN / "cases.json").read_text()), ids=lambda case: case["name"])
def test_the_recorded_continuations(case: dict[str, Any], golden_model: Any) -> None:
    ids = np.load(GOLDEN / "cases.npz")[f"{case['name']}.input_ids"].reshape(-1)[: case["prompt_tokens"]]
    images = tuple(process_image(Image.open(GOLDEN / name).convert("RGB"), case["num_crops"]) for name in case["images"])
    prompt = Example(case["name"], ids, np.full(len(ids), -100), images)
    assert served.answer(golden_model, prompt, len(case["greedy"])) == case["greedy"]


@pytest.fixture(scope="module")
def golden_model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from mlx_vlm.utils import load_model

    return load_model(converted(GOLDEN / "checkpoint", tmp_path_factory.mktemp("golden") / "model"))


# Rows of different lengths, of which some begin past the original context and some grow past it.
@pytest.fixture(scope="module")
def crossing(make_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    lengths = sorted(len(q.input_ids) for q in questions(make_checkpoint()))
    return converted(make_checkpoint(original_max=lengths[2] + 4), tmp_path_factory.mktemp("crossing") / "model")


@pytest.mark.parametrize("chunk", [2048, 37])
def test_a_text_that_grows_past_the_original_context_gets_the_long_factors(crossing: Path, chunk: int) -> None:
    backend, (model, _) = ours(crossing), served.load(crossing)
    examples = questions(crossing)
    limit = backend.config.original_max_position_embeddings
    lengths = [len(example.input_ids) for example in examples]
    assert max(lengths) > limit and any(n <= limit < n + 14 for n in lengths) and min(lengths) + 14 <= limit
    for example, expected in zip(examples, ids_of(backend, examples, 14), strict=True):
        assert served.answer(model, example, 14, prefill_step_size=chunk) == expected


def test_continuous_batching_answers_each_row_as_alone(crossing: Path) -> None:
    backend, (model, processor) = ours(crossing), served.load(crossing)
    examples = questions(crossing)
    assert served.batch_answers(model, processor, examples, 14) == ids_of(backend, examples, 14)


def test_a_cache_that_is_cut_back_below_the_original_context_gets_the_short_factors(crossing: Path) -> None:
    from mlx_vlm.models.cache import make_prompt_cache

    model, _ = served.load(crossing)
    example = max(questions(crossing), key=lambda example: len(example.input_ids))
    limit = model.config.args.original_max_position_embeddings
    inputs = served.model_inputs([example])
    embeddings = model.get_input_embeddings(**inputs).inputs_embeds
    cache, fresh = make_prompt_cache(model), make_prompt_cache(model)
    model(None, inputs_embeds=embeddings, cache=cache)
    for entry in cache:
        entry.trim(len(example.input_ids) - limit + 3)
    cut = model(None, inputs_embeds=embeddings[:, limit - 3 : limit], cache=cache).logits
    whole = model(None, inputs_embeds=embeddings[:, :limit], cache=fresh).logits[:, -3:]
    np.testing.assert_allclose(np.array(cut), np.array(whole), atol=1e-4)


def pictures(folder: Path) -> list[Path]:
    files = [folder / f"{i}.png" for i in range(4)]
    for i, file in enumerate(files):
        random_picture(*((300, 200), (120, 500), (90, 90), (700, 310))[i], seed=i).save(file)
    return files


def our_ids(folder: Path, asked: Sequence[tuple[str, list[Path]]], tokens: int) -> list[list[int]]:
    """What mlx_phi3v.generate --question answers."""
    backend, prompts = ours(folder), PromptProcessor(folder)
    examples = []
    for question, photos in asked:
        images = tuple(process_image(Image.open(photo).convert("RGB"), backend.config.num_crops) for photo in photos)
        counts = [image_token_count(image.grid, backend.config.vision) for image in images]
        ids = np.array(prompts.tokenize(chat_prompt(question, len(images)), counts))
        examples.append(Example("", ids, np.full(len(ids), -100), images))
    return [answer.token_ids for answer in generate(backend, examples, max_new_tokens=tokens, stop_ids=prompts.stop_ids)]


def their_ids(folder: Path, asked: Sequence[tuple[str, list[Path]]], tokens: int) -> list[list[int]]:
    """What mlx_vlm.generate answers, from photo files and the chat template on."""
    model, processor = served.load(folder)
    found = []
    for question, photos in asked:
        text = apply_chat_template(processor, model.config, question, num_images=len(photos))
        files = [str(photo) for photo in photos] or None
        *_, last = mlx_vlm.stream_generate(model, processor, text, image=files, max_tokens=tokens, temperature=0.0)
        found.append([int(token) for token in last.token_ids])
    return found


@pytest.mark.parametrize("options", [{}, {"quantize": True, "q_bits": 4, "q_group_size": 32}], ids=["fp32", "4 bit"])
@pytest.mark.parametrize("num_crops", [1, 4])
def test_photos_are_answered_alike(tmp_path: Path, options: dict[str, Any], num_crops: int) -> None:
    folder, photos = converted("tiny", tmp_path / "model", **options), pictures(tmp_path)
    (folder / "preprocessor_config.json").write_text(json.dumps({"num_crops": num_crops}))
    asked = [("What is shown in this image?", [photo]) for photo in photos] + [("Which is dearer?", photos[1:3]), ("Hm?", [])]
    answers = our_ids(folder, asked, 24)
    assert their_ids(folder, asked, 24) == answers
    assert len(set(map(tuple, answers))) > 3 and any(answer[-1] == 1107 for answer in answers)  # they differ, and end


@pytest.mark.parametrize(
    "options", [{"dtype": "bfloat16"}, {"quantize": True, "q_bits": 8, "q_group_size": 32}], ids=["bf16", "8 bit"]
)
def test_other_precisions_give_our_logits(checkpoint: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    """Not to the bit in bf16: on a CPU softmax is rounded elsewhere here."""
    convert(ConvertConfig(str(checkpoint), tmp_path / "model", **options))
    dtype = options.get("dtype", "float32")
    backend, (model, _) = load_backend("mlx", tmp_path / "model", dtype=dtype), served.load(tmp_path / "model")
    assert str(model.lm_head.weight.dtype) == f"mlx.core.{dtype}"
    for example in questions(checkpoint):
        expected = backend.forward(collate([example], backend.config)).logits[0, -1]
        inputs = served.model_inputs([example])
        ids = inputs.pop("input_ids")
        embeddings = model.get_input_embeddings(ids, **inputs).inputs_embeds
        logits = np.array(model(ids, inputs_embeds=embeddings).logits[0, -1].astype(served.mx.float32))
        # bf16 has 8 bits, and a few dozen roundings lie one behind the other in two layers.
        assert np.abs(logits - expected).max() < (0.1 if dtype == "bfloat16" else 1e-4) * np.abs(expected).max()


def test_a_fused_folder_answers_as_base_and_adapter(checkpoint: Path, tmp_path: Path) -> None:
    adapter = AdapterArgs(r=4, lora_alpha=16, target_modules=LANGUAGE)
    save_adapter(tmp_path / "adapter", adapter, filled(checkpoint, adapter), base_fingerprint(checkpoint))
    TrainedTask(Task(), 1, "float32").save(tmp_path / "adapter")
    fuse(FuseConfig(str(tmp_path / "adapter"), str(checkpoint), tmp_path / "fused"))
    model = load_model(str(checkpoint), "mlx", tmp_path / "adapter", "float32")
    picture = random_picture(300, 200, seed=0)
    maker = ExampleMaker(model.prompts, model.backend.config, model.task, model.num_crops(None))
    example = maker.from_images("", (process_image(picture, 1),), None)
    theirs, processor = served.load(tmp_path / "fused")
    assert processor(text=PROMPT, images=[picture])["input_ids"].tolist() == [example.input_ids.tolist()]  # of one crop
    assert [served.answer(theirs, example, 12)] == ids_of(model.backend, [example], 12)
    assert [served.answer(theirs, example, 12)] != ids_of(ours(checkpoint), [example], 12)


def test_the_built_in_model_answers_something_else(
    make_checkpoint: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that the tests above can fail. Its tower is fixed to CLIP-L: here to CLIP-L's width, with fewer layers."""
    from mlx_vlm.models.phi3_v.vision import VisionModel

    source = make_checkpoint(vision_hidden=1024, vision_layers=2, vision_heads=16, patch=14, num_crops=2)
    tower = vars(VisionModel.CLIP_VIT_LARGE_PATCH14_336_CONFIG) | {"num_hidden_layers": 2, "intermediate_size": 2048}
    monkeypatch.setattr(VisionModel, "CLIP_VIT_LARGE_PATCH14_336_CONFIG", SimpleNamespace(**tower))
    asked = [("What is shown in this image?", pictures(tmp_path)[3:])]
    expected = our_ids(source, asked, 8)
    assert their_ids(converted(source, tmp_path / "with"), asked, 8) == expected
    built_in = their_ids(converted(source, tmp_path / "without", model_file=False), asked, 8)
    assert built_in != expected
