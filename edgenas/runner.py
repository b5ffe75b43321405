"""What runs on a board: one file, no edgenas import; Python 3.9, numpy and a runtime.

It is pushed to boards as it is, so it stays one file however long: nothing can be moved out of it.

``python runner.py JOB.json`` prints JSON lines and stops when nobody reads them any more.
JOB: ``{"verb": ..., "backend": a name of BACKENDS, "threads": 1, ...}``; "affinity", where it
is given, is "big", "little", or the numbers of the cores to keep to ("4-7", "0,2"); "provider", for
onnxruntime, its execution provider.

probe    -> {"event": "end", "fingerprint": {...}, "facts": {...}}
time     "models": [{"id", "path"}], "visits": [[round, id], ...], "visit_ms", "min_calls",
         "max_calls", "warm_ms"
         -> {"event": "loading", "id"}          before each model
            {"id", "status", "reason"}          a model that cannot be run; its visits are left out
            {"event": "placed", "id", "nodes", "outside"}   how many nodes the accelerator or
                                                delegate left to others, where there is one
            {"event": "loaded"}
            {"id", "round", "ns": [...], "uj"}  each visit, in the order given; microjoules that the
                                                whole visit took, where something counts them
            {"event": "end", "timed_ns"}
count    "models", the first of them small: it is called more often, "calls": as often each is
         counted; only where COUNTER names a counter's file
         -> "loading" and refusals as of "time"
            {"id", "counts": {a class of instructions: how many of them one call executes}}
            {"event": "end"}
predict  "model", "inputs" (.npy, normalised NCHW float32), "output" (.npy, float32), "batch"
         -> {"event": "progress", "done", "total"}, {"event": "end"}
memory   "model", "empty" -> {"event": "end", "bytes"}   what loading it and calling it adds to a
         process that has called the empty one, at the most; null where that cannot be told
Any verb -> {"event": "refused", "reason"}      the board lacks something; says what to install
"""

import gc
import importlib
import importlib.util
import json
import os
import platform
import signal
import struct
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

CPUS = "/sys/devices/system/cpu"
STATUS = "/proc/self/status"
POWERCAP = "/sys/class/powercap"
CGROUPS, CGROUP = "/sys/fs/cgroup", "/proc/self/cgroup"
COUNTER = "EDGENAS_COUNTER"  # set by an emulator; its file holds how many of each class so far
WARM = 20  # Python calls a function with fewer instructions once it knows it
# What a file may take, so that a few hundred bytes do not take the whole machine: beside what its
# runtime holds, and for each byte of the file and of its inputs; seconds until its first answer.
MOST_BYTES, OF_FILE, OF_INPUTS, MOST_INPUTS = 2 << 30, 20, 256, 1 << 30
MOST_SECONDS, SECONDS_PER_MB = 60, 1
CLASSES = ("load", "store", "simd", "branch", "integer")
Call = Callable[[], object]  # returns nanoseconds where the device itself timed it
Emit = Callable[[Mapping[str, Any]], None]


class Refused(Exception):
    """The board cannot do what the job asks for."""


class Backend(Protocol):
    """A runtime with one model format. ``identity``: what else the board is known by: its GPU."""

    version: str
    identity: Mapping[str, Any]

    def load(self, path: str) -> Call:
        """A call that runs the model once, inputs and outputs in place."""
        ...

    def placed(self) -> tuple[int, int]:
        """Nodes of the model loaded last, and how many run outside of what was asked; or 0, 0."""
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
    if kind.itemsize > 2:  # a place in a table, or a mask: none is without the first two
        return random.integers(0, 1, shape, kind, endpoint=True)
    limits = np.iinfo(kind)
    return random.integers(limits.min, limits.max, shape, kind, endpoint=True)


def _of_one(name: str, sizes: Sequence[Any]) -> list[int]:
    """Sizes of an input at a batch of 1; what is no number above 0 is open."""
    given = [d if isinstance(d, int) and d > 0 else 0 for d in sizes]
    if 0 in given[1:]:
        shape = ", ".join(str(d) if d else "open" for d in given)
        raise ValueError(
            f"input {name!r} is ({shape}): only its first size may be open, for how long it takes "
            "hangs on the others; save the file with these fixed"
        )
    return [given[0] or 1, *given[1:]] if given else []


