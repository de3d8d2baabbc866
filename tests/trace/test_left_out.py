"""A recording never breaks the program that is recorded, and says what it leaves out."""

from __future__ import annotations

import errno
import sys
import warnings
from pathlib import Path
from types import CodeType

import numpy as np
import pytest

import ldmref
from ldmref import modes
from ldmref.errors import UsageError
from ldmref.locate import diff_traces
from ldmref.trace import load_trace, save_trace
from ldmref.trace.left_out import LEFT_OUT, LeftOut

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

from small_pipelines import pipeline  # noqa: E402

FOLDER = str(Path(ldmref.__file__).parent / "trace")


@pytest.fixture(autouse=True)
def _expected():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "not recorded")
        yield


# -- every function that runs within the user's call raises an error

GUARDS = {"_guarded.<locals>.run", "__torch_function__"}  # they catch; their own lines are calls


def is_guard(code: CodeType) -> bool:
    name = code.co_qualname if hasattr(code, "co_qualname") else code.co_name
    return code.co_filename.endswith("left_out.py") or any(name.endswith(g) for g in GUARDS)


class Within:
    """Calls `see` with each code object of ldmref/trace that runs within the block."""

    def __init__(self, see):
        self.see = see

    def __enter__(self):
        self.before = sys.gettrace()
        sys.settrace(self._trace)

    def __exit__(self, *error):
        sys.settrace(self.before)

    def _trace(self, frame, event, arg):
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(FOLDER) and not is_guard(code):
            self.see(code)


def generate(pipe, **options):
    options |= dict(num_inference_steps=1, height=16, width=16, output_type="np")
    return np.asarray(pipe("a red cat", generator=torch.Generator().manual_seed(1), **options)[0])


def is_clean(pipe):
    networks = [part for part in pipe.components.values() if isinstance(part, torch.nn.Module)]
    hooks = [m for n in networks for m in n.modules() if m._forward_hooks or m._forward_pre_hooks]
    names = {"step", "set_timesteps", "encode", "decode", "_decode", "encode_prompt"}
    owners = (pipe, pipe.scheduler, pipe.vae)
    return not hooks and not any(names & {*vars(owner)} for owner in owners)


def make(kind):
    if kind == "flux":
        from flux_networks import make_pipeline

        return make_pipeline(True)
    pipe = pipeline(kind)
    pipe.scheduler = diffusers.EulerAncestralDiscreteScheduler.from_config(pipe.scheduler.config)
    return pipe


@pytest.mark.not_sampled  # a minute each
@pytest.mark.parametrize("kind", ["sd1", "flux"])
def test_whatever_fails_within_the_call_it_ends_as_without_a_recording(kind):
    pipe = make(kind)
    expected = generate(pipe)
    running: dict[CodeType, None] = {}
    with ldmref.recording(pipe), Within(lambda code: running.setdefault(code)):
        generate(pipe)
    assert len(running) > 50
    for code in running:
        failed = []

        def fail(now, code=code, failed=failed):
            if now is code:
                failed.append(code)
                raise LookupError("on purpose")

        with ldmref.recording(pipe) as run, Within(fail):
            found = generate(pipe)
        assert np.array_equal(found, expected), code
        assert is_clean(pipe), code
        if failed:  # a result that is cached is not computed again
            reasons = run.trace.manifest.get(LEFT_OUT, {}).values()
            assert any("on purpose" in reason for reason in reasons), code


def test_a_part_that_is_left_out_is_not_judged(tmp_path):
    pipe = pipeline("sd1")
    plain = torch.nn.Module.__call__
    with pytest.warns(UserWarning, match="not recorded: unet.000/conv_in/output"):
        with warnings.catch_warnings(), ldmref.recording(pipe, tmp_path / "t") as run:
            store = sys.modules["ldmref.trace.store"].SpooledStore
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(store, "add", failing(store.add, "unet.000/conv_in/output"))
                generate(pipe)
    assert torch.nn.Module.__call__ is plain
    assert [*run.trace.manifest[LEFT_OUT]] == ["unet.000/conv_in/output"]
    assert run.trace.find("unet.000", "conv_in").outputs == {}
    pipe.save_pretrained(tmp_path / "model")
    report = diff_traces(run.trace, ldmref.load(tmp_path / "model"))
    assert report.verdict == "incomplete"
    assert any("unet.000/conv_in/output" in gap for gap in report.gaps)


