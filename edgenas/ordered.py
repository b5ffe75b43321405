"""Equal tensors and metadata are equal bytes: safetensors itself writes metadata in any order."""

import json

_LENGTH_BYTES = 8  # of the header, before it; the tensors behind it begin at a multiple of them


def ordered(data: bytes) -> bytes:
    """A safetensors file with its metadata sorted by key."""
    start = _LENGTH_BYTES + int.from_bytes(data[:_LENGTH_BYTES], "little")
    header = json.loads(data[_LENGTH_BYTES:start])
    said = {"__metadata__": dict(sorted(header.pop("__metadata__", {}).items()))}
    text = json.dumps({**said, **header}, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _LENGTH_BYTES)
    return len(text).to_bytes(_LENGTH_BYTES, "little") + text + data[start:]
