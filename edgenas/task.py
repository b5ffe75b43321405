"""The user's task: labelled images in four disjoint parts, their preprocessing, loss and metric."""

import functools
import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import torch
from pydantic import Field
from torch import Generator, Tensor
from torch.nn import functional as F

from edgenas import parsing
from edgenas.augment import Augment, Augmentation, Own, stream
from edgenas.errors import CorruptFile, DataError, UsageError
from edgenas.images import Dataset, Framing, Images, Raw, check_names, check_whole
from edgenas.registry import Shelf, nearest
from edgenas.resize import resized
from edgenas.validate import Count, Positive, construct

DATASETS = Shelf("edgenas.datasets", Dataset)

Part = Literal["train", "search", "calibration", "test"]
Share = Annotated[float, Field(gt=0, le=0.5)]


@dataclass(frozen=True)
class Task:
    """``input``: (c, h, w) of a batch; ``mean``, ``std``: per channel, of pixels from 0 to 1.

    Images of another size are resized after augmentation, as they are read. ``drawn``: the test
    part was cut from the training images, since the data have none.
    """

    name: str
    classes: tuple[str, ...]
    input: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    parts: Mapping[Part, Images]
    augment: Augmentation
    framing: Framing = field(default_factory=Framing)
    drawn: bool = False

    def on(self, device: torch.device) -> "Task":
        """The same, its images on ``device`` if they fill at most a quarter of what is free there.

        An accelerator then augments them too; elsewhere a batch is moved when it is used.
        """
        size = sum(images.x.nbytes for images in self.parts.values())
        if device.type != "cuda" or 4 * size > torch.cuda.mem_get_info(device)[0]:
            return self
        moved = {
            part: Images(images.x.to(device), images.y.to(device))
            for part, images in self.parts.items()
        }
        return replace(self, parts=moved)

    def at(self, resolution: int) -> "Task":
        """The same for networks of another input size; itself where it is that."""
        if self.input[1:] == (resolution, resolution):
            return self
        return replace(self, input=(self.input[0], resolution, resolution))

    def joined(self, *others: Part) -> "Task":
        """The same, but ``train`` holds the images of ``others`` too."""
        some = [self.parts[part] for part in ("train", *others)]
        train = Images(torch.cat([i.x for i in some]), torch.cat([i.y for i in some]))
        return replace(self, parts={**self.parts, "train": train})

    def normalise(self, x: Tensor) -> Tensor:
        """uint8 -> ``(x / 255 - mean) / std`` as ``input``, float32, channels last in memory."""
        mean, std = (torch.tensor(v, device=x.device).view(-1, 1, 1) for v in (self.mean, self.std))
        y = resized(x.float().div_(255 * std).sub_(mean / std), self.input[-1])
        return y.contiguous(memory_format=torch.channels_last)

    def batches(
        self, part: Part, size: int, seed: int, *, augmented: bool, start: int = 0
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """One epoch in an order that ``seed`` decides: x as ``normalise``, y (size,).

        Augmented, a last short batch is left out, unless it is the only one. From batch ``start``
        on: a batch depends on ``seed`` and its number alone, so those before need not be made.
        """
        images = self.parts[part]
        order = torch.randperm(len(images), generator=Generator().manual_seed(seed))
        if augmented and len(order) > size:
            order = order[: len(order) // size * size]
        batches = torch.split(order.to(images.x.device), size)
        for number, index in enumerate(batches[start:], start):
            x = images.x[index]
            if augmented:
                x = self.augment(x, stream(seed, number))
            yield self.normalise(x), images.y[index]

    def tensors(self, part: Part, limit: int | None = None) -> tuple[Tensor, Tensor]:
        """All of ``part``, or ``limit`` images spread evenly over it: x as ``normalise``, y."""
        images = self.parts[part]
        if limit is not None and limit < len(images):
            images = images[torch.arange(limit) * len(images) // limit]
        return self.normalise(images.x), images.y

    def loss(
        self, logits: Tensor, y: Tensor, smoothing: float = 0.0, weights: Tensor | None = None
    ) -> Tensor:
        """Mean cross-entropy; ``smoothing`` as in arXiv:1512.00567, sec. 7.

        ``weights``: (classes,); the mean is over images, each by the weight of its class.
        """
        weights = None if weights is None else weights.to(logits.device)
        return F.cross_entropy(logits, y, weights, label_smoothing=smoothing)

    def class_weights(self, part: Part, power: float) -> Tensor | None:
        """(classes,), by one over how many images of ``part`` each has, to ``power``; None for 0.

        Their mean over the images is 1.
        """
        if not power:
            return None
        counts = self.parts[part].y.bincount(minlength=len(self.classes)).clamp(min=1).float()
        weights = counts**-power
        return weights * counts.sum() / (weights * counts).sum()

    def correct(self, logits: Tensor, y: Tensor) -> int:
        """How many of the batch are classified rightly."""
        return int((logits.argmax(1) == y).sum())

    def digest(self, part: Part) -> str:
        """sha256 of the images and labels of ``part``, in order."""
        images = self.parts[part]
        content = hashlib.sha256(str(tuple(images.x.shape)).encode())
        for tensor in (images.x, images.y):
            content.update(tensor.cpu().contiguous().numpy().data)
        return content.hexdigest()

    @property
    def metadata(self) -> dict[str, str]:
        """What a file says of the images that it takes and of its answers."""
        return {
            "input": json.dumps(self.input),
            "classes": json.dumps(self.classes),
            "mean": json.dumps(self.mean),
            "std": json.dumps(self.std),
            "layout": "images 0..255 divided by 255, less mean, divided by std",
            "fit": json.dumps(self.framing.fit),
            "background": json.dumps(self.framing.background),
        }

    def as_told(self, metadata: Mapping[str, str]) -> "Task":
        """The same images, prepared and named as a file with ``metadata`` wants it.

        Raises CorruptFile where it says nothing that fits.
        """
        try:
            mean, std, classes = (
                tuple(parsing.json_value(metadata[key])) for key in ("mean", "std", "classes")
            )
            told = replace(
                self, mean=tuple(map(float, mean)), std=tuple(map(float, std)), classes=classes
            )
        except (KeyError, ValueError, TypeError, OverflowError) as e:
            raise CorruptFile(f"its metadata do not say how images are given to it: {e!r}") from e
        framing = {k: json.dumps(v) for k, v in asdict(self.framing).items()}
        if wrong := [k for k, v in framing.items() if metadata.get(k, v) != v]:
            raise CorruptFile(
                f"its metadata say {wrong[0]}: {metadata[wrong[0]]}, and the images were prepared "
                f"with {framing[wrong[0]]}"
            )
        fits = len(told.mean) == len(told.std) == self.input[0] and min(told.std) > 0
        if not fits or sorted(map(str, told.classes)) != sorted(self.classes):
            raise CorruptFile(
                f"its metadata are of other images: mean {told.mean}, std {told.std}, classes "
                f"{', '.join(map(str, told.classes))}"
            )
        return told

    def describe(self) -> dict[str, Any]:
        """Facts for the manifest and the report; JSON types."""
        return {
            "name": self.name,
            "classes": list(self.classes),
            "input": list(self.input),
            "mean": list(self.mean),
            "std": list(self.std),
            "augment": self.augment.written,
            "framing": asdict(self.framing),
            "parts": {
                part: {"images": len(images), "sha256": self.digest(part)}
                for part, images in self.parts.items()
            },
        }


@dataclass(frozen=True)
class _Settings:
    """What every dataset takes. ``train_images``, ``test_images``: use only so many, balanced.

    ``search_share`` (where the dataset has no validation part) and ``calibration_images`` (default
    512, a tenth at most) are cut from the training images, ``test_share`` before them where the
    dataset has no test split. ``test``: a path like the dataset's own, of images held out, where
    it has none. ``mean``, ``std``: what pixels, from 0 to 1, are normalised with, one a channel;
    where nothing is said, those of the training images.
    """

    dataset: str
    train_images: Count | None = None
    test_images: Count | None = None
    search_share: Share = 0.1
    calibration_images: Count | None = None
    test_share: Share = 0.2
    test: Path | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[Positive, ...] | None = None
    augment: dict[str, Any] | str = field(default_factory=dict)


def load_task(settings: Mapping[str, Any], seed: int) -> Task:
    """``{"dataset": "fashion-mnist", ...}``: fields of ``_Settings`` and of the dataset.

    ``seed`` decides which training images search and calibration get; the test part never
    depends on it. Raises UsageError (a setting) or DataError (the images).
    """
    chosen, dataset = _read(settings)
    raw = _held_out(dataset, chosen)
    check_names(raw.classes, chosen.dataset)
    augment = _augmentation(chosen.augment, raw)
    train, test = _test_apart(raw, chosen)
    parts = _parts(train, raw.val, test, len(raw.classes), chosen, Generator().manual_seed(seed))
    _check_classes(chosen.dataset, raw.classes, parts)
    mean, std = _statistics(chosen.dataset, train.x)
    mean, std = chosen.mean or mean, chosen.std or std
    c, h, w = train.x.shape[1:]
    if (len(mean), len(std)) != (c, c):
        raise UsageError(f"task: mean and std need one number for each of {c} channels")
    if not all(0 <= m <= 1 for m in mean) or max(std) > 1:
        raise UsageError(
            f"task: mean {list(mean)} and std {list(std)} are of pixels from 0 to 1: divide by "
            "255 what is of pixels from 0 to 255"
        )
    seen = [train] if raw.val is None else [train, raw.val]
    for note in (*raw.notes, *_repeated(chosen.dataset, raw.classes, seen, test)):
        _tell(note)
    return Task(
        chosen.dataset, raw.classes, (c, h, w), mean, std, parts, augment, raw.framing,
        drawn=raw.test is None,
    )  # fmt: skip


def _augmentation(said: Mapping[str, Any] | str, raw: Raw) -> Augmentation:
    """That of the data set, changed as ``said``, or the user's own, tried once."""
    if isinstance(said, str):
        own = Own(said)
        own(raw.train.x[:2], stream("trial"))
        return own
    made = construct(Augment, asdict(raw.augment) | dict(said), "task: augment")
    if made.shift > max(raw.augment.shift, *raw.train.x.shape[2:]):
        raise UsageError(
            f"task: augment: shift is {made.shift}, and images have {raw.train.x.shape[2]} x "
            f"{raw.train.x.shape[3]} pixels"
        )
    return made


@functools.cache  # once a process: a run loads its data to say what it costs, and to do it
def _tell(note: str) -> None:
    logging.getLogger(__name__).warning("note: %s", note)


def _repeated(
    name: str, classes: Sequence[str], known: Sequence[Images], test: Images
) -> Iterator[str]:
    """What is to be said of images that are there more than once, pixel by pixel."""
    first: dict[int, int] = {}
    contrary = [
        (first[content], label)
        for images in known
        for content, label in _contents(images)
        if first.setdefault(content, label) != label
    ]
    again = [label for content, label in _contents(test) if content in first]
    if again:
        yield (
            f"{name}: {len(again)} of {len(test)} images of the test part are among those to learn "
            f"from too, one of them of class {classes[again[0]]!r}; its accuracy flatters"
        )
    if contrary:
        one, other = contrary[0]
        yield (
            f"{name}: {len(contrary)} of {sum(map(len, known))} images to learn from are of two "
            f"classes at once, one of them of {classes[one]!r} and {classes[other]!r}"
        )


def _contents(images: Images) -> Iterator[tuple[int, int]]:
    """What tells each image from others, and its label."""
    for image, label in zip(images.x, images.y.tolist(), strict=True):
        yield hash(image.numpy().tobytes()), label


def completed(settings: Mapping[str, Any], augment: Augmentation) -> dict[str, Any]:
    """``settings`` with every default written out; ``augment``: of the task that they load."""
    chosen, dataset = _read(settings)
    own: Any = dataset
    return {**asdict(chosen), **asdict(own), **settings, "augment": augment.written}


def _read(settings: Mapping[str, Any]) -> tuple[_Settings, Dataset]:
    """What every dataset takes, and the dataset itself with what is its own. Raises UsageError."""
    own = [f.name for f in fields(_Settings)]
    chosen = construct(_Settings, {k: v for k, v in settings.items() if k in own}, "task")
    cls = DATASETS[chosen.dataset]
    rest = {k: v for k, v in settings.items() if k not in own}
    known = own + [f.name for f in fields(cls)]
    for key in rest:
        if key not in known:
            raise UsageError(f"task: unknown key {key!r}.{nearest(str(key), known)}")
    return chosen, construct(cls, rest, "task")


def _held_out(dataset: Dataset, chosen: _Settings) -> Raw:
    """All images, those of ``test`` as the test part. Raises UsageError or DataError."""
    raw = dataset.load()
    if not isinstance(raw, Raw):
        raise DataError(
            f"task: data set {chosen.dataset} gave a {type(raw).__name__}, not what "
            "edgenas.images.Raw holds"
        )
    check_whole(raw, f"task: data set {chosen.dataset}")
    if chosen.test is None:
        return raw
    settings: Any = dataset
    known = {f.name for f in fields(settings)}
    if raw.test is not None or "path" not in known:
        why = "has a test part of its own" if raw.test is not None else "has no path"
        raise UsageError(f"task: test is {chosen.test}, but {chosen.dataset} {why}; leave it out")
    if chosen.test.expanduser().resolve() == settings.path.expanduser().resolve():
        raise UsageError(f"task: test: {chosen.test} are the training images themselves")
    like = {"channels": raw.train.x.shape[1]} if "channels" in known else {}
    other = replace(settings, path=chosen.test, **like).load()
    images = other.train if other.test is None else other.test
    if strange := [name for name in other.classes if name not in raw.classes]:
        raise DataError(
            f"task: test: {chosen.test} has the class {strange[0]!r}, which the training images "
            "lack"
        )
    if images.x.shape[1:] != raw.train.x.shape[1:]:
        have, want = ("x".join(map(str, x.shape[1:])) for x in (images.x, raw.train.x))
        raise DataError(
            f"task: test: {chosen.test} has images of {have}, and the training images are {want}; "
            "make them equal, or set 'resolution:'"
        )
    own = torch.tensor([raw.classes.index(name) for name in other.classes])
    return replace(raw, test=Images(images.x, own[images.y]), notes=(*raw.notes, *other.notes))


def _test_apart(raw: Raw, chosen: _Settings) -> tuple[Images, Images]:
    """All training images, and the test part."""
    fixed = Generator().manual_seed(0)
    train, test = raw.train, raw.test
    if test is None:
        count = _count(chosen.test_share, train, len(raw.classes))
        first, rest = _cut(train.y, torch.arange(len(train)), count, fixed)
        train, test = train[rest], train[first]
    return (
        _limited(train, chosen.train_images, "train_images", fixed),
        _limited(test, chosen.test_images, "test_images", fixed),
    )


def _parts(
    train: Images,
    val: Images | None,
    test: Images,
    classes: int,
    chosen: _Settings,
    generator: Generator,
) -> dict[Part, Images]:
    everything = torch.arange(len(train))
    count = 0 if val is not None else _count(chosen.search_share, train, classes)
    search, rest = _cut(train.y, everything, count, generator)
    most = chosen.calibration_images or max(1, min(512, len(train) // 10))
    if most >= len(rest):
        raise DataError(
            f"task: {len(train)} training images do not give {len(search)} to search, {most} to "
            "calibrate and some to train; add images, lower calibration_images, raise "
            "train_images"
        )
    calibration, rest = _cut(train.y, rest, most, generator)
    return {
        "train": train[rest],
        "search": train[search] if val is None else val,
        "calibration": train[calibration],
        "test": test,
    }


def _limited(images: Images, limit: int | None, key: str, generator: Generator) -> Images:
    if limit is None:
        return images
    if limit > len(images):
        raise DataError(f"task: {key} is {limit}, but there are {len(images)}")
    return images[_cut(images.y, torch.arange(len(images)), limit, generator)[0]]


def _count(share: float, images: Images, classes: int) -> int:
    return min(max(classes, round(share * len(images))), len(images))


def _cut(y: Tensor, pool: Tensor, count: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """``count`` of the indices ``pool`` at random, each class by its share, and the others.

    A class has at least one among them if ``count`` allows. Both keep the order of ``pool``.
    """
    shuffled = torch.randperm(len(pool), generator=generator)
    labels = y[pool]
    by_class = shuffled[labels[shuffled].argsort(stable=True)]
    sizes = labels.bincount()
    first = sizes.cumsum(0) - sizes
    label = labels[by_class]
    rank = torch.arange(len(pool)) - first[label]
    order = by_class[(rank.double() / sizes[label]).argsort(stable=True)]
    return pool[order[:count].sort().values], pool[order[count:].sort().values]


def _check_classes(name: str, classes: Sequence[str], parts: Mapping[Part, Images]) -> None:
    if len(classes) < 2:
        raise DataError(f"{name} has {len(classes)} class; expected two or more")
    counts = {part: images.y.bincount(minlength=len(classes)) for part, images in parts.items()}
    for part in get_args(Part):
        if part != "calibration" and not bool(counts[part].all()):
            label = int(counts[part].argmin())
            have = sum(int(c[label]) for c in counts.values())
            raise DataError(
                f"{name}: class {classes[label]!r} has {have} images, none of them in the part "
                f"{part!r}; add images of it, raise train_images or test_images, or leave the "
                "class out"
            )


def _statistics(name: str, x: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel, pixels from 0 to 1, to four digits."""
    levels = torch.arange(256, dtype=torch.float64) / 255
    mean, std = [], []
    for channel in x.unbind(1):
        share = channel.flatten().bincount(minlength=256) / channel.numel()
        centre = (share * levels).sum()
        mean.append(round(float(centre), 4))
        std.append(round(float((share * (levels - centre) ** 2).sum().sqrt()), 4))
    if 0 in std:
        raise DataError(f"{name}: channel {std.index(0)} has one value in every image")
    return tuple(mean), tuple(std)
