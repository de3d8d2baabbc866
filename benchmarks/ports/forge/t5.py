"""Forge dfdcbab: T5, the second text encoder of Flux.1, in PyTorch, as its engine calls it."""

import preparing  # noqa: F401
import torch
from backend.nn.t5 import IntegratedT5
from judged import KitInputs, distance, judge

import ldmref

kit = KitInputs("flux-dev")
net = IntegratedT5(kit.config("text_encoder_2") | {"model_type": "t5"}).transformer
weights = {name: torch.tensor(x) for name, x in kit.weights("text_encoder_2").items()}
net.load_state_dict(weights)
errors = {}
with torch.no_grad(), ldmref.recording(net, call="text_encoder_2") as run:
    for call in (call for call in kit.run.calls if call.partition("~")[0] == "text_encoder_2"):
        x, expected = kit.call(call)
        errors[call] = distance(net(input_ids=torch.tensor(x["input_ids"])), expected)
judge("Flux.1 T5", run.trace, kit, errors)
