"""Model files: what is written comes back, and nothing that was tampered with gets in."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import struct
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aitken.linalg import _deepcg_files as files
from aitken.linalg._deepcg_files import build_model, list_models, load_model, save_model
from aitken.linalg._deepcg_networks import VARIANTS, ConvolutionalModel, LearnedMultigrid, cycle_shapes

ENDINGS = ["npz", "safetensors"]


def direction(variant="2d"):
    rng = np.random.default_rng(0)
    arrays = {k: rng.standard_normal(s) for k, s in VARIANTS[variant].shapes().items()}
    return ConvolutionalModel(arrays, variant=variant, meta={"trained_on": {"grid": [64]}, "license": "BSD"})


def cycle(ndim=2):
    rng = np.random.default_rng(1)
    arrays = {k: rng.standard_normal(s) for k, s in cycle_shapes(ndim, 2).items()}
    return LearnedMultigrid({**arrays, "omega": np.array([1.2, 0.6])}, ndim=ndim, meta={"license": "BSD"})


MODELS = {"dcdm2d": direction, "dcdm64": lambda: direction("64"), "2-D": cycle, "3-D": lambda: cycle(3)}


def same(a, b):
    assert type(a) is type(b)
    assert a.meta == b.meta
    assert list(a.arrays) == list(b.arrays)
    for name, array in a.arrays.items():
        np.testing.assert_array_equal(array, b.arrays[name])


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """The bytes of a small model in both formats."""
    out = {}
    for ending in ENDINGS:
        path = tmp_path_factory.mktemp("model") / f"m.{ending}"
        save_model(path, cycle())
        out[ending] = path.read_bytes()
    return out


def npz(about, arrays, **changes):
    """An npz file made without save_model."""
    stream = io.BytesIO()
    packed = np.frombuffer(json.dumps(about).encode(), dtype=np.uint8)
    np.savez(stream, **{"meta": packed, **arrays, **changes})
    return stream.getvalue()


def safetensors(head, body):
    text = head if isinstance(head, bytes) else json.dumps(head).encode()
    return struct.pack("<Q", len(text)) + text + body


def split(raw):
    """Header and tensors of a safetensors file."""
    (length,) = struct.unpack("<Q", raw[:8])
    return json.loads(raw[8 : 8 + length]), raw[8 + length :]


def refused(path, raw, match):
    path.write_bytes(raw)
    with pytest.raises(ValueError, match=match) as caught:
        load_model(path)
    assert path.name in str(caught.value)


# ---- round trips -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("name", MODELS)
def test_round_trip(tmp_path, name, ending):
    model, path = MODELS[name](), tmp_path / f"model.{ending}"
    save_model(path, model)
    same(load_model(path), model)
    same(load_model(str(path)), model)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]  # nothing temporary is left
    before = path.read_bytes()
    save_model(path, load_model(path))
    assert path.read_bytes() == before


def test_both_formats_hold_the_same(tmp_path):
    model = direction()
    save_model(tmp_path / "a.npz", model)
    save_model(tmp_path / "b.safetensors", load_model(tmp_path / "a.npz"))
    same(load_model(tmp_path / "b.safetensors"), model)


def test_any_name_is_npz(tmp_path):
    save_model(tmp_path / "weights", cycle())
    same(load_model(tmp_path / "weights"), cycle())


def test_file_is_plain_npz(tmp_path):
    save_model(tmp_path / "m.npz", cycle())
    with np.load(tmp_path / "m.npz", allow_pickle=False) as file:
        meta = json.loads(bytes(file["meta"]))
        assert file["W1"].dtype == np.float32
    wanted = {"format": 1, "kind": "learned_mg", "ndim": 2, "channels": 16, "layers": 3, "activation": "relu"}
    assert meta.items() >= wanted.items()


def test_safetensors_layout(stored):
    """The format's own rules: length, JSON, tensors one behind the other from an aligned start."""
    raw = stored["safetensors"]
    head, body = split(raw)
    assert (len(raw) - len(body)) % 8 == 0
    meta = json.loads(head.pop("__metadata__")["meta"])
    assert meta["kind"] == "learned_mg"
    w2 = head["W2"]
    first, last = w2["data_offsets"]
    np.testing.assert_array_equal(
        np.frombuffer(body[first:last], "<f4").reshape(w2["shape"]), cycle().arrays["W2"]
    )


def test_library_of_safetensors_agrees(tmp_path):
    library = pytest.importorskip("safetensors.numpy")
    save_model(tmp_path / "m.safetensors", cycle())
    theirs = library.load_file(tmp_path / "m.safetensors")
    for name, array in cycle().arrays.items():
        np.testing.assert_array_equal(theirs[name], array)


