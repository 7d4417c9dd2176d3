"""Model files: npz or safetensors with a JSON entry ``meta``. Nothing in them is ever executed.

A file is data from somewhere: sizes are bounded before memory is taken, headers are parsed by what they may
hold, and every failure is a ValueError that names the file.
"""

from __future__ import annotations

import ast
import hashlib
import io
import json
import math
import os
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import _files
from ._deepcg_networks import CHANNELS, VARIANTS, ConvolutionalModel, LearnedMultigrid

Array = NDArray[Any]
Model = ConvolutionalModel | LearnedMultigrid

FORMAT = 1
KINDS = ("dcdm", "learned_mg")
LAYERS_OF_CYCLE = 3
MOST_BYTES = 64 << 20  # of a file, and of what it unpacks to
MOST_HEADER = 1 << 20
MOST_NPY_HEADER = 4096
MOST_ENTRIES = 256
NPY_TYPES = ("<f4", "<f8", "<f2", "|u1")
FOLDER = Path(__file__).with_name("models")
MANIFEST = "manifest.json"

# safetensors' names of the types that weights may have
_TYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
}
_UNREADABLE = (
    ValueError,
    KeyError,
    IndexError,
    AttributeError,
    TypeError,
    EOFError,
    OSError,
    RuntimeError,  # a zip member that is encrypted; JSON nested too deeply
    NotImplementedError,
    OverflowError,
    SyntaxError,
    MemoryError,
    struct.error,
    zlib.error,
    zipfile.BadZipFile,
)


# ------------------------------------------------------------------------------------------------ models


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def build_model(meta: Mapping[str, Any], arrays: Mapping[str, Any]) -> Model:
    """A model from what its file holds; ValueError where the two do not belong together."""
    if not isinstance(meta, Mapping):
        raise ValueError(f"`meta` is a {type(meta).__name__}; an object is needed")
    if not _is_count(meta.get("format")) or meta["format"] != FORMAT:
        raise ValueError(f"`meta` has format {meta.get('format')!r}; {FORMAT} is needed")
    kind = meta.get("kind")
    if kind not in KINDS:
        raise ValueError(f"`meta` has kind {kind!r}; {' or '.join(map(repr, KINDS))} is needed")
    ndim = meta.get("ndim")
    if not _is_count(ndim) or ndim not in (2, 3):
        raise ValueError(f"`meta` has ndim {ndim!r}; 2 or 3 is needed")
    wanted: dict[str, Any] = {"channels": CHANNELS, "activation": "relu", "layers": LAYERS_OF_CYCLE}
    if kind == "dcdm":
        variant = meta.get("variant")
        if not isinstance(variant, str) or variant not in VARIANTS:
            raise ValueError(f"`meta` has variant {variant!r}; one of {', '.join(VARIANTS)} is needed")
        wanted |= {"ndim": VARIANTS[variant].ndim, "layers": VARIANTS[variant].n_layers}
    for name, value in wanted.items():
        if type(meta.get(name)) is not type(value) or meta[name] != value:
            raise ValueError(f"`meta` has {name} {meta.get(name)!r}; {value!r} is needed")
    if not isinstance(meta.get("license", ""), str):
        raise ValueError(f"`meta` has license {meta['license']!r}; text is needed")
    if kind == "dcdm":
        return ConvolutionalModel(arrays, variant=meta["variant"], meta=meta)
    return LearnedMultigrid(arrays, ndim=int(meta["ndim"]), meta=meta)


# ------------------------------------------------------------------------------------------------ reading


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) != len(pairs):
        raise ValueError("its JSON names something twice")
    return out


def _no_constant(name: str) -> Any:
    raise ValueError(f"its JSON holds {name}")


def _json(raw: bytes, what: str) -> dict[str, Any]:
    if len(raw) > MOST_HEADER:
        raise ValueError(f"its {what} has {len(raw)} bytes, more than {MOST_HEADER}")
    value = json.loads(raw.decode(), object_pairs_hook=_object, parse_constant=_no_constant)
    if not isinstance(value, dict):
        raise ValueError(f"its {what} is no JSON object")
    return value


