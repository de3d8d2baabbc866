r"""The joint block and the steps of port_transformer.py, written as files for `ldmref diff`.

    ldmref trace "a red heart" -m sd3-model --seed 1 --steps 3 --layers "transformer_blocks.0*" \
        -o sd3-golden
    python port_joint_block.py sd3-model sd3-golden sd3-port
    ldmref diff sd3-golden sd3-port -m sd3-model

Only NumPy is needed. A fourth argument exchanges shift and scale of the norms: a fault to find.
"""

import sys
from pathlib import Path

import numpy as np
from port_resnet import read_tensors
from port_transformer import BLOCK, euler, flow_times, joint_block, read_parameters

ROLES = ("sample", "timestep", "encoder_hidden_states", "pooled_projections")
SECOND = {"norm1": ["emb"], "norm1_context": ["emb"], "attn": ["context"]}  # after the tokens


def exchange(p):
    """Return the parameters with shift and scale of both norms in the other order."""

    def swapped(x):
        shift, scale, *others = np.split(x, 6)
        return np.concatenate([scale, shift, *others])

    return {name: swapped(x) if "norm1" in name else x for name, x in p.items()}


def main(model, golden, port, exchanged=""):
    folder = Path(port)
    folder.mkdir(exist_ok=True)

    def save(call, layer, inputs, outputs):
        arrays = {f"input.{role}" if role else "input": x for role, x in inputs.items()}
        several = len(outputs) > 1
        arrays |= {f"output.{i}" if several else "output": y for i, y in enumerate(outputs)}
        for role, array in arrays.items():
            name = f"{call}__{layer}__{role}" if layer else f"{call}__{role}"
            np.save(folder / f"{name}.npy", array)

    def layer(name, function, x, *others):
        y = function(x, *others)
        inputs = {"": x} | dict(zip(SECOND.get(name, ()), others, strict=True))
        outputs = y if isinstance(y, tuple) else [y]
        save("transformer.000", f"{BLOCK}.{name}", inputs, outputs)
        return y

    p = read_parameters(model)
    known = read_tensors(Path(golden, "transformer.000.safetensors"))
    save("transformer.000", "", {r: known[f"transformer.000//input.{r}"] for r in ROLES}, [])
    roles = {"": "input", "context": "input.context", "emb": "input.emb"}
    inputs = {role: known[f"transformer.000/{BLOCK}/{name}"] for role, name in roles.items()}
    found = joint_block(exchange(p) if exchanged else p, *inputs.values(), 2, layer)
    save("transformer.000", BLOCK, inputs, found)
    steps = sorted(Path(golden).glob("sampler.*.safetensors"))
    sigmas = flow_times(len(steps))
    np.save(folder / "schedule__output.sigmas.npy", sigmas)
    for path, sigma, after in zip(steps, sigmas, sigmas[1:], strict=False):
        call = path.stem
        step = read_tensors(path)
        x, v = (step[f"{call}//input.{role}"] for role in ("x", "prediction"))
        levels = {"sigma": np.float32(sigma), "sigma_next": np.float32(after)}
        save(call, "", {"x": x, "prediction": v, **levels}, [euler(x, v, sigma, after)])
    expected = known[f"transformer.000/{BLOCK}/output.1"]  # the image; output.0 is the text
    return np.abs(found[1] - expected).max()


if __name__ == "__main__":
    print(f"largest difference from the golden output: {main(*sys.argv[1:]):.1e}")