def _inputs(wanted: Mapping[Any, Any]) -> dict[Any, Any]:
    """Arrays of the shapes and types of ``wanted``, and room for what is computed of them."""
    np = importlib.import_module("numpy")
    size = 0
    for shape, dtype in wanted.values():
        count = 1
        for n in shape:
            count *= int(n)
        size += count * np.dtype(dtype).itemsize
    if size > MOST_INPUTS:
        raise ValueError(
            f"its inputs take {size >> 20} MB, and at most {MOST_INPUTS >> 20} are given"
        )
    _room(OF_INPUTS * size)
    return {name: _filled(shape, dtype) for name, (shape, dtype) in wanted.items()}


def _room(more_bytes: int, held: int = 0) -> None:
    """Let this process take ``more_bytes``: beyond ``held``, or beyond its limit so far."""
    try:
        resource = importlib.import_module("resource")
        soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
        if held or soft != resource.RLIM_INFINITY:
            resource.setrlimit(resource.RLIMIT_DATA, ((held or soft) + more_bytes, hard))
    except (ImportError, AttributeError, OSError, ValueError):
        pass  # a system without such limits, or with closer ones


def _limit() -> int:
    """Bytes that this process may take; 0 where there is no limit."""
    try:
        resource = importlib.import_module("resource")
        soft = resource.getrlimit(resource.RLIMIT_DATA)[0]
    except (ImportError, AttributeError, OSError):
        return 0
    return 0 if soft == resource.RLIM_INFINITY else int(soft)


def bound(job: Mapping[str, Any]) -> None:
    """Limit memory by the files of ``job``. Accelerators and emulators map more than they take."""
    paths = [model["path"] for model in job.get("models", ())]
    paths += [job[key] for key in ("model", "empty", "inputs") if key in job]
    held = _fields(STATUS).get("VmData", "")
    plain = job["backend"] == "litert" or job.get("provider", CPU_PROVIDER) == CPU_PROVIDER
    if not paths or not held or COUNTER in os.environ or not plain or "accelerator" in job:
        return
    size = sum(os.path.getsize(path) for path in paths)
    more = MOST_BYTES + OF_FILE * size + (64 << 20) * (os.cpu_count() or 1)
    if "inputs" in job:  # (n, c, h, w) float32
        np = importlib.import_module("numpy")
        shape = np.load(job["inputs"], mmap_mode="r").shape
        more += OF_INPUTS * 4 * int(np.prod(shape[1:])) * min(job["batch"], shape[0])
    _room(more, 1024 * int(held.split()[0]))


@contextmanager
def _soon(path: str, emit: Emit) -> Iterator[None]:
    """Refuse the job where the block, a first answer of the file at ``path``, takes too long."""
    if COUNTER in os.environ:
        yield
        return
    seconds = MOST_SECONDS + SECONDS_PER_MB * (os.path.getsize(path) >> 20)

    def late() -> None:
        emit({
            "event": "refused",
            "reason": f"it gave no answer within {seconds} s, the most for a file of its size: "
            "does it hold a loop without end?",
        })  # fmt: skip
        os._exit(3)

    timer = threading.Timer(seconds, late)
    timer.daemon = True
    timer.start()
    if hasattr(signal, "alarm"):  # where a runtime lets no other thread run meanwhile
        signal.alarm(seconds + 10)
    try:
        yield
    finally:
        timer.cancel()
        if hasattr(signal, "alarm"):
            signal.alarm(0)


CPU_PROVIDER = "CPUExecutionProvider"


