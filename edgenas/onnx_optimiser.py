"""What ONNX Runtime makes of a file before it runs it, found in a process of its own.

A file of a few hundred bytes can ask for any memory and time: constants are folded when it is
loaded. ``python -I onnx_optimiser.py MODEL OUT BYTES SECONDS`` loads it within bounds.
"""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from edgenas.scratch import require_room, scratch_folder
from edgenas.supervisor import end, supervised

MEMORY_BYTES, OF_SIZE = 1 << 30, 8  # that loading may take beside the runtime; times the file
SECONDS, PER_MB = 10, 1
REFUSED, OUT_OF_MEMORY = 3, 4  # exit codes

_CHILD = """
import os, re, resource, sys

model, out, most, seconds = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
import onnxruntime

options = onnxruntime.SessionOptions()
options.log_severity_level = 4
options.intra_op_num_threads = 1
options.optimized_model_filepath = out
with open("/proc/self/status", encoding="utf-8") as status:
    held = 1024 * int(re.findall(r"VmData:\\s+(\\d+)", status.read())[0])
resource.setrlimit(resource.RLIMIT_DATA, (held + most, held + most))
resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
try:
    onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
except Exception as e:
    text = " ".join(str(e).split()) or type(e).__name__
    print(text[:1000], file=sys.stderr)
    short = isinstance(e, MemoryError) or re.search("bad_alloc|allocat", text)
    sys.exit(4 if short else 3)
"""


def optimised(path: Path, size_bytes: int) -> bytes:
    """The file at ``path``, ``size_bytes`` with all that belongs to it, as it is executed.

    Raises ValueError with what the runtime says, or which bound was met; OSError of a full disk.
    """
    most = MEMORY_BYTES + OF_SIZE * size_bytes
    seconds = SECONDS + PER_MB * (size_bytes >> 20)
    with scratch_folder() as folder:
        out, said = folder / "optimised.onnx", folder / "said"
        argv = [sys.executable, "-c", _CHILD, str(path), str(out), str(most), str(seconds)]
        environment: Mapping[str, str] = {**os.environ, "ORT_DISABLE_TELEMETRY": "1"}
        with said.open("wb") as errors:
            child = subprocess.Popen(
                supervised(argv), env=environment, stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL, stderr=errors, start_new_session=True,
            )  # fmt: skip
        try:
            code = child.wait(20 * seconds)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            end(child)
        if code == 0:
            return out.read_bytes()
        text = said.read_text(encoding="utf-8", errors="replace").strip()
        require_room(folder, 2 * size_bytes)  # it tells a full disk from no bad file
        raise ValueError(_why(code, text, size_bytes, most, seconds))


def _why(code: int | None, text: str, size_bytes: int, most: int, seconds: int) -> str:
    first = (text.splitlines() or ["it said nothing"])[0]
    if code == REFUSED:
        return first
    if code == OUT_OF_MEMORY:
        return (
            f"ONNX Runtime wants more memory for it than {most >> 20} MB, the most for a file of "
            f"{size_bytes} bytes: it makes large constants of small ones; fold them beforehand "
            f"({first[:200]})"
        )
    if code is None or code == -24:  # SIGXCPU
        return (
            f"ONNX Runtime was not done with it within {seconds} s, the most for a file of "
            f"{size_bytes} bytes: its constants take that long to fold; fold them beforehand"
        )
    ended = f"signal {-code}" if code < 0 else f"code {code}"
    return f"ONNX Runtime ended with {ended} while loading it: {first[:200]}"