def _npy(raw: bytes, name: str) -> Array:
    """One array of an npz file; its header is checked against the bytes that follow before any are taken."""
    if raw[:6] != b"\x93NUMPY" or raw[6:8] not in (b"\x01\x00", b"\x02\x00"):
        raise ValueError(f"its {name} is no npy array of version 1 or 2")
    wide = 2 if raw[6] == 1 else 4
    first = 8 + wide + int.from_bytes(raw[8 : 8 + wide], "little")
    if first > min(len(raw), MOST_NPY_HEADER):
        raise ValueError(f"its {name} has a header of {first} bytes, of which {MOST_NPY_HEADER} may be")
    head = ast.literal_eval(raw[8 + wide : first].decode("latin1").strip())
    if not isinstance(head, dict) or set(head) != {"descr", "fortran_order", "shape"}:
        raise ValueError(f"its {name} has no npy header")
    if head["descr"] not in NPY_TYPES:
        raise ValueError(f"its {name} is of dtype {head['descr']!r}; one of {', '.join(NPY_TYPES)} is needed")
    shape, body = head["shape"], raw[first:]
    if not isinstance(shape, tuple) or len(shape) > 8 or not all(map(_is_count, shape)):
        raise ValueError(f"its {name} has shape {shape!r}")
    dtype = np.dtype(head["descr"])
    if math.prod(shape) * dtype.itemsize != len(body):
        raise ValueError(f"its {name} of shape {shape} has {len(body)} bytes")
    return np.frombuffer(body, dtype=dtype).reshape(shape, order="F" if head["fortran_order"] else "C")


def _read_npz(raw: bytes) -> tuple[dict[str, Any], dict[str, Array]]:
    with zipfile.ZipFile(io.BytesIO(raw)) as file:
        members = file.infolist()
        if len(members) > MOST_ENTRIES:
            raise ValueError(f"it has {len(members)} entries, more than {MOST_ENTRIES}")
        if sum(m.file_size for m in members) > MOST_BYTES:
            raise ValueError(f"it unpacks to more than {MOST_BYTES} bytes")
        arrays: dict[str, Array] = {}
        for member in members:
            name = member.filename.removesuffix(".npy")
            if name == member.filename or name in arrays:
                raise ValueError(f"it has an entry {member.filename!r} that is no array, or twice")
            with file.open(member) as stream:
                body = stream.read(member.file_size + 1)
            if len(body) != member.file_size:
                raise ValueError(f"its {name} has {len(body)} bytes in place of {member.file_size}")
            arrays[name] = _npy(body, name)
    if "meta" not in arrays:
        raise ValueError("it has no entry 'meta'")
    packed = arrays.pop("meta")
    if packed.dtype != np.uint8 or packed.ndim != 1:
        raise ValueError(f"its 'meta' is of dtype {packed.dtype} and shape {packed.shape}, no JSON")
    return _json(packed.tobytes(), "'meta'"), arrays


def _tensor(body: memoryview, name: str, entry: Any) -> tuple[int, int, Array]:
    """Where a tensor of a safetensors file begins and ends, and what it holds."""
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"its {name} is not described by dtype, shape and data_offsets")
    dtype = _TYPES.get(entry["dtype"]) if isinstance(entry["dtype"], str) else None
    if dtype is None:
        raise ValueError(f"its {name} is of dtype {entry['dtype']!r}; one of {', '.join(_TYPES)} is needed")
    shape, offsets = entry["shape"], entry["data_offsets"]
    if not isinstance(shape, list) or len(shape) > 8 or not all(map(_is_count, shape)):
        raise ValueError(f"its {name} has shape {shape!r}")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(_is_count, offsets)):
        raise ValueError(f"its {name} has data_offsets {offsets!r}")
    first, last = offsets
    if first > last or last > len(body) or last - first != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"its {name} of shape {shape} has data_offsets {offsets} in {len(body)} bytes")
    array = np.frombuffer(body[first:last], dtype=dtype)
    if entry["dtype"] == "BF16":
        array = (array.astype(np.uint32) << 16).view(np.float32)
    return first, last, array.reshape(shape)


