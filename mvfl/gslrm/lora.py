"""Low-rank adapters in GS-LRM's transformer (LoRA, Hu et al. 2021), by the package peft: far fewer trained numbers."""

from __future__ import annotations

import importlib.util

import torch

from mvfl.config.gslrm import Lora
from mvfl.gslrm.model import Gslrm
from mvfl.runtime.files import InputError
from mvfl.runtime.weights import load_strictly

LAYERS = r"transformer_layers\.({})\.(attn\.(to_qkv|fc)|mlp\.mlp\.(0|2))"


def add_adapters(model: Gslrm, lora: Lora, seed: int) -> float:
    """Give every linear layer of the transformer that is not frozen an adapter, at zero, and freeze its own weights.

    What lies outside of the transformer stays as it is.

    Args:
        model: changed in place; step 0 equals the model before.
        lora: rank and scale.
        seed: of the adapters' first halves; the second ones are zero.

    Returns:
        Share of the parameters that is trained.

    Raises:
        InputError: peft is not installed, or all layers are frozen.
    """
    if importlib.util.find_spec("peft") is None:
        raise InputError('gslrm.lora needs the package peft: pip install "mvfl[lora]".')
    from peft import LoraConfig, inject_adapter_in_model

    outside = {name for name, p in model.named_parameters() if p.requires_grad and not name.startswith("transformer_layers.")}
    free = [i for i, layer in enumerate(model.transformer_layers) if any(p.requires_grad for p in layer.parameters())]
    if not free:
        raise InputError("gslrm.freeze.transformer_until freezes all layers: no adapter could be trained; lower it.")
    places = LAYERS.format("|".join(map(str, free)))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        inject_adapter_in_model(LoraConfig(r=lora.rank, lora_alpha=lora.scale * lora.rank, target_modules=places), model)
    for name, parameter in model.named_parameters():
        if name in outside:  # peft freezes all but its adapters
            parameter.requires_grad_(True)
    parameters = list(model.parameters())
    return sum(p.numel() for p in parameters if p.requires_grad) / sum(p.numel() for p in parameters)


@torch.no_grad()
def merged(model: Gslrm) -> Gslrm:
    """A model with the adapters added to the weights, under the published names; one without adapters is returned as it is.

    Args:
        model: left as it is.
    """
    adapted = {name: module for name, module in model.named_modules() if hasattr(module, "get_delta_weight")}
    if not adapted:
        return model
    state = {name.replace(".base_layer.", "."): value for name, value in model.state_dict().items() if ".lora_" not in name}
    for name, module in adapted.items():
        state[f"{name}.weight"] = state[f"{name}.weight"] + module.get_delta_weight("default")
    with torch.device("meta"):
        whole = Gslrm(model.config)
    load_strictly(whole, state, "weights with their adapters", assign=True)
    return whole.train(model.training)