def failing(add, name):
    def fail(self, ops, stored, x):
        if stored == name:
            raise OSError(errno.ENOSPC, "no space left on the device")
        add(self, ops, stored, x)

    return fail


# -- tensors without dense values


class Returns(torch.nn.Module):
    """A network with a layer that returns `value`, and one that returns 2 x."""

    def __init__(self, value):
        super().__init__()
        self.odd = Constant(value)
        self.twice = Constant(None)

    def forward(self, x):
        self.odd(x)
        return self.twice(2.0 * x)


class Constant(torch.nn.Module):
    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, x):
        return x if self.value is None else self.value


def list_in_itself():
    value = [torch.ones(2)]
    value.append(value)
    return value


class Raising(dict):
    def items(self):
        raise RuntimeError("no items")


ODD = {
    "sparse": lambda: torch.eye(3).to_sparse(),
    "csr": lambda: torch.eye(3).to_sparse_csr(),
    "quantized": lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
    "meta": lambda: torch.ones(3, device="meta"),
    "nested": lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
    "jagged": lambda: torch.nested.nested_tensor(
        [torch.ones(2), torch.ones(3)], layout=torch.jagged
    ),
    "raising": lambda: Raising(a=torch.ones(2)),
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", ODD)
def test_what_has_no_dense_values_is_left_out(kind):
    network = Returns(ODD[kind]())
    x = torch.ones(2)
    with ldmref.recording(network) as run:
        y = network(x)
    assert torch.equal(y, 2.0 * x)
    trace = run.trace
    assert any("odd" in name for name in trace.manifest[LEFT_OUT])
    assert not trace.find("unet.000", "odd").outputs
    assert np.array_equal(trace.tensors["unet.000/twice/output"], y.numpy())


def test_a_list_that_holds_itself_is_recorded_once():
    network = Returns(list_in_itself())
    with ldmref.recording(network) as run:
        network(torch.ones(2))
    outputs = run.trace.read_outputs(run.trace.find("unet.000", "odd"))
    assert [x.tolist() for x in outputs.values()] == [[1.0, 1.0]]
    assert LEFT_OUT not in run.trace.manifest


def test_tensors_of_other_kinds_are_recorded_whole():
    """A negative or conjugated view, and eight bits."""
    x = torch.tensor([1.0 + 2.0j, -3.0 + 0.5j])
    for value in (x.conj(), x.conj().imag, torch.ones(2, dtype=torch.float8_e4m3fn)):
        network = Returns(value)
        with ldmref.recording(network) as run:
            network(torch.ones(2))
        expected = value.float().numpy() if value.dtype.itemsize == 1 else value.resolve_conj()
        found = run.trace.tensors["unet.000/odd/output"]
        assert np.array_equal(found, np.asarray(torch.as_tensor(expected).resolve_neg()))


# -- complex numbers


@pytest.mark.parametrize("dtype", ["complex32", "complex64", "complex128"])
def test_complex_numbers_keep_both_parts(dtype, tmp_path):
    values = torch.tensor([[1.0 + 2.0j, complex("inf")], [-0.5j, 3.0]], dtype=torch.complex128)
    values = values.to(getattr(torch, dtype))
    network = Returns(values)
    with ldmref.recording(network, tmp_path / "t") as run:
        network(torch.view_as_real(values))  # the same bytes, which are stored once if they may
    name = "unet.000/odd/output"
    expected = values.to(torch.complex128).numpy()
    one = save_trace(run.trace, tmp_path / "one.safetensors")
    for trace in (run.trace, load_trace(one), load_trace(tmp_path / "t")):
        assert np.array_equal(trace.tensors[name], expected)
        assert trace.tensors[name].dtype == {"complex128": "complex128"}.get(dtype, "complex64")
        assert trace.tensors["unet.000/odd/input"].dtype.kind == "f"


# -- a full disk


@pytest.mark.parametrize("program", ["pipeline", "model"])
@pytest.mark.parametrize("what", ["add", "write_call", "new"])
def test_a_full_disk_leaves_out_calls(program, what, monkeypatch):
    from ldmref.trace import files, store

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "no space left on the device")

    if program == "pipeline":
        pipe = pipeline("sd1")
        run_it, recorded = lambda: generate(pipe), pipe
    else:
        recorded = ldmref.random_model("tiny")
        run_it = lambda: modes.txt2img(recorded, "a", seed=1, steps=1).latents  # noqa: E731
    expected = run_it()
    owner, name = {
        "add": (store.SpooledStore, "add"),
        "write_call": (files.TraceWriter, "write_call"),
        "new": (store, "TemporaryFile"),
    }[what]
    with ldmref.recording(recorded) as run:
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, full)
            found = run_it()
        if program == "pipeline":
            recorded.scheduler.set_timesteps(3)
    assert np.array_equal(found, expected)
    reasons = [*run_manifest(run)[LEFT_OUT].values()]
    assert reasons and all("no space" in reason for reason in reasons)
    if program == "pipeline":
        assert "schedule~1" in run.trace.calls