class OnnxRuntime:
    """ONNX files on one execution provider; io-binding, so that no copy on the host is timed."""

    def __init__(self, job: Mapping[str, Any]) -> None:
        os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # else it reports, and writes into ~/.cache
        self.ort = _package("onnxruntime", "onnxruntime")
        self.version = str(self.ort.__version__)
        self.threads = job["threads"]
        self.provider = job.get("provider", CPU_PROVIDER)
        self.identity: Mapping[str, Any] = (
            {} if self.provider == CPU_PROVIDER else {"provider": self.provider}
        )
        self.placement: tuple[int, int] = 0, 0
        if self.provider == CPU_PROVIDER:
            return
        has = self.ort.get_available_providers()
        if self.provider not in has:
            raise Refused(
                f"its onnxruntime has no {self.provider}, only {', '.join(has)}: install the "
                "package of onnxruntime that has it"
            )

    def _options(self) -> Any:
        options = self.ort.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.execution_mode = self.ort.ExecutionMode.ORT_SEQUENTIAL
        options.log_severity_level = 3
        return options

    def _session(self, path: str) -> Any:
        if self.provider != CPU_PROVIDER:
            self._require_placed(path)
        return self.ort.InferenceSession(path, self._options(), providers=[self.provider])

    def _require_placed(self, path: str) -> None:
        """Fail where any node runs elsewhere; only a profile of a run says where each ran."""
        options = self._options()
        options.enable_profiling = True
        with tempfile.TemporaryDirectory() as folder:
            options.profile_file_prefix = folder + "/profile"
            session = self.ort.InferenceSession(path, options, providers=[self.provider])
            session.run(None, self._feeds(session))
            events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        ran = [
            event["args"]
            for event in events
            if event.get("cat") == "Node" and "provider" in event.get("args", {})
        ]
        others = [node["op_name"] for node in ran if node["provider"] != self.provider]
        self.placement = len(ran), len(others)
        if others:
            raise RuntimeError(
                f"{len(others)} of {len(ran)} nodes fell back from {self.provider} to the CPU: "
                + ", ".join(sorted(set(others)))
            )

    def placed(self) -> tuple[int, int]:
        """Known where another provider than the CPU is asked for."""
        return self.placement

    def _feeds(self, session: Any) -> dict[str, Any]:
        types = {"float": "float32", "float16": "float16", "double": "float64"}
        feeds = {}
        for i in session.get_inputs():
            kind = i.type[len("tensor(") : -1]
            feeds[i.name] = _of_one(i.name, i.shape), types.get(kind, kind)
        return _inputs(feeds)

    def load(self, path: str) -> Call:
        """One batch-1 run of the file at ``path``."""
        session, value = self._session(path), self.ort.OrtValue.ortvalue_from_numpy
        feeds = self._feeds(session)
        binding = session.io_binding()
        for name, array in feeds.items():
            binding.bind_ortvalue_input(name, value(array))
        for output, array in zip(session.get_outputs(), session.run(None, feeds)):
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

    def __init__(self, job: Mapping[str, Any]) -> None:
        module, name = _litert()
        self.interpreter = module.Interpreter
        self.version = importlib.import_module("importlib.metadata").version(name)
        self.threads = job["threads"]
        self.identity: Mapping[str, Any] = {}
        self.placement: tuple[int, int] = 0, 0

    def placed(self) -> tuple[int, int]:
        """How many operators XNNPACK left to the interpreter's own kernels."""
        return self.placement

    def _open(self, path: str) -> Any:
        return self.interpreter(model_path=path, num_threads=self.threads)

    def load(self, path: str) -> Call:
        """One run of the file at ``path``."""
        interpreter = self._open(path)
        interpreter.allocate_tensors()
        details = interpreter.get_input_details()
        for i in details:
            _of_one(i["name"], [int(d) for d in i.get("shape_signature", i["shape"])])
        for index, array in _inputs(
            {i["index"]: (i["shape"], i["dtype"]) for i in details}
        ).items():
            interpreter.set_tensor(index, array)
        if hasattr(interpreter, "_get_ops_details"):  # no public way to see the delegate's share
            self.placement = _delegated(interpreter._get_ops_details())
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


