"""Images of the test part that a run keeps: what it delivers can be tried where its data are not.

They are data alone: uint8 (n, h, w, c) as the network takes them, and the class of each.
"""

from collections import Counter
from pathlib import Path

import numpy as np
import torch

from edgenas import parsing
from edgenas.errors import CorruptFile
from edgenas.files import write_json
from edgenas.resize import resized
from edgenas.task import Task

IMAGES, LABELS = "samples.npy", "samples.json"
MOST, MOST_BYTES = 100, 4 << 20


def keep(task: Task, folder: Path) -> None:
    """Write as many as fit into 4 MiB, 100 at most and one at least, as many of each class."""
    test = task.parts["test"]
    order = torch.randperm(len(test), generator=torch.Generator().manual_seed(0)).tolist()
    nth: Counter[int] = Counter()
    ranked = []
    for index in order:  # the first of each class, then the second ...
        ranked.append((nth[label := int(test.y[index])], index))
        nth[label] += 1
    channels, height, width = task.input
    count = max(1, min(MOST, MOST_BYTES // (channels * height * width)))
    chosen = test[torch.tensor([i for _, i in sorted(ranked, key=lambda pair: pair[0])[:count]])]
    x = resized(chosen.x.cpu().float(), width).round().clamp(0, 255).byte()
    np.save(folder / IMAGES, x.permute(0, 2, 3, 1).contiguous().numpy())
    write_json(folder / LABELS, chosen.y.tolist())


def kept(folder: Path, classes: int) -> tuple[np.ndarray, list[int]] | None:
    """What ``keep`` wrote for a task of so many classes; None where nothing was kept.

    Raises CorruptFile.
    """
    images, labels = folder / IMAGES, folder / LABELS
    if not images.is_file() or not labels.is_file():
        return None
    try:
        x = np.load(images, mmap_mode="r", allow_pickle=False)  # as much as the file really holds
        y = parsing.json_value(parsing.text(labels))
    except (OSError, ValueError, EOFError, SyntaxError) as e:
        raise CorruptFile(f"{folder}: {IMAGES} and {LABELS} cannot be read: {e!s:.200}") from e
    sound = isinstance(y, list) and all(type(k) is int and 0 <= k < classes for k in y)
    if not sound or x.ndim != 4 or x.dtype != np.uint8 or len(x) != len(y):
        raise CorruptFile(
            f"{folder}: {IMAGES} and {LABELS} are not images (n, h, w, c) of uint8 with a class, "
            f"0 to {classes - 1}, of each"
        )
    return x, y