@pytest.mark.parametrize(("code", "digits"), [("F64", 6), ("F16", 2), ("BF16", 1)])
def test_other_floats_are_read(tmp_path, code, digits):
    model = cycle()
    head = {"__metadata__": {"meta": json.dumps(model.meta)}}
    body = b""
    for name, array in model.arrays.items():
        raw = {
            "F64": lambda a: a.astype("<f8").tobytes(),
            "F16": lambda a: a.astype("<f2").tobytes(),
            "BF16": lambda a: (a.view(np.uint32) >> 16).astype("<u2").tobytes(),
        }[code](array)
        offsets = [len(body), len(body) + len(raw)]
        head[name] = {"dtype": code, "shape": list(array.shape), "data_offsets": offsets}
        body += raw
    (tmp_path / "m.safetensors").write_bytes(safetensors(head, body))
    for name, array in load_model(tmp_path / "m.safetensors").arrays.items():
        np.testing.assert_allclose(array, model.arrays[name], rtol=10.0**-digits)


def test_dtype_of_a_loaded_model(tmp_path):
    save_model(tmp_path / "m.npz", direction())
    assert load_model(tmp_path / "m.npz").dtype == "float32"
    assert load_model(tmp_path / "m.npz", dtype="bfloat16").dtype == "bfloat16"
    with pytest.raises(ValueError, match="`dtype`"):
        load_model(tmp_path / "m.npz", dtype="int8")
    save_model(tmp_path / "c.npz", cycle())
    same(load_model(tmp_path / "c.npz", dtype="float32"), cycle())
    with pytest.raises(ValueError, match="`dtype`"):
        load_model(tmp_path / "c.npz", dtype="bfloat16")


def test_a_failed_save_leaves_the_old_file(tmp_path):
    path = tmp_path / "m.npz"
    save_model(path, cycle())
    before, broken = path.read_bytes(), cycle()
    broken.meta["trained_on"] = {1, 2}
    with pytest.raises(TypeError):
        save_model(path, broken)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["m.npz"]
    with pytest.raises(TypeError, match="`model`"):
        save_model(path, {"W1": 0})


# ---- what is refused -------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ENDINGS)
def test_every_truncation(tmp_path, stored, ending):
    raw = stored[ending]
    cuts = sorted({*range(64), *range(64, len(raw), 37), *range(len(raw) - 64, len(raw))})
    for cut in cuts:
        refused(tmp_path / f"cut.{ending}", raw[:cut], "not a model file")


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_changed_bytes_never_crash(tmp_path_factory, stored, data):
    """A file with a few bytes changed is refused, or is a model all of whose weights are finite."""
    ending = data.draw(st.sampled_from(ENDINGS))
    raw = bytearray(stored[ending])
    interesting = st.one_of(st.integers(0, 400), st.integers(len(raw) - 900, len(raw) - 1))
    places = st.one_of(interesting, st.integers(0, len(raw) - 1))
    for place in data.draw(st.lists(places, min_size=1, max_size=4)):
        raw[place] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / f"fuzzed.{ending}"
    path.write_bytes(raw)
    try:
        model = load_model(path)
    except ValueError as error:
        named = "fuzzed" in str(error)
    else:
        named = True
        assert all(np.isfinite(a).all() for a in model.arrays.values())
    assert named


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200), st.sampled_from([b"", b"PK\x03\x04", struct.pack("<Q", 20)]))
def test_noise_is_refused(tmp_path_factory, noise, start):
    for ending in ENDINGS:
        refused(tmp_path_factory.getbasetemp() / f"noise.{ending}", start + noise, "not a model file")


META = {
    "format": (2, "1", True, None, 1.0),
    "kind": ("unet", None, ["dcdm"]),
    "ndim": (1, 4, "2", True, 2.0),
    "channels": (8, "16", None, 16.0),
    "layers": (4, [3], None),
    "activation": ("tanh", None),
    "license": (3, None),
}


@pytest.mark.parametrize(("name", "value"), [(k, v) for k, values in META.items() for v in values])
def test_meta_that_does_not_fit(tmp_path, name, value):
    model = cycle()
    refused(tmp_path / "m.npz", npz({**model.meta, name: value}, model.arrays), name)


@pytest.mark.parametrize("variant", ["32", None, ["2d"], "64"])
def test_variants_that_do_not_fit(tmp_path, variant):
    model = direction()
    refused(tmp_path / "m.npz", npz({**model.meta, "variant": variant}, model.arrays), "variant|ndim")


def test_shapes_are_checked_against_the_kind(tmp_path):
    model = cycle()
    path, arrays = tmp_path / "m.npz", model.arrays
    refused(path, npz(model.meta, arrays, W2=np.zeros((16, 17), np.float32)), "W2 of shape")
    refused(path, npz({**model.meta, "ndim": 3}, arrays), "W1 of shape")
    refused(path, npz(model.meta, {k: v for k, v in arrays.items() if k != "b3"}), "no 'b3'")
    refused(path, npz(model.meta, arrays, extra=np.zeros(3, np.float32)), "'extra'")
    refused(path, npz(model.meta, arrays, omega=np.array([1.9, 1.9], np.float32)), "omega")
    refused(path, npz(direction().meta, arrays), "W0")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