def _delegated(nodes: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
    """Operators, and how many of them no delegate took: those that lead to none of its outputs."""
    own = [node for node in nodes if node["op_name"] != "DELEGATE"]
    maker = {int(out): i for i, node in enumerate(own) for out in node["outputs"]}
    taken: set[int] = set()
    for delegate in nodes:
        if delegate["op_name"] == "DELEGATE":
            ends = {int(i) for i in delegate["inputs"]}
            todo = [int(out) for out in delegate["outputs"]]
            while todo:
                tensor = todo.pop()
                if tensor in ends or tensor not in maker or maker[tensor] in taken:
                    continue
                taken.add(maker[tensor])
                todo += [int(i) for i in own[maker[tensor]]["inputs"]]
    return len(own), len(own) - len(taken)


class Gpu:
    """A CUDA device by way of torch: its memory, its events, its graphs."""

    def __init__(self, job: Mapping[str, Any]) -> None:
        self.torch = _package("torch", "torch")
        if not self.torch.cuda.is_available():
            raise Refused("its torch sees no CUDA device: is there a GPU, a driver, a CUDA torch?")
        facts = self.torch.cuda.get_device_properties(0)
        self.identity: Mapping[str, Any] = {"gpu": facts.name, "batch": job.get("timed_batch", 1)}
        # what a model left in the cache would flatter the next call of the same model
        self.flush = self.torch.empty(
            2 * facts.L2_cache_size, dtype=self.torch.uint8, device="cuda"
        )

    def replayed(self, run: Callable[[], object]) -> Call:
        """``run``, captured once; a call replays it and says how long the GPU took, L2 flushed."""
        cuda = self.torch.cuda
        side = cuda.Stream()
        with cuda.stream(side):
            for _ in range(3):  # before a capture, libraries must have chosen their kernels
                run()
        cuda.synchronize()
        graph = cuda.CUDAGraph()
        with cuda.graph(graph, stream=side):
            run()
        start, end = (cuda.Event(enable_timing=True) for _ in range(2))

        def call() -> int:
            self.flush.zero_()
            start.record()
            graph.replay()
            end.record()
            end.synchronize()
            return int(1e6 * start.elapsed_time(end))

        return call


class Torch:
    """Files of edgenas/exporters/torch.py; on a GPU by graph replay, or on the CPU."""

    def __init__(self, job: Mapping[str, Any]) -> None:
        self.torch = _package("torch", "torch")
        self.version = str(self.torch.__version__)
        self.batch = job.get("timed_batch", 1)
        self.torch.set_num_threads(job["threads"])
        self.gpu = Gpu(job) if job["accelerator"] == "cuda" else None
        self.identity = {"batch": self.batch} if self.gpu is None else self.gpu.identity

    def placed(self) -> tuple[int, int]:
        """All of it runs where it was put."""
        return 0, 0

    def _opened(self, path: str) -> tuple[Callable[[Any], Any], list[int]]:
        torch, data = self.torch, Path(path).read_bytes()
        length = int.from_bytes(data[:8], "little")
        head = json.loads(data[8 : 8 + length])
        graph = json.loads(head.pop("__metadata__")["graph"])
        where = "cpu" if self.gpu is None else "cuda"
        weights = {}
        for name, tensor in head.items():
            first, last = (8 + length + at for at in tensor["data_offsets"])
            flat = torch.frombuffer(bytearray(data[first:last]), dtype=torch.float32)
            weights[name] = flat.reshape(tensor["shape"]).to(where)
        functional = torch.nn.functional
        activations = {
            "none": lambda y: y, "relu": functional.relu, "relu6": functional.relu6,
            "unit": lambda y: y.clamp(0, 1),
        }  # fmt: skip

        def run(x: Any) -> Any:
            values = {"input": x}
            for node in graph["nodes"]:
                name = node["name"]
                ins = [values[i] for i in node["inputs"]]
                both = [weights.get(name + suffix) for suffix in (".weight", ".bias")]
                if node["kind"] == "Conv":
                    shape = {k: node[k] for k in ("stride", "padding", "groups")}
                    y = activations[node["act"]](functional.conv2d(ins[0], *both, **shape))
                elif node["kind"] == "Linear":
                    y = activations[node.get("act", "none")](functional.linear(ins[0], *both))
                elif node["kind"] == "Add":
                    y = activations[node.get("act", "none")](ins[0] + ins[1])
                elif node["kind"] == "MaxPool":
                    y = functional.max_pool2d(ins[0], node["k"], node["stride"], node["padding"])
                elif node["kind"] == "Mul":
                    y = ins[0] * ins[1]
                elif node["kind"] == "Mean":
                    y = ins[0].mean((2, 3), keepdim=node.get("keepdim", False))
                elif node["kind"] == "HardSwish":
                    y = functional.hardswish(ins[0])
                else:
                    raise ValueError(node["kind"] + " is not a registered function")
                values[name] = y
            return y

        return run, graph["input"]

    def load(self, path: str) -> Call:
        """One run of a batch, inputs on the device already."""
        run, shape = self._opened(path)
        x = self.torch.from_numpy(_filled([self.batch, *shape], "float32"))
        if self.gpu is None:
            return lambda: self._quiet(run, x)
        there = x.cuda()
        return self.gpu.replayed(lambda: self._quiet(run, there))

    def _quiet(self, run: Callable[[Any], Any], x: Any) -> None:
        with self.torch.inference_mode():
            run(x)

    def predict(self, path: str, inputs: Any, batch: int) -> Iterator[Any]:
        """The last node's output."""
        run, _ = self._opened(path)
        where = "cpu" if self.gpu is None else "cuda"
        with self.torch.inference_mode():
            for x in _batches(inputs, batch):
                yield run(self.torch.from_numpy(x).to(where)).cpu().numpy()


class TensorRt:
    """ONNX files as engines, built on this very device; nobody else's engine is ever loaded."""

    def __init__(self, job: Mapping[str, Any]) -> None:
        self.trt = _package("tensorrt", "tensorrt")
        self.version = str(self.trt.__version__)
        if int(self.version.split(".")[0]) < 10:
            raise Refused("its TensorRT is " + self.version + ", and 10 or newer is needed")
        self.gpu = Gpu(job)
        self.torch = self.gpu.torch
        self.identity = self.gpu.identity
        self.logger = self.trt.Logger(self.trt.Logger.ERROR)
        self.cache = Path.home() / ".cache" / "edgenas" / ("tensorrt-" + self.version + ".cache")

    def placed(self) -> tuple[int, int]:
        """An engine runs on the GPU, whole."""
        return 0, 0

    def _context(self, path: str) -> Any:
        builder = self.trt.Builder(self.logger)
        network = builder.create_network(0)
        parser = self.trt.OnnxParser(network, self.logger)
        if not parser.parse_from_file(path):
            raise RuntimeError(
                "; ".join(str(parser.get_error(i)) for i in range(parser.num_errors))
            )
        config = builder.create_builder_config()
        known = self.cache.read_bytes() if self.cache.exists() else b""
        timing = config.create_timing_cache(known)
        config.set_timing_cache(timing, ignore_mismatch=False)
        profile = builder.create_optimization_profile()
        for i in range(network.num_inputs):
            entry = network.get_input(i)
            shape = _of_one(entry.name, list(entry.shape))
            profile.set_shape(entry.name, shape, shape, shape)
        config.add_optimization_profile(profile)
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise RuntimeError("TensorRT could not build an engine of it")
        self.cache.parent.mkdir(parents=True, exist_ok=True)
        self.cache.write_bytes(bytes(config.get_timing_cache().serialize()))
        engine = self.trt.Runtime(self.logger).deserialize_cuda_engine(plan)
        return engine, engine.create_execution_context()

    def _bound(self, path: str) -> tuple[Any, dict[str, Any], dict[str, Any]]:
        """A context with a tensor on the device for each of its inputs and outputs."""
        engine, context = self._context(path)
        ends: tuple[dict[str, Any], dict[str, Any]] = {}, {}
        for i in range(engine.num_io_tensors):
            name = engine.get_tensor_name(i)
            is_input = engine.get_tensor_mode(name) == self.trt.TensorIOMode.INPUT
            shape = [1 if d < 0 else d for d in engine.get_tensor_shape(name)]
            if is_input:
                context.set_input_shape(name, shape)
            kind = self.trt.nptype(engine.get_tensor_dtype(name))
            tensor = self.torch.from_numpy(_filled(shape, kind)).cuda()
            context.set_tensor_address(name, tensor.data_ptr())
            ends[0 if is_input else 1][name] = tensor
        return context, ends[0], ends[1]

    def load(self, path: str) -> Call:
        """One run of a batch of one."""
        context, *keep = self._bound(path)

        def run(keep: Any = keep) -> None:
            context.execute_async_v3(self.torch.cuda.current_stream().cuda_stream)

        return self.gpu.replayed(run)

    def predict(self, path: str, inputs: Any, batch: int) -> Iterator[Any]:
        """The first output, image by image."""
        context, ins, outs = self._bound(path)
        (entry,), out = ins.values(), next(iter(outs.values()))
        for x in _batches(inputs, 1):
            entry.copy_(self.torch.from_numpy(x))
            context.execute_async_v3(self.torch.cuda.current_stream().cuda_stream)
            self.torch.cuda.synchronize()
            yield out.cpu().numpy()


# how the runtimes say that they have no kernel for an operator
NO_SUCH_OP = (
    "NOT_IMPLEMENTED",
    "is not a registered function",
    "No Op registered for",
    "Didn't find op for builtin",
    "nresolved custom op",
)

BACKENDS: Mapping[str, Callable[[Mapping[str, Any]], Backend]] = {
    "onnxruntime": OnnxRuntime,
    "litert": LiteRt,
    "torch": Torch,
    "tensorrt": TensorRt,
}


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
        own = call()
        took = own if isinstance(own, int) else clock() - start
        samples.append(took)
        spent += took
    return samples


class Rapl:
    """Energy of the processor packages: Linux's counters of microjoules, where root lets us read.

    ``why`` says what is missing where there is no figure.
    """

    def __init__(self) -> None:
        self.zones = sorted(Path(POWERCAP).glob("intel-rapl:[0-9]"))
        self.range_uj = {z: int(_read(str(z / "max_energy_range_uj")) or 0) for z in self.zones}
        self.why = "" if self.zones else "this machine has no RAPL counters"
        if self.zones and not all(self.read().values()):
            self.why = f"{POWERCAP} cannot be read by this user"

    def read(self) -> dict[Path, int]:
        """Microjoules so far; the counters start again at their range."""
        return {zone: int(_read(str(zone / "energy_uj")) or 0) for zone in self.zones}

    def since(self, before: Mapping[Path, int]) -> int:
        """Microjoules since ``before``."""
        moved = {zone: uj - before[zone] for zone, uj in self.read().items()}
        return sum(uj if uj >= 0 else uj + self.range_uj[zone] for zone, uj in moved.items())


def _reason(e: BaseException) -> str:
    text = (" ".join(str(e).split()) or type(e).__name__)[:300]
    limit = _limit()
    if limit and (isinstance(e, MemoryError) or "alloc" in text.lower()):
        most = f"it wants more memory than {limit >> 20} MB, the most for files of this size"
        return f"{most}: it makes large tensors of small ones ({text[:150]})"
    return text


def _loaded(job: Mapping[str, Any], backend: Backend, emit: Emit) -> Iterator[tuple[str, Call]]:
    """Each model that runs, warm; why the others do not is said."""
    for model in job["models"]:
        emit({"event": "loading", "id": model["id"]})
        try:
            with _soon(model["path"], emit):
                call = backend.load(model["path"])
                call()
            timed(call, 1e6 * job.get("warm_ms", 0), 1, sys.maxsize)
        except Exception as e:  # runtimes share no class of errors; it is the model's row
            status = "unsupported" if any(text in str(e) for text in NO_SUCH_OP) else "failed"
            emit({"id": model["id"], "status": status, "reason": _reason(e)})
            continue
        nodes, outside = backend.placed()
        if nodes:
            emit({"event": "placed", "id": model["id"], "nodes": nodes, "outside": outside})
        yield model["id"], call


def time_models(job: Mapping[str, Any], backend: Backend, emit: Emit) -> None:
    """Load every model, then visit them in the order given."""
    calls = dict(_loaded(job, backend, emit))
    emit({"event": "loaded"})
    visit_ns, total, energy = 1e6 * job["visit_ms"], 0, Rapl()
    gc.disable()
    for number, name in job["visits"]:
        if name not in calls:
            continue
        before = energy.read()
        try:
            ns = timed(calls[name], visit_ns, job["min_calls"], job["max_calls"])
        except Exception as e:  # as above: one model failing must not end the others
            del calls[name]
            emit({"id": name, "status": "failed", "reason": _reason(e)})
            continue
        total += sum(ns)
        spent = {} if energy.why else {"uj": energy.since(before)}
        emit({"id": name, "round": number, "ns": ns, **spent})
    emit({"event": "end", "timed_ns": total})


def count(job: Mapping[str, Any], backend: Backend, emit: Emit) -> None:
    """Count the instructions of one call of each model, the fewest of some."""
    path = os.environ.get(COUNTER)
    if path is None:
        raise Refused("nothing counts instructions there: only an emulated device does")
    layout = struct.Struct(str(len(CLASSES)) + "Q")

    def now() -> tuple[int, ...]:
        os.getppid()  # the counter writes its file
        counter.seek(0)
        return layout.unpack(counter.read(layout.size))

    def fewest(call: Call) -> list[int]:
        tries = []
        for _ in range(job["calls"]):
            before = now()
            call()
            tries.append([b - a for a, b in zip(before, now())])
        return min(tries, key=sum)

    gc.disable()
    with open(path, "rb", buffering=0) as counter:
        warm = 0
        for name, call in _loaded(job, backend, emit):
            while warm < WARM:
                fewest(call)
                warm += 1
            emit({"id": name, "counts": dict(zip(CLASSES, fewest(call)))})
    emit({"event": "end"})


def predict(job: Mapping[str, Any], backend: Backend, emit: Emit) -> None:
    """Run a model on an array of inputs and write the array of its outputs."""
    np = importlib.import_module("numpy")
    inputs = np.load(job["inputs"], mmap_mode="r")
    done, outputs = 0, []
    answers = backend.predict(job["model"], inputs, min(job["batch"], len(inputs)))
    while done < len(inputs):
        with _soon(job["model"], emit):
            y = next(answers)
        outputs.append(np.array(y, np.float32))
        done = min(done + len(y), len(inputs))
        emit({"event": "progress", "done": done, "total": len(inputs)})
    np.save(job["output"], np.concatenate(outputs)[: len(inputs)])
    emit({"event": "end"})


def memory(job: Mapping[str, Any], backend: Backend, emit: Emit) -> None:
    """Load a model and call it; what the process held at most, less what it held before."""
    with _soon(job["model"], emit):  # its thread must not count
        keep = backend.load(job["empty"])  # all that a runtime loads once
        keep()
        gc.collect()
        held = _fields(STATUS).get("VmRSS", "")
        try:  # the peak counts from here on
            Path(f"{STATUS[:-6]}clear_refs").write_text("5", encoding="utf-8")
        except OSError:
            held = ""
        call = backend.load(job["model"])
        for _ in range(3):
            call()
    peak = _fields(STATUS).get("VmHWM", "")
    kb = [int(text.split()[0]) for text in (held, peak) if text]
    emit({"event": "end", "bytes": 1024 * (kb[1] - kb[0]) if len(kb) == 2 else None})


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip("\0\n ")
    except OSError:
        return ""


def _fields(path: str) -> dict[str, str]:
    pairs = (line.partition(":") for line in _read(path).splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def _numbers(folder: str, pattern: str) -> list[int]:
    texts = (_read(str(path)) for path in Path(folder).glob(pattern))
    return [int(text) for text in texts if text.lstrip("-").isdigit()]


def quota() -> float:
    """Cores' worth of time that the control groups of this process allow; infinite: no limit."""
    least = float("inf")
    for line in _read(CGROUP).splitlines():
        kinds, _, at = line.partition(":")[2].partition(":")
        if kinds and "cpu" not in kinds.split(","):
            continue
        top, names = (
            (Path(CGROUPS), ["max"])
            if not kinds
            else (Path(CGROUPS, "cpu"), ["cfs_quota_us", "cfs_period_us"])
        )
        own = Path(at.lstrip("/"))
        for group in [own, *own.parents]:
            said = " ".join(_read(str(top / group / ("cpu." + name))) for name in names).split()
            if len(said) == 2 and all(number.isdigit() for number in said) and int(said[1]):
                least = min(least, int(said[0]) / int(said[1]))
    return least


def usable_cores() -> int:
    """How many cores this process may use: of its affinity, its cpuset."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def require_cores(threads: int) -> None:
    """Refuse more threads than cores: they would wait for each other."""
    usable = min(usable_cores(), max(quota(), 1))
    if threads > usable:
        raise Refused(
            f"{threads} threads, and it may use {usable:g} of its {os.cpu_count()} cores "
            "(affinity, cpuset or quota): set threads to no more, or let it use more"
        )


def cores_meant(affinity: str) -> set[int]:
    """The cores that "big", "little", "4-7" or "0,2" means on this board."""
    if affinity not in ("big", "little"):
        pairs = [part.split("-") for part in affinity.split(",")]
        return {core for pair in pairs for core in range(int(pair[0]), int(pair[-1]) + 1)}
    speed = _speeds()
    slowest = min(speed.values(), default=0)
    little = {core for core, khz in speed.items() if khz == slowest}
    if len(little) in (0, len(speed)):
        raise Refused(f"its cores are all alike: {affinity} means none of them; give numbers")
    return little if affinity == "little" else set(speed) - little


def _speeds() -> dict[int, int]:
    return {
        int(path.parent.parent.name[3:]): int(_read(str(path)) or 0)
        for path in Path(CPUS).glob("cpu[0-9]*/cpufreq/cpuinfo_max_freq")
    }


def keep_to(affinity: str) -> None:
    """Run on those cores alone."""
    cores = cores_meant(affinity)
    try:
        os.sched_setaffinity(0, cores)
    except (AttributeError, OSError) as e:
        raise Refused(f"it cannot be kept to cores {sorted(cores)!s:.80}: {_reason(e)}") from e


def cpu_model() -> str:
    """What the processor calls itself, or the board where it does not."""
    info = _fields("/proc/cpuinfo")
    board = _read("/proc/device-tree/model")
    part = " ".join(info[k] for k in ("CPU implementer", "CPU part") if k in info)
    return info.get("model name") or f"{board} {part}".strip() or platform.processor() or "unknown"


def probe(job: Mapping[str, Any], backend: Backend, emit: Emit) -> None:
    """Say what the board is (``fingerprint``) and how it stands now (``facts``)."""
    limit, usable = quota(), usable_cores()
    fingerprint = {
        "cpu": cpu_model(),
        "arch": platform.machine(),
        "cores": os.cpu_count() or 1,
        "usable_cores": usable,
        "runtime": job["backend"],
        "runtime_version": backend.version,
        "threads": job["threads"],
    }
    fingerprint.update(backend.identity)
    if COUNTER in os.environ:
        fingerprint["emulator"] = "qemu"
    if limit < usable:
        fingerprint["quota_cores"] = f"{limit:.3g}"
    some_of_several_kinds = usable < (os.cpu_count() or 1) and len({*_speeds().values()}) > 1
    if job.get("affinity") or some_of_several_kinds:
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
    if limit < usable:
        facts["quota_cores"] = round(limit, 3)
    facts["energy"] = Rapl().why or "RAPL, whole packages"
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
    "count": count,
    "predict": predict,
    "memory": memory,
}


def asked(program: str) -> "tuple[dict[str, Any], Emit]":
    """The job file named on the command line of ``program``, a file, and where answers go."""
    here = str(Path(program).resolve().parent)
    sys.path[:] = [p for p in sys.path if p != here]  # neighbours of this file are not modules
    lines = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a runtime prints is no answer

    def emit(event: Mapping[str, Any]) -> None:
        try:
            lines.write(json.dumps(event) + "\n")
            lines.flush()
        except BrokenPipeError:
            os._exit(141)  # the host is gone

    return json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")), emit


def answer_visits(job: Mapping[str, Any], ns: Mapping[str, int], emit: Emit) -> None:
    """What ``time`` says once all is loaded, of models that take the same ``ns`` each time."""
    emit({"event": "loaded"})
    for number, name in job["visits"]:
        if name in ns:
            emit({"id": name, "round": number, "ns": [ns[name]] * job["min_calls"]})
    emit({"event": "end", "timed_ns": 0})


def main() -> int:
    """Run the job file named on the command line."""
    job, emit = asked(__file__)
    try:
        if job.get("affinity"):
            keep_to(job["affinity"])
        if job["verb"] in ("probe", "time"):
            require_cores(job["threads"])
        _package("numpy", "numpy")
        backend = BACKENDS[job["backend"]](job)
        bound(job)
        VERBS[job["verb"]](job, backend, emit)
    except Refused as e:
        emit({"event": "refused", "reason": str(e)})
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