def _read_safetensors(raw: bytes) -> tuple[dict[str, Any], dict[str, Array]]:
    if len(raw) < 8:
        raise ValueError(f"it has {len(raw)} bytes, less than the length of a header")
    (length,) = struct.unpack("<Q", raw[:8])
    if length > min(MOST_HEADER, len(raw) - 8):
        raise ValueError(f"its header claims {length} bytes of {len(raw) - 8}, of which {MOST_HEADER} may be")
    head = _json(raw[8 : 8 + length], "header")
    texts = head.pop("__metadata__", {})
    if not isinstance(texts, dict) or not isinstance(texts.get("meta"), str):
        raise ValueError("its header has no text 'meta' in __metadata__")
    if len(head) > MOST_ENTRIES:
        raise ValueError(f"it has {len(head)} tensors, more than {MOST_ENTRIES}")
    body = memoryview(raw)[8 + length :]
    arrays: dict[str, Array] = {}
    places: list[tuple[int, int]] = []
    for name, entry in head.items():
        first, last, arrays[name] = _tensor(body, name, entry)
        places.append((first, last))
    end = 0
    for first, last in sorted(places):
        if first != end:
            raise ValueError(f"its tensors overlap or leave a hole at byte {min(first, end)}")
        end = last
    if end != len(body):
        raise ValueError(f"it has {len(body) - end} bytes behind its tensors")
    return _json(texts["meta"].encode(), "'meta'"), arrays


def _read(path: Path) -> bytes:
    with open(path, "rb") as file:
        raw = file.read(MOST_BYTES + 1)
    if len(raw) > MOST_BYTES:
        raise ValueError(f"it has more than {MOST_BYTES} bytes")
    return raw


def _parse(path: Path, raw: bytes) -> Model:
    if raw[:4] == b"PK\x03\x04":
        return build_model(*_read_npz(raw))
    if path.suffix == ".safetensors":
        return build_model(*_read_safetensors(raw))
    raise ValueError("it is neither an npz file nor named .safetensors")


def _load(path: Path, sha256: str | None = None) -> Model:
    try:
        raw = _read(path)
        if sha256 is not None and hashlib.sha256(raw).hexdigest() != sha256:
            raise ValueError(
                f"its SHA-256 is {hashlib.sha256(raw).hexdigest()}, not {sha256} as in {MANIFEST}"
            )
        return _parse(path, raw)
    except FileNotFoundError:
        raise
    except _UNREADABLE as error:
        text = str(error) or type(error).__name__
        raise ValueError(f"{os.fspath(path)!r} is not a model file: {text}") from None


# ------------------------------------------------------------------------------------------------ shipped


def _manifest() -> dict[str, dict[str, str]]:
    """Of every shipped model its file and the file's SHA-256."""
    path = FOLDER / MANIFEST
    if not path.exists():
        return {}
    try:
        models = _json(_read(path), MANIFEST)["models"]
        for entry in models.values():
            if Path(entry["file"]).name != entry["file"] or len(bytes.fromhex(entry["sha256"])) != 32:
                raise ValueError(f"entry {entry!r}")
    except _UNREADABLE as error:
        raise ValueError(f"{os.fspath(path)!r} is damaged: {error}") from None
    return dict(models)


def list_models() -> list[str]:
    """Names of the trained models that come with the package, for `load_model` and ``model=``.

    Returns
    -------
    list of str
        Sorted. ``"learned_mg_2d"`` and ``"learned_mg_3d"`` are what ``model="learned_mg"`` chooses from.

    Raises
    ------
    ValueError
        If the installation is damaged.

    Examples
    --------
    >>> from aitken.linalg import list_models
    >>> all(isinstance(name, str) for name in list_models())
    True
    """
    return sorted(_manifest())