def test_weights_that_are_not_finite(tmp_path, value):
    model = cycle()
    bad = np.full((16, 16), 0.1)
    bad[3, 4] = value
    refused(tmp_path / "m.npz", npz(model.meta, model.arrays, W2=bad), r"W2 at \(3, 4\)")


class Trap:
    """What an unpickler would run."""

    def __reduce__(self):
        return (pytest.fail, ("a pickle was executed",))


def test_pickles_are_refused(tmp_path):
    model = cycle()
    stream = io.BytesIO()
    objects = np.array([Trap()], dtype=object)
    packed = np.frombuffer(json.dumps(model.meta).encode(), dtype=np.uint8)
    np.savez(stream, allow_pickle=True, meta=packed, **{**model.arrays, "W2": objects})
    refused(tmp_path / "m.npz", stream.getvalue(), "W2 is of dtype|dtype")
    for ending in ENDINGS:
        refused(tmp_path / f"p.{ending}", pickle.dumps(Trap()), "not a model file")
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        file.writestr("W2.pkl", pickle.dumps(Trap()))
    refused(tmp_path / "m.npz", stream.getvalue(), "W2.pkl")


@pytest.mark.parametrize("dtype", [np.int32, np.complex64, "S4", np.bool_, ">f4"])
def test_other_dtypes_are_refused(tmp_path, dtype):
    model = cycle()
    raw = npz(model.meta, model.arrays, W2=np.zeros((16, 16), dtype=dtype))
    refused(tmp_path / "m.npz", raw, "W2 is of dtype")


def member(name, body):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        file.writestr(name, body)
    return stream.getvalue()


