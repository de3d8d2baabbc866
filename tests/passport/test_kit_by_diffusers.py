"""A U-Net of diffusers, recorded by hooks, has the right layers and the outputs of the kit."""

import numpy as np
import pytest

from ldmref.passport import check_dump, make_kit
from ldmref.trace import load_trace

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
from benchmarks.peers import peer_network  # noqa: E402
from ldmref.trace import record_module  # noqa: E402


@pytest.mark.parametrize("wrong", [False, True])
def test_the_unet_of_diffusers_is_judged(tmp_path, wrong):
    kit = make_kit("sd15", tmp_path / "kit")
    unet = peer_network("unet", kit.model())
    if wrong:
        unet.mid_block.resnets[0].norm1.eps = 0.1
    calls = [call for call in kit.trace.calls if call.kind == "unet"]
    with record_module(unet, tmp_path / "dump", call="unet"), torch.inference_mode():
        for call in calls:
            roles = ("sample", "timestep", "encoder_hidden_states")
            x = [np.asarray(kit.trace.tensors[f"{call}//input.{role}"]) for role in roles]
            unet(*(torch.from_numpy(np.array(a, np.float32)) for a in x))
    verdict = check_dump(load_trace(tmp_path / "dump"), kit)
    assert len(calls) == 4 and not [name for name in verdict.missing if name.startswith("unet")]
    faults = {row.layer: row.cause for row in verdict.report.faults}
    assert faults == ({"mid_block.resnets.0.norm1": "eps 0.1 instead of 1e-05"} if wrong else {})