def load_model(name_or_path: str | os.PathLike[str], *, dtype: str | None = None) -> Model:
    """A trained model, from the package or from a file.

    Files are npz, or safetensors by that ending, with a JSON entry ``meta``. They are read as data: nothing
    is unpickled or executed.

    Parameters
    ----------
    name_or_path : str or path
        A name of `list_models`, or a file. A string with a suffix or a separator is a file.
    dtype : {"float32", "bfloat16"}, optional
        In which a direction network is to be applied; float32 by default.

    Returns
    -------
    ConvolutionalModel or LearnedMultigrid
        What ``model=`` of `deep_conjugate_direction` takes.

    Raises
    ------
    TypeError
        If `name_or_path` is neither text nor a path.
    FileNotFoundError
        If there is no such file.
    ValueError
        For an unknown name; for a file that is malformed, cut short, larger than 64 MiB, of an unknown
        format, kind or shape, that holds anything but finite floating point numbers, or that is shipped and
        was changed. The message names the file and what is wrong. For a `dtype` that the model has not.

    Examples
    --------
    >>> import os, tempfile
    >>> import numpy as np
    >>> from aitken.linalg import load_model, save_model
    >>> from aitken.linalg._deepcg_networks import LearnedMultigrid, cycle_shapes
    >>> arrays = {name: np.zeros(shape) for name, shape in cycle_shapes(2, 2).items()}
    >>> model = LearnedMultigrid({**arrays, "omega": np.array([1.2, 0.6])}, ndim=2)
    >>> path = os.path.join(tempfile.mkdtemp(), "mine.npz")
    >>> save_model(path, model)
    >>> load_model(path).ndim
    2
    """
    if not isinstance(name_or_path, str | os.PathLike):
        raise TypeError(f"`name_or_path` must be text or a path, not {type(name_or_path).__name__}")
    path = Path(name_or_path)
    named = isinstance(name_or_path, str) and path.name == name_or_path and not path.suffix
    known = _manifest() if named else {}
    if named and name_or_path in known:
        entry = known[str(name_or_path)]
        model = _load(FOLDER / entry["file"], entry["sha256"])
    elif named and not path.is_file():
        names = ", ".join(sorted(known)) or "none are installed"
        raise ValueError(f"`name_or_path` is {name_or_path!r}; shipped models: {names}")
    else:
        model = _load(path)
    if dtype is None:
        return model
    if isinstance(model, LearnedMultigrid):
        if dtype != "float32":
            raise ValueError(f"`dtype` is {dtype!r}; model {model.name!r} has float32 alone")
        return model
    return model.with_dtype(dtype)


# ------------------------------------------------------------------------------------------------ writing


def _safetensors(meta: Mapping[str, Any], arrays: Mapping[str, Array]) -> bytes:
    head: dict[str, Any] = {"__metadata__": {"meta": json.dumps(meta)}}
    end = 0
    for name, array in arrays.items():
        head[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": [end, end + array.nbytes]}
        end += array.nbytes
    text = json.dumps(head).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8
    return struct.pack("<Q", len(text)) + text + b"".join(a.astype("<f4").tobytes() for a in arrays.values())


def save_model(path: str | os.PathLike[str], model: Model) -> None:
    """Write a model to a file: there afterwards, or as it was before.

    Parameters
    ----------
    path : str or path
        Where; an ending ``.safetensors`` chooses that format, every other npz.
    model : ConvolutionalModel or LearnedMultigrid
        As from `load_model` or `train_model`.

    Raises
    ------
    TypeError
        If `model` is no such model, or its `meta` holds what JSON cannot.
    OSError
        If the file cannot be written.
    """
    if not isinstance(model, ConvolutionalModel | LearnedMultigrid):
        raise TypeError(f"`model` must be a trained model, not {type(model).__name__}")
    target = Path(path)
    if target.suffix != ".safetensors":
        _files.save_npz(target, model.meta, model.arrays, name="meta")
        return
    raw = _safetensors(model.meta, model.arrays)

    def write(temporary: Path) -> None:
        temporary.write_bytes(raw)

    _files.publish_as(target, write)


__all__ = ["build_model", "list_models", "load_model", "save_model"]