def test_headers_that_promise_too_much(tmp_path):
    """Sizes are believed only where the bytes are there: no memory is taken for what is not."""
    path = tmp_path / "m.npz"
    text = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000, 16), }"
    npy = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text
    refused(path, member("W1.npy", npy), "W1 of shape")
    refused(path, member("W1.npy", b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**31) + text), "header of")
    deep = b"\x93NUMPY\x01\x00" + struct.pack("<H", 2000) + b"(" * 2000
    refused(path, member("W1.npy", deep), "not a model file")
    call = text.replace(b"(1000000000000, 16)", b"__import__('os').getpid()")
    refused(path, member("W1.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(call)) + call), "not a model")


def test_a_file_that_unpacks_to_too_much(tmp_path, monkeypatch):
    model = cycle()
    stream = io.BytesIO()
    packed = np.frombuffer(json.dumps(model.meta).encode(), dtype=np.uint8)
    np.savez_compressed(stream, meta=packed, W1=np.zeros(20 << 20, np.float32))
    assert len(stream.getvalue()) < 200_000
    refused(tmp_path / "bomb.npz", stream.getvalue(), "unpacks to more than")
    with open(tmp_path / "large.npz", "wb") as file:
        file.seek(files.MOST_BYTES)
        file.write(b"x")
    with pytest.raises(ValueError, match="more than"):
        load_model(tmp_path / "large.npz")
    stream = io.BytesIO()
    np.savez(stream, **{f"a{k}": np.zeros(1) for k in range(files.MOST_ENTRIES + 1)})
    refused(tmp_path / "many.npz", stream.getvalue(), "entries")


def test_compressed_npz_is_read(tmp_path):
    model, stream = cycle(), io.BytesIO()
    packed = np.frombuffer(json.dumps(model.meta).encode(), dtype=np.uint8)
    np.savez_compressed(stream, meta=packed, **model.arrays)
    (tmp_path / "m.npz").write_bytes(stream.getvalue())
    same(load_model(tmp_path / "m.npz"), model)


def test_meta_entries_that_are_no_json(tmp_path):
    arrays, path = cycle().arrays, tmp_path / "m.npz"

    def raw(text):
        return npz({}, arrays, meta=np.frombuffer(text, np.uint8))

    refused(path, raw(b"{"), "not a model file")
    refused(path, raw(b"[1]"), "no JSON object")
    refused(path, raw(b'{"format": 1, "format": 1}'), "twice")
    refused(path, raw(b'{"format": NaN}'), "NaN")
    refused(path, raw(b"\xff\xfe"), "not a model file")
    refused(path, raw(b"[" * 200_000), "not a model file")
    refused(path, raw(b" " * (files.MOST_HEADER + 1)), "more than")
    refused(path, npz({}, arrays, meta=np.zeros(3, np.float32)), "no JSON")
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    refused(path, stream.getvalue(), "no entry 'meta'")


def altered(raw, change):
    head, body = split(raw)
    change(head)
    return safetensors(head, body)


@pytest.mark.parametrize(
    ("field", "value", "match"),
    [
        ("dtype", "I32", "dtype"),
        ("dtype", ["F32"], "dtype"),
        ("shape", [16, 17], "W2 of shape"),
        ("shape", [-16, -16], "shape"),
        ("shape", [True, 256], "shape"),
        ("shape", "16", "shape"),
        ("shape", [16.0, 16], "shape"),
        ("shape", [1 << 62, 1 << 62], "W2 of shape"),
        ("data_offsets", [0, 1 << 60], "data_offsets"),
        ("data_offsets", [-1024, 0], "data_offsets"),
        ("data_offsets", [0, 1024], "overlap"),
        ("data_offsets", [1024], "data_offsets"),
        ("data_offsets", None, "data_offsets"),
        ("more", 1, "not described"),
    ],
)
def test_safetensors_entries_that_do_not_fit(tmp_path, stored, field, value, match):
    raw = altered(stored["safetensors"], lambda head: head["W2"].update({field: value}))
    refused(tmp_path / "m.safetensors", raw, match)


def test_safetensors_heads_that_do_not_fit(tmp_path, stored):
    path, raw = tmp_path / "m.safetensors", stored["safetensors"]
    head, body = split(raw)
    refused(path, raw + b"\0", "behind its tensors")
    refused(path, struct.pack("<Q", 1 << 63) + raw[8:], "claims")
    refused(path, struct.pack("<Q", len(raw)) + raw[8:], "claims")
    refused(path, struct.pack("<Q", files.MOST_HEADER + 1) + b" " * (files.MOST_HEADER + 1), "claims")
    refused(path, safetensors(b"[]", body), "no JSON object")
    refused(path, altered(raw, lambda h: h.pop("__metadata__")), "meta")
    refused(path, altered(raw, lambda h: h.update(__metadata__=3)), "meta")
    refused(path, altered(raw, lambda h: h.update(W2=3)), "W2 is not described")
    refused(path, altered(raw, lambda h: h.pop("b3")), "behind its tensors|hole")
    twice = json.dumps(head)[:-1] + ', "b1": ' + json.dumps(head["b1"]) + "}"
    refused(path, safetensors(twice.encode(), body), "twice")
    path.write_bytes(raw)
    same(load_model(path), cycle())
    refused(tmp_path / "m.bin", raw, "neither")


def test_places_without_a_model(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_model(tmp_path / "none.npz")
    with pytest.raises(FileNotFoundError):
        load_model("none.npz")
    with pytest.raises(ValueError, match="`name_or_path` is 'dcdm32'"):
        load_model("dcdm32")
    with pytest.raises(TypeError, match="`name_or_path`"):
        load_model(3)
    with pytest.raises(ValueError, match="not a model file"):
        load_model(tmp_path)


def test_build_model_needs_an_object():
    with pytest.raises(ValueError, match="`meta`"):
        build_model([], {})


# ---- shipped ones ----------------------------------------------------------------------------------------


def test_shipped_models_are_whole():
    names = list_models()
    for name in names:
        model = load_model(name)
        assert name in (model.name, f"{model.name}_{model.ndim}d")
        assert model.meta["license"]
    assert names == sorted(names)


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """A folder of shipped models with one in it."""
    save_model(tmp_path / "m.npz", cycle())
    entry = {"file": "m.npz", "sha256": hashlib.sha256((tmp_path / "m.npz").read_bytes()).hexdigest()}
    (tmp_path / "manifest.json").write_text(json.dumps({"models": {"learned_mg_2d": entry}}))
    monkeypatch.setattr(files, "FOLDER", tmp_path)
    return tmp_path


def test_shipped_models_come_by_name(shelf):
    assert list_models() == ["learned_mg_2d"]
    same(load_model("learned_mg_2d"), cycle())
    with pytest.raises(ValueError, match="learned_mg_2d"):
        load_model("learned_mg")


def test_shipped_models_that_were_changed(shelf):
    other = cycle()
    save_model(shelf / "m.npz", LearnedMultigrid({**other.arrays, "b1": other.arrays["b1"] + 1}, ndim=2))
    with pytest.raises(ValueError, match="SHA-256"):
        load_model("learned_mg_2d")
    load_model(shelf / "m.npz")  # by its path it is a file like any other


@pytest.mark.parametrize(
    "text",
    ["{", "{}", '{"models": 3}', '{"models": {"x": {"file": "../m.npz", "sha256": ""}}}'],
)
def test_damaged_manifests(shelf, text):
    (shelf / "manifest.json").write_text(text)
    with pytest.raises(ValueError, match=r"manifest\.json"):
        list_models()
