"""LoRA on the torch model: peft's own, fed with the shared format."""

from __future__ import annotations

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from torch import nn

from ..adapters import AdapterArgs, adapter_shapes
from ..config import ModelArgs


def add_lora(
    model: nn.Module, config: ModelArgs, adapter: AdapterArgs, tensors: dict[str, np.ndarray], trainable: bool
) -> PeftModel:
    """Wrap the adapter's target layers and give them `tensors` (PEFT keys, fp32); all else is frozen."""
    shapes = adapter_shapes(config, adapter)
    # Whole names: of an ending such as "embed_tokens" peft would also take `vision_embed_tokens`.
    saved = sorted({name.rpartition(".")[0] for name in shapes.saved})
    lora = LoraConfig(
        r=adapter.r,
        lora_alpha=adapter.lora_alpha,  # type: ignore[arg-type]  # peft takes any number, PEFT files hold floats
        lora_dropout=adapter.lora_dropout,
        target_modules=list(shapes.lora),
        modules_to_save=saved or None,
        use_rslora=adapter.use_rslora,
        inference_mode=not trainable,
    )
    wrapped = get_peft_model(model, lora)
    for name in saved:
        compute_in_fp32(wrapped.get_submodule(f"base_model.model.{name}.modules_to_save.default"))
    # peft wants every tensor; those trained in full start from the checkpoint where they are not given.
    set_adapter_tensors(wrapped, adapter_tensors(wrapped) | tensors)
    return wrapped


def compute_in_fp32(module: nn.Module) -> None:
    """Hold a module's parameters in fp32, as they train; its results come in the dtype that they had before."""
    parameters = list(module.parameters())
    before = parameters[0].dtype
    for parameter in parameters:
        parameter.data = parameter.data.float()
    if before == torch.float32 or not isinstance(module, (nn.Linear, nn.Embedding)):
        return  # a separator casts by itself
    if isinstance(module, nn.Linear):
        module.register_forward_pre_hook(lambda _, inputs: (inputs[0].float(),))
    module.register_forward_hook(lambda _, inputs, output: output.to(before))


def set_adapter_tensors(model: PeftModel, tensors: dict[str, np.ndarray]) -> None:
    """Load PEFT tensors into the wrapped model."""
    set_peft_model_state_dict(model, {key: torch.from_numpy(value) for key, value in tensors.items()})


def adapter_tensors(model: PeftModel) -> dict[str, np.ndarray]:
    """The adapter as PEFT tensors."""
    state = get_peft_model_state_dict(model, save_embedding_layers=False)
    return {key: value.detach().float().cpu().numpy().copy() for key, value in state.items()}


def parameters_by_key(model: PeftModel) -> dict[str, nn.Parameter]:
    """PEFT key -> trainable parameter, in sorted order: peft's live names carry the adapter's name too."""
    named = {
        name.replace(".modules_to_save.default.", ".").replace(".default.weight", ".weight"): parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
    return dict(sorted(named.items()))
