"""A script on its way through a login shell that is not ours: quoting, and where its answer begins.

A login may print at its start and its end, and its shell may be no POSIX shell at all.
"""

import re
from dataclasses import dataclass

_ODD = re.compile(rb"[^A-Za-z0-9 _./:;,=+@(){}<>|&*?#^~\[\]-]")


@dataclass(frozen=True)
class Spoken:
    """What came back of a command. ``reached``: whether the way there is known to have held."""

    out: bytes
    err: str
    reached: bool


def framed(script: str, mark: str) -> str:
    """``script`` between two lines that nothing else prints, its exit status in the second."""
    return (
        f"echo; echo {mark} begins; echo {mark} begins >&2\n(\n{script}\n)\ncode=$?\n"
        f"echo; echo {mark} ended $code\nexit 0"
    )


def begun(script: str, out: bytes | bytearray) -> bool:
    """Whether ``out`` shows that ``script``, as of ``framed``, has begun."""
    first = script.partition("echo; echo ")[2].partition(";")[0]
    return f"\n{first}\n".encode() in out


def unframed(out: bytes, err: str, mark: str) -> tuple[bytes, str, int | None] | None:
    """What a script framed by ``mark`` printed, and its exit status if it came to its end.

    None where it did not even begin.
    """
    _, began, rest = out.partition(f"\n{mark} begins\n".encode())
    if not began:
        return None
    said, ended, last = rest.rpartition(f"\n{mark} ended ".encode())
    code, whole, _ = last.partition(b"\n")
    complaint = err.rpartition(f"{mark} begins\n")[2]
    if not ended or not whole or not code.isdigit():
        return rest, complaint, None
    return said, complaint, int(code)


def any_shell(script: str) -> str:
    """A line that has sh run ``script`` from within any shell: no quote in it, no new line, no !.

    csh takes neither of them within quotes.
    """
    raw = script.encode("utf-8", "surrogateescape")
    escaped = _ODD.sub(lambda found: b"\\0%03o" % found[0][0], raw)
    return f'sh -c \'eval "$(printf %b "{escaped.decode()}")"\''


def last(said: str) -> str:
    """The last lines of it, as one."""
    lines = [line.strip() for line in said[-4000:].splitlines() if line.strip()]
    return " | ".join(line[-200:] for line in lines[-3:])
