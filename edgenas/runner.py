"""What runs on a board: one file, no edgenas import; Python 3.9, numpy and a runtime.

``python runner.py JOB.json`` prints JSON lines and stops when nobody reads them any more.
JOB: ``{"verb": ..., "backend": "onnxruntime" | "litert", "threads": 1, ...}``; "affinity", where it
is given, is "big", "little", or the numbers of the cores to keep to ("4-7", "0,2").

probe    -> {"event": "end", "fingerprint": {...}, "facts": {...}}
time     "models": [{"id", "path"}], "visits": [[round, id], ...], "visit_ms", "min_calls",
         "max_calls", "warm_ms"
         -> {"event": "loading", "id"}          before each model
            {"id", "status", "reason"}          a model that cannot be run; its visits are left out
            {"event": "loaded"}
            {"id", "round", "ns": [...]}        each visit, in the order given
            {"event": "end", "timed_ns"}
predict  "model", "inputs" (.npy, normalised NCHW float32), "output" (.npy, float32), "batch"
         -> {"event": "progress", "done", "total"}, {"event": "end"}
Any verb -> {"event": "refused", "reason"}      the board lacks something; says what to install
"""

import gc
import importlib
import importlib.util
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

CPUS = "/sys/devices/system/cpu"
Call = Callable[[], object]
Emit = Callable[[Mapping[str, Any]], None]


class Refused(Exception):
    """The board cannot do what the job asks for."""


class Backend(Protocol):
    """A runtime with one model format."""

    version: str

    def load(self, path: str) -> Call:
        """A call that runs the model once, inputs and outputs in place."""
        ...

    def predict(self, path: str, inputs: Any, batch: int) -> Iterator[Any]:
        """Float32 outputs of NCHW float32 ``inputs``, a batch at a time."""
        ...