def run_manifest(run):
    from ldmref.trace.manifest import MANIFEST, read_manifest

    return read_manifest(run.folder / MANIFEST)


# -- what is refused before the run


def make_unknown():
    torch.manual_seed(0)
    return diffusers.PixArtAlphaPipeline(
        tokenizer=None, text_encoder=None, scheduler=diffusers.EulerDiscreteScheduler(),
        vae=diffusers.AutoencoderKL(block_out_channels=(4,), norm_num_groups=2),
        transformer=diffusers.PixArtTransformer2DModel(
            num_attention_heads=2, attention_head_dim=4, num_layers=1, cross_attention_dim=8,
            sample_size=8, caption_channels=6, use_additional_conditions=False,
        ),
    )  # fmt: skip


def generate_unknown(pipe):
    pipe.set_progress_bar_config(disable=True)
    text, mask = torch.ones(1, 3, 6), torch.ones(1, 3)
    return pipe(
        prompt=None, negative_prompt=None, prompt_embeds=text, prompt_attention_mask=mask,
        negative_prompt_embeds=0 * text, negative_prompt_attention_mask=mask, height=8, width=8,
        num_inference_steps=2, output_type="np", use_resolution_binning=False,
        generator=torch.Generator().manual_seed(1),
    ).images  # fmt: skip


def test_the_networks_of_a_pipeline_that_no_family_reads_are_recorded():
    from ldmref.locate import diff_modules

    pipe = make_unknown()
    right = generate_unknown(pipe)
    own = [dict(vars(part)) for part in (pipe, pipe.vae, pipe.transformer)]
    with pytest.warns(UserWarning, match="no family of ldmref reads a PixArtAlphaPipeline"):
        with ldmref.recording(pipe) as run:
            recorded = generate_unknown(pipe)
    assert np.array_equal(right, recorded)
    assert [dict(vars(part)) for part in (pipe, pipe.vae, pipe.transformer)] == own
    assert run.trace.calls == ["inputs", "transformer.000", "transformer.001", "vae.decode"]
    report = diff_modules(run.trace, make_unknown())
    assert report.verdict == "incomplete" and not report.faults
    unknown = {row.kind for row in report.rows if row.verdict != "equal"}
    # The request has arrays: the mask among them is given to a network, and nothing computes it.
    assert unknown == {"recorded", "mask of the text"}
    wrong = make_unknown()
    wrong.vae.decoder.conv_norm_out.eps = 1e4
    wrong.transformer.norm_out.eps = 1e4
    rows = diff_modules(run.trace, wrong).faults
    assert {(row.call, row.layer) for row in rows} == {
        ("transformer.000", "norm_out"),
        ("transformer.001", "norm_out"),
        ("vae.decode", "decoder.conv_norm_out"),
    }


def test_a_pipeline_without_a_network_is_refused(tmp_path):
    class Empty:
        def __init__(self):
            self.components = {"scheduler": diffusers.DDPMScheduler()}

    with pytest.raises(UsageError, match="no component of a Empty") as error:
        with ldmref.recording(Empty(), tmp_path / "t"):
            raise AssertionError("the block is not entered")
    assert "recording(module" in error.value.hint
    assert not (tmp_path / "t").exists()


def test_a_pipeline_of_another_class_is_read_by_its_denoiser(tmp_path):
    class Mine(diffusers.StableDiffusionPipeline):
        pass

    own = Mine(**pipeline("sd1").components, requires_safety_checker=False)
    own.set_progress_bar_config(disable=True)
    with ldmref.recording(own) as run:
        generate(own)
    assert "unet.000" in run.trace.calls

    class Parts:
        def __init__(self, pipe):
            self.components = dict(pipe.components)

    with ldmref.recording(Parts(own)):
        pass


