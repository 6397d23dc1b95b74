"""Frozen features: what an encoder that is not trained says of every face, and of a few views of it. Computed once.

A run on them trains a head of two layers (encoders.Head) with the same loop and methods; a step sees one of the views
that were kept where a fine-tuned encoder sees a new one, and MixUp mixes features.

    FERCORE_CACHE/features/KEY/
        faces.npy [n, d]   weak.npy, strong.npy [p, v, d]   turned.npy [p, w, 3, d]   float16, p training faces
        about.json         what they are of, and how many faces are done
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor
from tqdm.auto import tqdm

from fercore import augment, files, paths
from fercore.data.prepare import Data
from fercore.data.splits import Split
from fercore.encoders import Head, ImageEncoder
from fercore.errors import UserError
from fercore.training import devices
from fercore.training.rng import generator
from fercore.training.views import AUGMENT, Features, split_of

BLOCK = 64  # faces at a time
TURNED = 4  # strong views that are kept turned as well, at most
EVERY = 16  # blocks between two words of how many are done


@dataclass(frozen=True)
class Cache:
    """Features in memory maps. `turned` is there where a method asked for it."""

    faces: np.ndarray
    weak: np.ndarray
    strong: np.ndarray
    turned: np.ndarray | None


def views(data: Data, split: Split, cache: Cache, device: torch.device, turns: bool) -> Features:
    """The features of a run's faces, split so."""
    kinds = {name: getattr(cache, name) for name in ("faces", "weak", "strong", *["turned"] * turns)}
    tensors = {name: devices.resident(kind, device) for name, kind in kinds.items()}
    return Features(**split_of(data, split, device), **{"turned": None} | tensors)


def standardise(head: Head, seen: Features) -> None:
    """Mean and deviation of the unlabelled faces, or of the labelled ones where all are labelled."""
    slots = seen.unlabelled if len(seen.unlabelled) else seen.labelled
    x = seen.faces[seen.pool[slots]].float()
    head.mean.copy_(x.mean(0))
    head.deviation.copy_(x.std(0).clamp_min(1e-6))


def key(data: Data, about: Mapping) -> str:
    """Of what the features depend on: faces, start, encoder, size, precision, number of views, code of the views."""
    drawn = files.digest(Path(augment.__file__).read_bytes() + Path(__file__).read_bytes())
    pool = files.digest(np.ascontiguousarray(data.pool, "<i8").tobytes())
    return files.key_of({**about, "data": data.faces.fingerprint, "pool": pool, "code": drawn})


def build(
    encoder: ImageEncoder, data: Data, about: Mapping, count: int, turns: bool, device: torch.device, progress: bool
) -> Cache:
    """The features of these faces by this encoder, from the cache or made, `count` views of each training face.

    An interrupted call goes on where it stopped. `about`: encoder, start, size and precision. Raises UserError where
    the cache is of something else.
    """
    about = {**about, "views": count}
    place = paths.cache() / "features" / key(data, about)
    plain = Part(place, "faces", (len(data.faces.labels), encoder.width), about)
    shape = (len(data.pool), count, encoder.width)
    drawn = [Part(place, kind, shape, about) for kind in AUGMENT]
    turned = Part(place, "turned", (len(data.pool), min(count, TURNED), 3, encoder.width), about) if turns else None
    parts = [plain, *drawn, *([turned] if turned else [])]
    todo = sum(part.left * part.passes for part in parts)
    images, size, encoder = devices.resident(data.faces.images, device), about["size"], encoder.to(device).eval()
    pool = torch.from_numpy(data.pool)

    @torch.inference_mode()
    def say(faces: Float[Tensor, "b 3 h w"]) -> np.ndarray:
        return encoder.feature(faces).half().cpu().numpy()

    with tqdm(total=todo, desc="frozen features", unit="face", disable=not (progress and todo)) as bar:
        for part in parts:
            for first, rows in part.blocks(torch.arange(len(plain.array)) if part is plain else pool):
                faces = devices.take(images, rows, device)
                if part is plain:
                    part.write(first, say(augment.centre(faces, size)))
                for i in range(part.views):
                    kind = "strong" if part is turned else part.name
                    view = AUGMENT[kind](faces, size, generator(0, f"frozen {kind} {i}", first))
                    if part is turned:
                        for quarter in (1, 2, 3):
                            part.write(first, say(view.rot90(quarter, (2, 3))), i, quarter - 1)
                    else:
                        part.write(first, say(view), i)
                bar.update(len(rows) * part.passes)
    arrays = {part.name: part.array for part in parts}
    return Cache(**{"turned": None} | arrays)


class Part:
    """One memory map that is filled face by face; how far it is stands beside it."""

    def __init__(self, place: Path, name: str, shape: tuple[int, ...], about: Mapping):
        self.name, self.path, self.word, self.about = name, place / f"{name}.npy", place / f"{name}.json", dict(about)
        self.views = shape[1] if len(shape) > 2 else 0
        self.passes = int(np.prod(shape[1:-1]))  # of the encoder for each face
        self.done = self._done()
        if not self.done:
            place.mkdir(parents=True, exist_ok=True)
            np.lib.format.open_memmap(self.path, "w+", np.float16, shape).flush()
        whole = self.done == shape[0]
        try:
            self.array = np.load(self.path, mmap_mode="r" if whole else "r+")
        except (OSError, ValueError):
            self.array = np.empty(0)
        if self.array.shape != shape or self.array.dtype != np.float16:
            raise UserError(f"{self.path}: not float16 {list(shape)}; delete the folder, and it is made again")

    @property
    def left(self) -> int:
        """Faces that are to be seen."""
        return len(self.array) - self.done

    def _done(self) -> int:
        if not self.word.exists():
            return 0
        try:
            word = json.loads(self.word.read_text())
            done, about, digest = word["done"], word["about"], word["digest"]
        except (ValueError, KeyError):
            return 0
        if about != self.about:
            raise UserError(f"{self.path}: of {about}, expected {self.about}; delete the folder, and it is made again")
        if digest and (not self.path.exists() or digest != files.sha256(self.path)):
            return 0  # damaged
        return done

    def blocks(self, rows: Int64[Tensor, " n"]):
        """The faces that are to be seen, some at a time, with the number of the first."""
        for number, first in enumerate(range(self.done, len(rows), BLOCK), 1):
            yield first, rows[first : first + BLOCK]
            if number % EVERY == 0:
                self.save(first + BLOCK)
        if self.left:
            self.save(len(rows))

    def write(self, first: int, x: np.ndarray, *where: int) -> None:
        """Put what was said of these faces in its place."""
        self.array[(slice(first, first + len(x)), *where)] = x

    def save(self, done: int) -> None:
        """What is written so far is on the disk before it is said to be."""
        self.array.flush()
        self.done = min(done, len(self.array))
        digest = files.sha256(self.path) if self.done == len(self.array) else ""
        files.write(self.word, json.dumps({"done": self.done, "about": self.about, "digest": digest}))
