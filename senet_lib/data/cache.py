"""A cache of decoded data sets, so that a process need not decode 60,000 images again.

Each source has one uncompressed safetensors file in the project's `data/cache/`, or in $SENET_CACHE if set. The file
is memory-mapped, so parallel runs share its memory. At every load its content is hashed and compared with the stored
fingerprints; a damaged file is set aside and rebuilt, with a warning. Writing is atomic and under a lock, so a second
process waits for the first. If the folder is not writable, loading warns and decodes the images every time.
"""

import contextlib
import hashlib
import json
import os
import re
import warnings
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from senet_lib.data.dataset import Canonical, Split, fingerprint_of, reason, sample_digests
from senet_lib.data.sources import expanded
from senet_lib.files import exclusive, set_aside
from senet_lib.project import project_root

LAYOUT = 3  # version of the file's format and content: increase it when decoding changes


def cache_folder() -> Path:
    """The folder in $SENET_CACHE if set, otherwise the project's `data/cache/`."""
    return expanded(os.environ.get("SENET_CACHE") or project_root() / "data" / "cache")


def load_or_build(folder: Path, name: str, where: str, state: list, build: Callable[[], Canonical]) -> Canonical:
    """The result of `build`, from the cache as long as `state`, the state of the files in `where`, is unchanged."""
    # one file per name and location: it is replaced when the source files change, so old files do not accumulate
    location = hashlib.sha256(json.dumps([name, where]).encode()).hexdigest()[:16]
    file = folder / f"{re.sub('[^a-z0-9]+', '-', name.lower())[:40]}-{location}.safetensors"
    source = json.dumps([LAYOUT, name, where, state])
    data = _load(file, source)
    if data is not None:
        return data
    with exclusive(file.with_suffix(".lock")):
        data = _load(file, source, warn=True)  # another process may have built it while this process waited
        if data is None:
            data = build()
            _save(file, source, data)
        return data


def _load(file: Path, source: str, warn: bool = False) -> Canonical | None:
    """The cached data set; None if it is missing, damaged or from another source."""
    try:
        if file.exists() and not file.is_file():
            raise ValueError("not a file")  # opening a pipe would wait for ever
        with safe_open(file, framework="pt") as stored:
            header = (stored.metadata() or {}).get("description", "")
            if hashlib.sha256(header.encode()).hexdigest() != stored.metadata().get("sha256"):
                raise ValueError("header changed")
            description = json.loads(header)
            if description["source"] != source:
                return None
            splits = {
                split: Split(stored.get_tensor(f"{split}_images"), stored.get_tensor(f"{split}_labels"))
                for split in ("train", "test")
            }
        for split, tensors in splits.items():
            if _kinds(tensors) != description["kinds"][split]:
                raise ValueError(f"{split} shapes changed")  # which the digests do not contain
            digests = sample_digests(*tensors)
            if fingerprint_of(digests) != description["fingerprints"][split] or digests != sorted(digests):
                raise ValueError(f"{split} images changed")
        return Canonical(tuple(description["classes"]), splits["train"], splits["test"], description["fingerprints"])
    except FileNotFoundError:
        return None
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        if warn:
            _set_aside(file, error)
        return None


def _kinds(split: Split) -> list:
    return [[str(tensor.dtype), *tensor.shape] for tensor in split]


def _set_aside(file: Path, error: Exception) -> None:
    try:
        outcome = f"is set aside as {set_aside(file).name!r}"
    except OSError as failed:
        outcome = f"could not be set aside ({reason(failed)})"
    warnings.warn(
        f"the cached data set {str(file)!r} is damaged ({reason(error)}), {outcome} and is rebuilt", stacklevel=2
    )


def _save(file: Path, source: str, data: Canonical) -> None:
    kinds = {"train": _kinds(data.train), "test": _kinds(data.test)}
    description = json.dumps(
        {"source": source, "classes": data.classes, "fingerprints": data.fingerprints, "kinds": kinds}
    )
    metadata = {"description": description, "sha256": hashlib.sha256(description.encode()).hexdigest()}
    tensors = {
        "train_images": data.train.images,
        "train_labels": data.train.labels,
        "test_images": data.test.images,
        "test_labels": data.test.labels,
    }
    partial = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        for left in file.parent.glob(f".{file.name}.*.tmp"):  # left by a killed process; the lock is held here
            left.unlink()
        with open(partial, "wb") as written:  # save_file would make the file readable by its owner only
            written.write(save(tensors, metadata))
            written.flush()
            os.fsync(written.fileno())
        os.replace(partial, file)
    except (SafetensorError, OSError) as error:
        warnings.warn(
            f"the decoded data set could not be cached in {str(file.parent)!r} ({error}); set SENET_CACHE to a "
            "writable folder to avoid decoding it at every load",
            stacklevel=2,
        )
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
