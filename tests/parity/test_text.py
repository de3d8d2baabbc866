"""CLIP's ids against transformers' CLIPTokenizer and, with the real vocabulary, open_clip's."""

from __future__ import annotations

import importlib.util
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from ldmref.backends import get_backend
from ldmref.io.adapters.textual_inversion import read_embeddings
from ldmref.models.config import TextConfig
from ldmref.models.params import flatten, unflatten
from ldmref.models.text import text_encoder
from ldmref.prompts.clip import END, Vocabulary, clip_tokenizer
from ldmref.prompts.clip_vocabulary import BPE_FILE, load_tokenizer, read_vocabulary
from ldmref.prompts.textual_inversion import add_embeddings
from ldmref.testing.clip import awkward_strings, small_vocabulary, write_tokenizer

transformers = pytest.importorskip("transformers")
torch = pytest.importorskip("torch")

TEXTS = awkward_strings()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tokenizer(tmp_path_factory.mktemp("tokenizer"), small_vocabulary())


@pytest.fixture(scope="module")
def theirs(folder):
    return transformers.CLIPTokenizer.from_pretrained(str(folder))


@pytest.fixture(scope="module")
def ours(folder):
    return load_tokenizer(folder)


def padded(tokenizer, texts, length=77):
    options = {"padding": "max_length", "max_length": length, "truncation": True}
    return np.array(tokenizer(texts, **options)["input_ids"])


def test_ids_are_those_of_transformers(theirs, ours):
    assert (ours.encode(TEXTS)[0] == padded(theirs, TEXTS)).all()
    long = clip_tokenizer(small_vocabulary(), 12000)
    assert (long.encode(TEXTS)[0] == padded(theirs, TEXTS, 12000)).all()


@given(st.text(max_size=200))
def test_ids_of_any_text_are_those_of_transformers(theirs, ours, text):
    assume(END not in text and "<|startoftext|>" not in text)  # special tokens to them, text to us
    assert (ours.encode([text])[0] == padded(theirs, [text])).all()


def test_bytes_outside_the_vocabulary_are_those_of_transformers(tmp_path):
    small = small_vocabulary()
    words = [token for token in small.vocab if token.isascii()]
    merges = [pair for pair in small.merges if "".join(pair) in words and set(pair) <= set(words)]
    poor = Vocabulary({word: id for id, word in enumerate(words)}, merges)
    theirs = transformers.CLIPTokenizer.from_pretrained(str(write_tokenizer(tmp_path, poor)))
    ids, warnings = load_tokenizer(tmp_path).encode(["a ж heart"])
    assert (ids == padded(theirs, ["a ж heart"])).all()
    assert warnings == ["words the model never saw: ж"]


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"tokenizer_config": {"pad_token": "!"}},
        {"tokenizer_config": {"pad_token": END}, "special_tokens_map": {"pad_token": "!"}},
        {"tokenizer_config": {"pad_token": "!"}, "special_tokens_map": {"pad_token": END}},
    ],
)
def test_padding_is_that_of_transformers(tmp_path, files):
    write_tokenizer(tmp_path, small_vocabulary(), **files)
    theirs = transformers.CLIPTokenizer.from_pretrained(str(tmp_path))
    theirs.save_pretrained(tmp_path / "saved")  # tokenizer.json lists special tokens as added
    for source in (tmp_path, tmp_path / "saved"):
        assert (load_tokenizer(source).encode(TEXTS)[0] == padded(theirs, TEXTS)).all()


SD2 = {
    "special_tokens_map": {"pad_token": "!", "unk_token": END},
    "tokenizer_config": {"pad_token": END, "tokenizer_class": "CLIPTokenizer"},
}
XL2 = {
    "special_tokens_map": {"pad_token": "!", "unk_token": END},
    "tokenizer_config": {
        "pad_token": "!",
        "added_tokens_decoder": {
            "0": {
                "content": "!",
                "lstrip": False,
                "normalized": False,
                "rstrip": False,
                "single_word": False,
                "special": True,
            }
        },
    },
}
EXCLAIMED = [
    "x!",
    "!",
    "wow!! a cat",
    "a!b",
    "hi ! there",
    "!x",
    "cat!'s dog",
    "x \u0338!",
    "! !",
    "\uff01",
    "Red!HEART",
    "a!\n b",
    "!!!",
    "¡hola! (wow!:1.2)",
]


@pytest.mark.parametrize("files", [SD2, XL2])
@pytest.mark.parametrize("kind", ["CLIPTokenizer", "CLIPTokenizerFast"])
def test_where_it_pads_an_exclamation_mark_is_the_padding_token(tmp_path, files, kind):
    """Each `!` is id 0 to transformers, at any position; users of diffusers get the same."""
    write_tokenizer(tmp_path, small_vocabulary(), **files)
    theirs = getattr(transformers, kind).from_pretrained(str(tmp_path))
    ours = load_tokenizer(tmp_path)
    want = padded(theirs, EXCLAIMED)
    assert want[0, 2] == 0 and (ours.encode(EXCLAIMED)[0] == want).all()
    single_file = clip_tokenizer(small_vocabulary(), pad=0)  # which only knows the id
    assert (single_file.encode(EXCLAIMED)[0] == want).all()
    ours.tokenizer.save(str(tmp_path / "tokenizer.json"))  # a folder of ldmref
    assert (load_tokenizer(tmp_path / "tokenizer.json").encode(EXCLAIMED)[0] == want).all()


