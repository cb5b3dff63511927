"""What other tools call the flags of this package, in one place; docs/flags.md shows it as a table.

The names are those of mlx-lm 0.32 (`lora`, `generate`, `convert`, `fuse`), mlx-vlm 0.7 (`train`, `generate`, `convert`),
transformers 5 (`TrainingArguments`), TRL (`ModelArgs`, `SFTConfig`), peft (`LoraConfig`) and 2U1/Phi3-Vision-Finetune.
An alias works as a flag, with - or _, and as a YAML key.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

TRAIN = ("train", "plan")
ANSWER = ("generate", "predict")


@dataclass(frozen=True)
class Alias:
    """`names` of other tools for `field`, in `commands`: all that have the field where there is none."""

    field: str
    names: tuple[str, ...]
    commands: tuple[str, ...] = ()


@dataclass(frozen=True)
class Refusal:
    """`names` of other tools without a counterpart here. `answer`, put after the flag's name, is the message."""

    names: tuple[str, ...]
    answer: str
    commands: tuple[str, ...] = ()


ALIASES = (
    Alias("model", ("model_path", "model_name_or_path", "model_id")),
    Alias("output", ("output_dir", "output_path")),
    Alias("output", ("adapter_path",), TRAIN),
    Alias("adapter", ("adapter_path",), ("generate", "predict", "fuse", "export")),
    Alias("dtype", ("torch_dtype",)),
    Alias("init_adapter", ("resume_adapter_file",), TRAIN),
    Alias("upload_repo", ("hub_model_id",), TRAIN),
    Alias("repo", ("upload_repo", "repo_id"), ("upload",)),
    Alias("to_hub", ("upload_repo", "push_to_hub"), ("export_data",)),
    Alias("max_steps", ("iters",), TRAIN),
    Alias("epochs", ("num_train_epochs",), TRAIN),
    Alias("batch_size", ("per_device_train_batch_size",), TRAIN),
    Alias("batch_size", ("per_device_eval_batch_size",), ("predict",)),
    Alias("grad_accumulation_steps", ("gradient_accumulation_steps",), TRAIN),
    Alias("lr_schedule", ("lr_scheduler_type",), TRAIN),
    Alias("adam_eps", ("adam_epsilon",), TRAIN),
    Alias("r", ("lora_rank", "lora_r"), TRAIN),  # torchrun takes --r for its own
    Alias("max_length", ("max_seq_length",), (*TRAIN, "describe")),
    Alias("grad_checkpoint", ("gradient_checkpointing", "activation_checkpointing"), TRAIN),
    Alias("compile", ("torch_compile",)),
    Alias("steps_per_report", ("logging_steps",), TRAIN),
    Alias("steps_per_eval", ("eval_steps",), TRAIN),
    Alias("save_every", ("save_steps", "steps_per_save"), TRAIN),
    Alias("project", ("project_name",), TRAIN),
    Alias("max_new_tokens", ("max_tokens",), ANSWER),
    Alias("max_new_tokens", ("m",), ("generate",)),
    Alias("temperature", ("temp",), ANSWER),
    Alias("prompt", ("p",), ("generate",)),
    Alias("hf_path", ("model", "model_path", "model_name_or_path", "model_id"), ("convert",)),
    Alias("mlx_path", ("output", "output_dir"), ("convert",)),
    Alias("model", ("hf_path",), ("fuse",)),
    Alias("save_path", ("mlx_path", "output", "output_dir"), ("fuse",)),
    Alias("dequantize", ("d", "de_quantize"), ("convert", "fuse")),
    Alias("catalogue", ("data",), ("convert", "fuse")),
    Alias("data", ("catalogue",), ("receipt",)),
    Alias("adapter", ("adapter_path",), ("receipt",)),
    Alias("hf", ("to_hf",), ("fuse",)),
    Alias("to_hf", ("hf",), ("convert",)),
)

_MODULES = "--language, --vision, --projector, --separators and --lm-head choose the modules that are trained"
_CATALOGUE = "has no counterpart: --data takes a catalogue folder, which mlx_phi3v.ingest makes of files or a hub dataset"
_WEIGHTS = ("train", "plan", "generate", "predict", "convert", "fuse", "export")