@pytest.mark.parametrize(
    "name", ["../../evil", "a/b", "..", ".hidden", "", "a\\b", "a\nb", "x" * 300, "C:evil"]
)
def test_names_that_are_no_names_of_files_are_refused(name, tmp_path):
    class Evil:
        def __init__(self):
            self.components = {name: torch.nn.Linear(2, 2), "unet": pipeline("sd1").unet}

    folder = tmp_path / "a" / "b" / "t"
    folder.parent.mkdir(parents=True)
    for program, options in ((Evil(), {}), (torch.nn.Linear(2, 2), {"call": name})):
        with pytest.raises(UsageError, match="cannot be named"):
            with ldmref.recording(program, folder, **options):
                raise AssertionError("the block is not entered")
    assert [*tmp_path.rglob("*.safetensors")] == []


def test_a_trace_is_written_within_its_folder(tmp_path):
    from ldmref.trace import TraceWriter

    writer = TraceWriter(tmp_path / "a" / "t", {})
    with pytest.raises(UsageError, match="cannot be named"):
        writer.write_call("../../evil", [], {"x": np.ones(2, np.float32)})
    assert [*tmp_path.rglob("*.safetensors")] == []


@pytest.mark.parametrize("components", [[1], None, 3, {1: torch.nn.Linear(2, 2)}, "text"])
def test_components_that_are_no_mapping_are_refused(components):
    class Odd:
        pass

    odd = Odd()
    odd.components = components
    with pytest.raises(UsageError, match="components"), ldmref.recording(odd):
        raise AssertionError("the block is not entered")


def test_a_function_of_names_that_fails_is_refused():
    def fail(name):
        raise RuntimeError("no")

    for names in (fail, lambda name: 3, lambda name: [name]):
        with pytest.raises(UsageError, match="names") as error:
            with ldmref.recording(Returns(torch.ones(2)), names=names):
                raise AssertionError("the block is not entered")
        assert error.value.code == "E-NAMES"


# -- methods


def test_clip_skip_of_sd3_is_recorded(tmp_path):
    from sd3_networks import make_pipeline

    pipe = make_pipeline("3 medium")
    expected = generate(pipe, clip_skip=1)
    with ldmref.recording(pipe) as run:
        found = generate(pipe, clip_skip=1)
    assert np.array_equal(found, expected) and LEFT_OUT not in run.trace.manifest
    context = run.trace.tensors["transformer.000//input.encoder_hidden_states"]
    states = run.trace.tensors["text_encoder//output"]
    assert np.array_equal(context[1:, : states.shape[1], : states.shape[2]], states)
    assert run.trace.find("text_encoder").attributes["clip_skip"] == 1
    assert run.trace.find("text_encoder_3").attributes["clip_skip"] == 0


def test_a_decoder_in_slices_runs_as_without_a_recording():
    pipe = pipeline("sd1")
    pipe.vae.enable_slicing()
    z = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    calls = []
    plain = pipe.vae.decode
    pipe.vae.decode = lambda *args, **options: calls.append(len(args[0])) or plain(*args, **options)
    with torch.no_grad(), ldmref.recording(pipe) as run:
        found = pipe.vae.decode(z).sample
    assert calls == [3]
    trace = run.trace
    assert trace.calls == ["vae.decode", "vae.decode~1", "vae.decode~2"]
    parts = [trace.tensors[f"{call}//output"] for call in trace.calls]
    assert np.array_equal(np.concatenate(parts), found.numpy())


def test_a_method_that_is_replaced_within_the_block_stays():
    pipe = pipeline("sd1")
    with ldmref.recording(pipe) as run:
        observed = pipe.vae.decode
        pipe.vae.decode = lambda *args, **options: observed(*args, **options)
        own = pipe.vae.decode
    assert pipe.vae.decode is own
    before = sorted(path.name for path in run.folder.iterdir())
    with torch.no_grad():
        pipe.vae.decode(torch.ones(1, 4, 8, 8))  # the recording has ended
    assert before == sorted(path.name for path in run.folder.iterdir())


def test_errors_of_the_user_are_their_own():
    """The method's own error is raised, the part is noted, and Ctrl-C is never caught."""
    lost = LeftOut()

    def stop(*args):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        lost.observed(lambda: 1, "a", before=stop)()
    with pytest.raises(ZeroDivisionError):
        lost.observed(lambda: 1 // 0, "b", before=lambda args, kwargs: None)()
    assert [*lost.reasons] == ["b"]