@given(st.text(alphabet="!a \u0301'\n", max_size=20))
def test_exclamation_marks_among_others(text):
    tokenizer = theirs_with_padding()
    assert (padding_with_0().encode([text])[0] == padded(tokenizer, [text])).all()


@cache
def theirs_with_padding():
    vocabulary = small_vocabulary()
    return transformers.CLIPTokenizer(
        vocab=dict(vocabulary.vocab), merges=list(vocabulary.merges), pad_token="!"
    )


@cache
def padding_with_0():
    return clip_tokenizer(small_vocabulary(), pad=0)


def test_transformers_reads_what_we_save(tmp_path, ours, theirs):
    ours.tokenizer.save(str(tmp_path / "tokenizer.json"))
    again = transformers.CLIPTokenizer.from_pretrained(str(tmp_path))
    assert (padded(again, TEXTS) == padded(theirs, TEXTS)).all()


def test_textual_inversion_is_that_of_diffusers(tmp_path, folder):
    from diffusers.loaders import TextualInversionLoaderMixin

    class Loader(TextualInversionLoaderMixin):
        components: dict = {}  # noqa: RUF012
        hf_device_map = None

    torch.manual_seed(0)
    vocabulary = small_vocabulary()
    shape = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2)
    theirs = transformers.CLIPTextModel(
        transformers.CLIPTextConfig(vocab_size=len(vocabulary.vocab), **shape)
    )
    state = {k: v.detach().numpy().copy() for k, v in theirs.state_dict().items()}
    prefix = "" if any(k.startswith("text_model.") for k in state) else "text_model."
    params = unflatten({prefix + k: v for k, v in state.items() if "position_ids" not in k})
    tokenizer = transformers.CLIPTokenizer.from_pretrained(str(folder))
    stream = np.random.default_rng(0)
    files = []
    for name, key, k in [("a", "<cat-toy>", 1), ("b", "<many>", 3)]:
        tensor = stream.standard_normal((k, 16)).astype(np.float32)
        files.append(tmp_path / f"{name}.safetensors")
        save_file({key: tensor[0] if k == 1 else tensor}, files[-1])
        Loader().load_textual_inversion(
            {key: torch.from_numpy(tensor[0] if k == 1 else tensor)},
            tokenizer=tokenizer,
            text_encoder=theirs,
        )
    ours = load_tokenizer(folder)
    flat = flatten(params)
    words = [e for f in files for e in read_embeddings(f)]
    name = "text_model.embeddings.token_embedding.weight"
    flat[name], ours = add_embeddings(flat[name], ours, words)
    params = unflatten({name: tensor.astype(np.float64) for name, tensor in flat.items()})
    prompts = ["a <cat-toy> and <many>, red", "<many> <many>", "the heart"]
    converted = Loader().maybe_convert_prompt(prompts, tokenizer)
    want = padded(tokenizer, converted)
    got = ours.encode(prompts)[0]
    assert (got == want).all()
    with torch.no_grad():
        expected = theirs.double()(torch.from_numpy(want)).last_hidden_state.numpy()
    config = TextConfig(vocab_size=len(vocabulary.vocab) + 4, **shape)
    hidden = text_encoder(get_backend("numpy", dtype="float64"), params, config, got)
    np.testing.assert_allclose(hidden, expected, rtol=0, atol=1e-10)


# -- the real vocabulary --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bpe_file(skip):
    spec = importlib.util.find_spec("open_clip")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    if not folders:
        skip("open_clip", "not installed, so the real CLIP vocabulary is not tested")
    return Path(folders[0]) / BPE_FILE


@pytest.fixture(scope="module")
def real(bpe_file):
    return clip_tokenizer(read_vocabulary(bpe_file))


def test_the_real_vocabulary(real):
    assert real.tokenizer.get_vocab_size() == 49408
    assert (real.start, real.end) == (49406, 49407)
    row = real.encode(["a photo of a cat"])[0][0].tolist()
    assert row[:7] == [
        49406,
        320,
        1125,
        539,
        320,
        2368,
        49407,
    ]  # openai/CLIP's README and notebooks


def test_real_ids_are_those_of_transformers(tmp_path, bpe_file, real):
    write_tokenizer(tmp_path, read_vocabulary(bpe_file))
    theirs = transformers.CLIPTokenizer.from_pretrained(str(tmp_path))
    assert (real.encode(TEXTS)[0] == padded(theirs, TEXTS)).all()


def test_real_ids_with_openai_cleaning_are_those_of_open_clip(bpe_file, skip):
    for needed in ("ftfy", "regex"):
        if importlib.util.find_spec(needed) is None:
            skip("open_clip's tokenizer", f"{needed} is not installed")
    spec = importlib.util.spec_from_file_location("_oc", bpe_file.parent / "tokenizer.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["_oc"] = module
    spec.loader.exec_module(module)
    ours = load_tokenizer(bpe_file, pad=0, text_clean="openai")
    # open_clip has no NFC, Python's lower() and white space, and no NUL
    plain = [t for t in TEXTS if t.isprintable() and t.isascii()]
    texts = [
        *plain,
        "a <|endoftext|> heart",
        "<|startoftext|>",
        "ﬁne “quotes” &amp;amp; it’s 日本語 👍🏽",
    ]
    assert len(texts) > 12
    assert (ours.encode(texts)[0] == module.tokenize(texts).numpy()).all()