REFUSALS = (
    Refusal(("trust_remote_code",), "is not needed: no code from a checkpoint is ever run", _WEIGHTS),
    Refusal(("revision",), "is not built in: give the folder that `hf download REPO --revision REVISION` prints", _WEIGHTS),
    Refusal(("train", "do_train"), "is not needed: this command always trains", TRAIN),
    Refusal(
        ("test", "test_batches", "do_eval", "do_predict"),
        "is not part of training: mlx_phi3v.predict answers for the test split, mlx_phi3v.score measures the answers",
        TRAIN,
    ),
    Refusal(
        ("mask_prompt", "train_on_completions", "completion_only_loss", "assistant_only_loss"),
        "is always on: the loss is taken over the answer only",
        TRAIN,
    ),
    Refusal(("num_layers", "lora_layers"), f"has no counterpart: LoRA goes into every layer, and {_MODULES}", TRAIN),
    Refusal(
        ("fine_tune_type", "train_type", "train_mode", "algorithm", "use_dora", "full_finetune", "use_peft", "lora_enable"),
        "has no counterpart: training is LoRA on the answers; --projector full and --separators full train those in full",
        TRAIN,
    ),
    Refusal(
        ("train_vision", "freeze_vision_tower", "freeze_llm", "tune_img_projector", "vision_lora"),
        "has no counterpart: --vision, --language and --projector take lora (the default) or off, --projector also full",
        TRAIN,
    ),
    Refusal(
        ("target_modules", "lora_target_modules", "modules_to_save", "lora_namespan_exclude"),
        f"has no counterpart: {_MODULES}",
        TRAIN,
    ),
    Refusal(
        ("lora_parameters",),
        "has no counterpart: give r, lora_alpha and lora_dropout, where lora_alpha is mlx-lm's scale times its rank",
        TRAIN,
    ),
    Refusal(
        ("optimizer", "optimizer_config", "optim", "optim_args"),
        "has no counterpart: the optimiser is AdamW, set by --weight-decay, --adam-betas and --adam-eps",
        TRAIN,
    ),
    Refusal(("adam_beta1", "adam_beta2"), "has no counterpart: --adam-betas takes both, such as 0.9 0.95", TRAIN),
    Refusal(("warmup_ratio",), "has no counterpart: --warmup-steps takes a number of optimiser steps", TRAIN),
    Refusal(("grad_clip",), "has no counterpart: --max-grad-norm clips the norm of all gradients together", TRAIN),
    Refusal(("projector_lr", "vision_lr"), "has no counterpart: --learning-rate is that of all trained modules", TRAIN),
    Refusal(
        ("val_batches", "per_device_eval_batch_size"),
        "has no counterpart: --val-rows counts the validation rows, and --batch-size is used for them too",
        TRAIN,
    ),
    Refusal(
        ("eval_strategy", "evaluation_strategy", "save_strategy", "logging_strategy"),
        "has no counterpart: --steps-per-eval, --save-every and --steps-per-report count optimiser steps; "
        "--val-rows 0 turns validation off",
        TRAIN,
    ),
    Refusal(("resume_from_checkpoint",), "has no counterpart: --resume continues from OUTPUT/last", TRAIN),
    Refusal(("bf16", "fp16"), "has no counterpart: give --dtype bfloat16 or --dtype float16", (*TRAIN, *ANSWER)),
    Refusal(
        ("load_in_4bit", "load_in_8bit", "quantization_bits", "quantization_group_size"),
        "has no counterpart: mlx_phi3v.convert -q --q-bits 4 packs a model once, and --model takes its folder",
        (*TRAIN, *ANSWER),
    ),
    Refusal(
        ("image_resize_shape", "resize_shape"),
        "has no counterpart: photos are cropped as by the published model; --num-crops sets the most crops",
        (*TRAIN, *ANSWER),
    ),
    Refusal(
        (
            "dataset",
            "dataset_name",
            "dataset_config",
            "data_path",
            "image_folder",
            "hf_dataset",
            "train_split",
            "validation_split",
        ),
        _CATALOGUE,
        TRAIN,
    ),
    Refusal(("dataset", "dataset_name"), _CATALOGUE, ("predict",)),
    Refusal(("wandb",), "is two flags here: --report-to wandb --project PROJECT", TRAIN),
    Refusal(("push_to_hub",), "is --upload-repo OWNER/NAME here, which uploads the best adapter with a card", TRAIN),
    Refusal(
        ("hub_private_repo", "private"),
        "is not needed: a repository that is made is private without --public",
        (*TRAIN, "convert", "fuse", "export", "upload", "export_data"),
    ),
    Refusal(
        ("top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty", "xtc_probability"),
        "is not built in: --temperature, --top-p and --seed set the sampling",
        ANSWER,
    ),
    Refusal(
        (
            "max_kv_size",
            "draft_model",
            "num_draft_tokens",
            "prompt_cache_file",
        ),
        "is not built in: every step reads the whole cache",
        ANSWER,
    ),
    Refusal(
        ("kv_group_size", "quantized_kv_start"),
        "is not built in: --kv-bits packs all keys and values, 32 numbers together",
        ANSWER,
    ),
    Refusal(
        ("system", "system_prompt", "ignore_chat_template", "use_default_chat_template", "chat_template_config"),
        "has no counterpart: --question is put into the chat template, --prompt is the whole prompt as the model reads it",
        ("generate",),
    ),
    Refusal(("eos_tokens", "extra_eos_token"), "has no counterpart: an answer ends at the model's end tokens", ANSWER),
    Refusal(("verbose",), "is not needed: the answer is streamed, --json prints ids and log-probabilities", ("generate",)),
    Refusal(
        ("prompt", "question", "system_prompt"),
        "has no counterpart: the question is the catalogue's, set by mlx_phi3v.ingest --prompt",
        ("predict",),
    ),
    Refusal(
        ("q_mode", "quant_predicate", "quant_method"),
        "has no counterpart: the projections of the language layers are packed, by MLX's affine scheme",
        ("convert",),
    ),
    Refusal(("export_gguf", "gguf_path"), "is not built in: the fused folder holds safetensors", ("fuse",)),
)


def aliases(command: str, fields: Collection[str]) -> dict[str, str]:
    """Alias -> field, of the command with these fields; names with _."""
    found: dict[str, str] = {}
    for alias in ALIASES:
        if alias.field in fields and (command in alias.commands or not alias.commands):
            found |= {name: alias.field for name in alias.names if name not in fields}
    return found


def refusals(command: str, fields: Collection[str]) -> dict[str, str]:
    """Name -> the sentence that answers it, of the command with these fields; names with _."""
    found: dict[str, str] = {}
    for refusal in REFUSALS:
        if command in refusal.commands:
            found |= {name: f"{flag(name)} {refusal.answer}" for name in refusal.names if name not in fields}
    return found


def flag(name: str) -> str:
    """max_steps -> --max-steps, d -> -d."""
    return "-" + name if len(name) == 1 else "--" + name.replace("_", "-")
