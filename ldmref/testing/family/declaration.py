"""The declaration of a family: its names exist, its presets are valid, its numbers are right."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator

from ldmref.cases.golden_families import golden_models_of
from ldmref.cases.network_cases import count_text_tokens
from ldmref.errors import LdmrefError, closest
from ldmref.models.config import TEXT_ENCODERS, ModelConfig
from ldmref.models.declared import DeclaredNetwork
from ldmref.models.family import family_of
from ldmref.models.networks import model_spec
from ldmref.models.params import Shape, count, flatten, unflatten
from ldmref.models.validate import check_config, config_from_dict
from ldmref.ports.port import port_of
from ldmref.testing.family.report import Findings, shorten
from ldmref.testing.family.subject import Subject, require
from ldmref.training.family_rules import training_rules_of


def check_names(subject: Subject, found: Findings) -> None:
    """Check that declared names are those of parameters, presets and arguments."""
    family = subject.family
    with found.about("halves"):
        halves = port_of(family).halves
        right = sorted(halves) == ["cond", "uncond"]
        message = f"the port's halves {halves} are not 'uncond' and 'cond' in one order"
        found.require(right, message)
    with found.about("optional text encoders"):
        for name in {*family.text.optional} - {*TEXT_ENCODERS}:
            found.problem(f"text.optional: {unknown(name, TEXT_ENCODERS, 'text encoder')}")
    with found.about("golden runs"):
        for run in golden_models_of(family).runs:
            if run.preset not in family.presets:
                found.problem(f"GoldenModels.runs: {unknown(run.preset, family.presets, 'preset')}")
    with found.about("ends of parameters"):
        for line in _missing_ends(subject):
            found.problem(line)
    for name, config in subject.presets.items():
        with found.about(f"networks of {name!r}"):
            for line in _broken_networks(subject, config):
                found.problem(f"{name!r}: {line}")


def _missing_ends(subject: Subject) -> Iterator[str]:
    """Yield the declared ends with which no parameter of any preset ends."""
    family = subject.family
    rules = training_rules_of(family)
    every: dict[str, Shape] = {}
    zeros: dict[str, None] = {}
    for config in family.presets.values():
        every |= flatten(model_spec(config))
        zeros |= dict.fromkeys(rules.zeros(config))
    if not every:
        return
    network = f"{family.denoiser.network}."
    own = [name for name in every if name.startswith(network)]
    paths = [name.removeprefix(network) for name in own]
    layers = [path.removesuffix(".weight") for path in paths if path.endswith(".weight")]
    declared = [("TrainingRules.zeros", end, own) for end in zeros]
    declared += [("TrainingRules.ends", end, [*every]) for end in rules.ends]
    for target, ends in family.lora.targets.items():
        declared += [(f"lora.targets[{target!r}]", end, layers) for end in ends]
    for what, end, names in declared:
        if not any(name.endswith(end) for name in names):
            near = closest(end, {name[-len(end) :] for name in names})
            hint = f"; did you mean {near!r}?" if near else ""
            kind = "layer" if names is layers else "parameter"
            yield f"{what}: no {kind} ends with {end!r}{hint}"


def _broken_networks(subject: Subject, config: ModelConfig) -> Iterator[str]:
    """Yield what does not fit in the declared networks of a preset."""
    family = subject.family
    networks = family.networks(config)
    names = [network.name for network in networks]
    for name in {name for name in names if names.count(name) > 1}:
        yield f"two networks are called {name!r}"
    spec = flatten(model_spec(config))
    for network in networks:
        yield from (f"{network.name}: {line}" for line in _broken_arguments(network))
        own = [*flatten(network.spec())]
        if network.layers and not any(name.startswith(network.layers) for name in own):
            yield f"{network.name}: layers: no parameter begins with {shorten(network.layers)}"
        attention = network.text_attention
        for end in attention.layers if attention else ():
            begin = attention.begin if attention else ""
            if not any(f"{end}." in f".{name}" and name.startswith(begin) for name in own):
                yield f"{network.name}: text_attention: no layer ends with {end!r}"
    for name in training_rules_of(family).fixed(config):
        if name not in spec:
            yield f"TrainingRules.fixed: {unknown(name, spec, 'parameter')}"
    denoiser = flatten(model_spec(config)[config.denoiser.network])
    for name, entry in family.lora.layers(config).items():
        if name not in denoiser:
            yield f"lora.layers: {unknown(name, denoiser, 'parameter')}"
        elif entry.shape != denoiser[name]:
            yield f"lora.layers: {name!r} is {entry.shape}, the parameter {denoiser[name]}"


def _broken_arguments(network: DeclaredNetwork) -> Iterator[str]:
    """Yield what does not fit between a declaration and its function."""
    parameters = inspect.signature(network.function).parameters
    arrays = (*network.inputs, *network.optional)
    declared = [*network.settings, *(x.argument for x in arrays)]
    for name in declared:
        if name not in network.arguments:
            yield f"{unknown(name, network.arguments, 'argument')} of its function"
    needed = [n for n, p in parameters.items() if p.default is p.empty][2:]
    for name in needed:
        if name not in declared:
            yield f"its function needs {name!r}, which is neither an input nor a setting"
    roles = [x.role for x in arrays]
    for role in {role for role in roles if roles.count(role) > 1}:
        yield f"two inputs are called {role!r}"


def check_presets(subject: Subject, found: Findings) -> None:
    """Check that presets and their small versions are valid and read again from dictionaries."""
    for name, config in subject.presets.items():
        with found.about(f"{name!r}"):
            found.require(config.name == name, f"{name!r} is called {config.name!r}")
            for what, one in ((name, config), (f"small {name}", subject.make_small(config))):
                if one is None:
                    found.leave_out(f"a small {name!r}: GoldenModels.shrink is not declared")
                    continue
                try:
                    check_config(one)
                    again = config_from_dict(one.to_dict())
                except LdmrefError as error:
                    found.problem(f"{what!r}: {error}")
                    continue
                found.require(again == one, f"{what!r} is another after to_dict and back")
                same = family_of(one) is subject.family
                found.require(same, f"{what!r} belongs to the family {one.denoiser.family!r}")


def check_parameters(subject: Subject, found: Findings) -> None:
    """Check that denoisers have as many parameters as were published."""
    if not subject.options.parameters:
        found.leave_out("no published numbers were given (parameters=)")
    for name, want in subject.options.parameters.items():
        with found.about(f"{name!r}"):
            if name not in subject.family.presets:
                found.problem(unknown(name, subject.family.presets, "preset"))
                continue
            config = subject.family.presets[name]
            got = count(model_spec(config)[config.denoiser.network])
            found.require(got == want, f"{name!r} has {got:,} parameters, published are {want:,}")


def check_flops(subject: Subject, found: Findings) -> None:
    """Check that `work.flops` is what torch counts, at the full size of each preset."""
    with found.about(""):
        require("torch.utils.flop_counter")
        for name, config in subject.presets.items():
            with found.about(f"{name!r}"):
                width, height = config.defaults.width, config.defaults.height
                ours = subject.family.work.flops(config, width, height)
                theirs = count_with_torch(subject, config, width, height)
                off = abs(ours - theirs) / theirs
                found.require(
                    off <= subject.options.flops_within,
                    f"{name!r}: work.flops says {ours:,} at {width} x {height}, torch counts "
                    f"{theirs:,} ({off:.2%} off, {subject.options.flops_within:.2%} allowed)",
                )


def count_with_torch(subject: Subject, config: ModelConfig, width: int, height: int) -> int:
    """Return the operations that torch counts in an evaluation of the denoiser for one image.

    Its tensors have shapes and no numbers, so any size takes a second.
    """
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

    from ldmref.backends.torch import TorchBackend

    def attention(q: Shape, k: Shape, v: Shape, *rest: object, **more: object) -> int:
        return sdpa_flop_count(q, k, v)

    network = subject.denoiser(config)
    ops = TorchBackend()
    sizes = {"batch": 1, "timesteps": 1, "tokens": count_text_tokens(config, None)}
    sizes |= {"height": height // config.vae.factor, "width": width // config.vae.factor}
    name = "_scaled_dot_product_flash_attention_for_cpu"  # which torch itself leaves out
    uncounted = {getattr(torch.ops.aten, name): attention}
    counter = FlopCounterMode(display=False, custom_mapping=uncounted)
    with FakeTensorMode(), ops.inference(), counter:
        params = {name: torch.empty(shape) for name, shape in flatten(network.spec()).items()}
        whole = ("ids", "labels")
        arrays = {
            x.argument: torch.zeros(
                x.shape_at(sizes), dtype=torch.int64 if x.content in whole else torch.float32
            )
            for x in network.inputs
            if not x.of_references
        }
        network.function(ops, unflatten(params), **network.settings, **arrays)
    return counter.get_total_flops()


def unknown(name: str, known: Iterable[str], what: str) -> str:
    """Return a line about a name that is not known, with the closest one that is."""
    near = closest(name, known)
    return f"no {what} {name!r}" + (f"; did you mean {near!r}?" if near else "")