def _package(name: str, install: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as e:
        raise Refused(
            f"the Python package {e.name} is not installed there: "
            f"{sys.executable} -m pip install {install}"
        ) from e


def _filled(shape: Any, dtype: Any) -> Any:
    np = importlib.import_module("numpy")
    random = np.random.default_rng(0)
    kind = np.dtype(dtype)
    if kind.kind == "f":
        return random.standard_normal(shape).astype(kind)
    limits = np.iinfo(kind)
    return random.integers(limits.min, limits.max, shape, kind, endpoint=True)


class OnnxRuntime:
    """ONNX files on the CPU provider; io-binding, so that no copy is timed."""

    def __init__(self, threads: int) -> None:
        os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # else it writes into ~/.cache
        self.ort = _package("onnxruntime", "onnxruntime")
        self.version = str(self.ort.__version__)
        self.threads = threads

    def _session(self, path: str) -> Any:
        options = self.ort.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.execution_mode = self.ort.ExecutionMode.ORT_SEQUENTIAL
        options.log_severity_level = 3
        return self.ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def load(self, path: str) -> Call:
        """One batch-1 run of the file at ``path``."""
        session, value = self._session(path), self.ort.OrtValue.ortvalue_from_numpy
        types = {"float": "float32", "float16": "float16", "double": "float64"}
        feeds = {}
        for i in session.get_inputs():
            kind = i.type[len("tensor(") : -1]
            shape = [d if isinstance(d, int) else 1 for d in i.shape]
            feeds[i.name] = _filled(shape, types.get(kind, kind))
        binding = session.io_binding()
        for name, array in feeds.items():
            binding.bind_ortvalue_input(name, value(array))
        for output, array in zip(session.get_outputs(), session.run(None, feeds)):  # noqa: B905
            binding.bind_ortvalue_output(output.name, value(array))
        return lambda: session.run_with_iobinding(binding)

    def predict(self, path: str, inputs: Any, batch: int) -> Iterator[Any]:
        """The first output of the file at ``path``."""
        session = self._session(path)
        entry = session.get_inputs()[0]
        if isinstance(entry.shape[0], int):
            batch = entry.shape[0]
        for x in _batches(inputs, batch):
            yield session.run(None, {entry.name: x})[0]


def _litert() -> tuple[Any, str]:
    """LiteRT's module and its package; its forerunner's on boards that have no other."""
    newest, oldest = "ai_edge_litert.interpreter", "tflite_runtime.interpreter"
    try:
        return importlib.import_module(newest), "ai-edge-litert"
    except ModuleNotFoundError:
        if importlib.util.find_spec("tflite_runtime"):
            return importlib.import_module(oldest), "tflite-runtime"
        return _package(newest, "ai-edge-litert"), "ai-edge-litert"


class LiteRt:
    """TFLite files on the interpreter with its default XNNPACK delegate."""

    def __init__(self, threads: int) -> None:
        module, name = _litert()
        self.interpreter = module.Interpreter
        self.version = importlib.import_module("importlib.metadata").version(name)
        self.threads = threads

    def _open(self, path: str) -> Any:
        return self.interpreter(model_path=path, num_threads=self.threads)

    def load(self, path: str) -> Call:
        """One run of the file at ``path``."""
        interpreter = self._open(path)
        interpreter.allocate_tensors()
        for i in interpreter.get_input_details():
            interpreter.set_tensor(i["index"], _filled(i["shape"], i["dtype"]))
        call: Call = interpreter.invoke
        return call

    def predict(self, path: str, inputs: Any, batch: int) -> Iterator[Any]:
        """The first output of the file at ``path``, quantised and dequantised as it asks."""
        np = importlib.import_module("numpy")
        interpreter = self._open(path)
        entry = interpreter.get_input_details()[0]
        c, h, w = inputs.shape[1:]
        last = tuple(entry["shape"][1:]) == (h, w, c)
        interpreter.resize_tensor_input(
            entry["index"], [batch, h, w, c] if last else [batch, c, h, w]
        )
        interpreter.allocate_tensors()
        exit_ = interpreter.get_output_details()[0]
        for x in _batches(inputs, batch):
            x = np.ascontiguousarray(x.transpose(0, 2, 3, 1)) if last else x
            if np.dtype(entry["dtype"]).kind != "f":
                limits = np.iinfo(entry["dtype"])
                scale, zero = entry["quantization"]
                x = np.clip(np.rint(x / scale) + zero, limits.min, limits.max)
            interpreter.set_tensor(entry["index"], x.astype(entry["dtype"]))
            interpreter.invoke()
            y = interpreter.get_tensor(exit_["index"])
            if y.dtype.kind != "f":
                scale, zero = exit_["quantization"]
                y = (y.astype(np.float32) - zero) * scale
            yield y


# how the runtimes say that they have no kernel for an operator
NO_SUCH_OP = (
    "NOT_IMPLEMENTED",
    "is not a registered function",
    "No Op registered for",
    "Didn't find op for builtin",
    "nresolved custom op",
)

BACKENDS: Mapping[str, Callable[[int], Backend]] = {"onnxruntime": OnnxRuntime, "litert": LiteRt}


def _batches(inputs: Any, batch: int) -> Iterator[Any]:
    """Slices of ``inputs``, the last one filled up with zeros."""
    np = importlib.import_module("numpy")
    for start in range(0, len(inputs), batch):
        x = np.ascontiguousarray(inputs[start : start + batch], np.float32)
        if len(x) < batch:
            x = np.concatenate([x, np.zeros((batch - len(x), *x.shape[1:]), np.float32)])
        yield x


def timed(call: Call, visit_ns: float, min_calls: int, max_calls: int) -> list[int]:
    """Nanoseconds of each call after one untimed one, until ``visit_ns`` are spent."""
    clock = time.perf_counter_ns
    call()
    samples: list[int] = []
    spent = 0
    while len(samples) < max_calls and (spent < visit_ns or len(samples) < min_calls):
        start = clock()
        call()
        took = clock() - start
        samples.append(took)
        spent += took
    return samples


def _reason(e: BaseException) -> str:
    return (" ".join(str(e).split()) or type(e).__name__)[:300]


def time_models(job: Mapping[str, Any], backend: Backend, emit: Emit) -> None:
    """Load every model, then visit them in the order given."""
    calls: dict[str, Call] = {}
    warm_ns = 1e6 * job["warm_ms"]
    for model in job["models"]:
        emit({"event": "loading", "id": model["id"]})
        try:
            call = backend.load(model["path"])
            timed(call, warm_ns, 1, sys.maxsize)
            calls[model["id"]] = call
        except Exception as e:  # runtimes share no class of errors; it is the model's row
            status = "unsupported" if any(text in str(e) for text in NO_SUCH_OP) else "failed"
            emit({"id": model["id"], "status": status, "reason": _reason(e)})
    emit({"event": "loaded"})
    visit_ns, total = 1e6 * job["visit_ms"], 0
    gc.disable()
    for number, name in job["visits"]:
        if name not in calls:
            continue
        try:
            ns = timed(calls[name], visit_ns, job["min_calls"], job["max_calls"])
        except Exception as e:  # as above: one model failing must not end the others
            del calls[name]
            emit({"id": name, "status": "failed", "reason": _reason(e)})
            continue
        total += sum(ns)
        emit({"id": name, "round": number, "ns": ns})
    emit({"event": "end", "timed_ns": total})


def predict(job: Mapping[str, Any], backend: Backend, emit: Emit) -> None:
    """Run a model on an array of inputs and write the array of its outputs."""
    np = importlib.import_module("numpy")
    inputs = np.load(job["inputs"], mmap_mode="r")
    done, outputs = 0, []
    for y in backend.predict(job["model"], inputs, min(job["batch"], len(inputs))):
        outputs.append(np.array(y, np.float32))
        done = min(done + len(y), len(inputs))
        emit({"event": "progress", "done": done, "total": len(inputs)})
    np.save(job["output"], np.concatenate(outputs)[: len(inputs)])
    emit({"event": "end"})


def _read(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace").strip("\0\n ")
    except OSError:
        return ""


def _fields(path: str) -> dict[str, str]:
    pairs = (line.partition(":") for line in _read(path).splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def _numbers(folder: str, pattern: str) -> list[int]:
    texts = (_read(str(path)) for path in Path(folder).glob(pattern))
    return [int(text) for text in texts if text.lstrip("-").isdigit()]


def cores_meant(affinity: str) -> set[int]:
    """The cores that "big", "little", "4-7" or "0,2" means on this board."""
    if affinity not in ("big", "little"):
        pairs = [part.split("-") for part in affinity.split(",")]
        return {core for pair in pairs for core in range(int(pair[0]), int(pair[-1]) + 1)}
    speed = {
        int(path.parent.parent.name[3:]): int(_read(str(path)) or 0)
        for path in Path(CPUS).glob("cpu[0-9]*/cpufreq/cpuinfo_max_freq")
    }
    slowest = min(speed.values(), default=0)
    little = {core for core, khz in speed.items() if khz == slowest}
    if len(little) in (0, len(speed)):
        raise Refused(f"its cores are all alike: {affinity} means none of them; give numbers")
    return little if affinity == "little" else set(speed) - little


def keep_to(affinity: str) -> None:
    """Run on those cores alone."""
    cores = cores_meant(affinity)
    try:
        os.sched_setaffinity(0, cores)
    except (AttributeError, OSError) as e:
        raise Refused(f"it cannot be kept to cores {sorted(cores)}: {_reason(e)}") from e


def cpu_model() -> str:
    """What the processor calls itself, or the board where it does not."""
    info = _fields("/proc/cpuinfo")
    board = _read("/proc/device-tree/model")
    part = " ".join(info[k] for k in ("CPU implementer", "CPU part") if k in info)
    return info.get("model name") or f"{board} {part}".strip() or platform.processor() or "unknown"


def probe(job: Mapping[str, Any], backend: Backend, emit: Emit) -> None:
    """Say what the board is (``fingerprint``) and how it stands now (``facts``)."""
    fingerprint = {
        "cpu": cpu_model(),
        "arch": platform.machine(),
        "cores": os.cpu_count() or 1,
        "runtime": job["backend"],
        "runtime_version": backend.version,
        "threads": job["threads"],
    }
    if job.get("affinity"):
        fingerprint["affinity"] = ",".join(map(str, sorted(os.sched_getaffinity(0))))
    facts: dict[str, Any] = {
        "kernel": platform.release(),
        "python": platform.python_version(),
        "memory": _fields("/proc/meminfo").get("MemTotal", ""),
        "governor": _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "load_average": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else "",
    }
    if hasattr(os, "sched_getaffinity"):
        facts["affinity"] = sorted(os.sched_getaffinity(0))
    hottest = max(_numbers("/sys/class/thermal", "thermal_zone*/temp"), default=None)
    if hottest is not None:
        facts["temperature_c"] = hottest / 1000
    clock = "cpu[0-9]*/cpufreq/"
    now, most = (_numbers(CPUS, clock + name) for name in ("scaling_cur_freq", "cpuinfo_max_freq"))
    if now and most:
        facts["frequency_share"] = round(max(now) / max(most), 3)
    known = {k: v for k, v in facts.items() if v != ""}
    emit({"event": "end", "fingerprint": fingerprint, "facts": known})


VERBS: Mapping[str, Callable[[Mapping[str, Any], Backend, Emit], None]] = {
    "probe": probe,
    "time": time_models,
    "predict": predict,
}


def main() -> int:
    """Run the job file named on the command line."""
    here = str(Path(__file__).resolve().parent)
    sys.path[:] = [p for p in sys.path if p != here]  # neighbours of this file are not modules
    lines = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a runtime prints is no answer

    def emit(event: Mapping[str, Any]) -> None:
        try:
            lines.write(json.dumps(event) + "\n")
            lines.flush()
        except BrokenPipeError:
            os._exit(141)  # the host is gone

    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    try:
        if job.get("affinity"):
            keep_to(job["affinity"])
        _package("numpy", "numpy")
        VERBS[job["verb"]](job, BACKENDS[job["backend"]](job["threads"]), emit)
    except Refused as e:
        emit({"event": "refused", "reason": str(e)})
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
