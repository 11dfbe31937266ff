"""Random damage to a file's bytes, as a failing disk, an interrupted copy or a hostile hand may do it."""

import json
import os

KINDS = ("cut", "empty", "bit", "bytes", "digit", "zeros", "other", "twice", "inserted", "value", "value")
VALUES = (None, "", "../..", [], {}, -1, 0, 1e999, True, "x", ["x"], {"x": 1}, 10**400)


def budget(rounds, seconds):
    """How many rounds and seconds a fuzz test takes, and its seed: few by default; SENET_FUZZ_SECONDS allows more."""
    longer = os.environ.get("SENET_FUZZ_SECONDS")
    return (10**9, float(longer)) if longer else (rounds, seconds)


def seed():
    return os.environ.get("SENET_FUZZ_SEED", "0")


def mutated(content, rng, others, kinds=KINDS):
    """The content cut, emptied, repeated, with changed bits, bytes, digits or JSON values, or that of another file."""
    kind = rng.choice(kinds)
    at = rng.randrange(max(1, len(content)))
    if kind == "cut":
        return content[:at]
    if kind == "empty":
        return b""
    if kind == "zeros":
        return bytes(len(content))
    if kind == "twice":
        return content + content[:at]
    if kind == "other":
        return rng.choice(others)
    if kind == "inserted":
        return content[:at] + rng.randbytes(rng.randint(1, 9)) + content[at:]
    if kind == "value":
        return with_another_value(content, rng)
    places = [i for i, byte in enumerate(content) if chr(byte).isdigit()] if kind == "digit" else range(len(content))
    changed = bytearray(content)
    for place in rng.sample(places, min(len(places), 1 if kind == "bit" else rng.randint(1, 4))):
        changed[place] = rng.choice(b"0123456789") if kind == "digit" else changed[place] ^ 1 << rng.randrange(8)
    return bytes(changed)


def with_another_value(content, rng):
    """JSON in which one value is another or missing; other content is unchanged."""
    try:
        whole = json.loads(content)
    except (ValueError, RecursionError):
        return content
    places = []

    def collect(value):
        for key in value if isinstance(value, dict) else range(len(value)):
            places.append((value, key))
            if isinstance(value[key], dict | list):
                collect(value[key])

    if isinstance(whole, dict | list):
        collect(whole)
    if not places:
        return content
    holder, key = rng.choice(places)
    if rng.random() < 0.2:
        del holder[key]
    else:
        holder[key] = rng.choice(VALUES)
    return json.dumps(whole).encode()
