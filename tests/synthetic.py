"""Records made up for tests, in the shape that runs.make stores. Their numbers mean nothing and are stored nowhere."""

import copy
import random

from fercore import files
from fercore.data.expressions import EXPRESSIONS
from fercore.study import schema

HEIGHT = {"supervised": 0.42, "fixmatch": 0.44, "sitfer/semantic": 0.45, "sitfer/text": 0.455}
HEIGHT |= {"sitfer/instance": 0.47, "sitfer": 0.49}
COUNTS = (400, 500, 50, 880, 590, 470, 610)
LEVELS = {"sitfer/semantic": ("semantic",), "sitfer/text": ("semantic", "text"), "fixmatch": ("semantic",)}

FACES = "feedfacefeedface"
PRETRAIN = {"dataset": "fer2013", "steps": 11_000, "image_size": 48}
START = files.key_of({"kind": "pretrain", **PRETRAIN})
PROVENANCE = {
    "commit": "c0ffee" * 6 + "abcd",
    "dirty": False,
    "source": "5eed" * 4,
    "versions": {"torch": "2.12.0", "python": "3.11.7"},
    "device": "cuda: made up",
    "threads": 1,
    "precision": "bf16",
    "seconds": 100.0,
    "seconds_per_step": 0.025,
    "finished": "2026-01-02T03:04:05Z",
}


def run(method, seed, labels=2000, dataset="fer2013", accuracy=None, status="finished", steps=4000, **config):
    """One run. `accuracy` (0 to 1) is that over the last 20 % of the steps; by default by method and seed."""
    draw = random.Random(f"{method}{seed}{labels}")
    accuracy = HEIGHT[method] + draw.gauss(0, 0.006) + labels / 1e5 if accuracy is None else accuracy
    config = {
        "dataset": dataset, "method": method, "labels": labels, "steps": steps, "seed": seed, "split_seed": seed,
        "dataset_options": {}, "options": {}, "evaluations": 20, "batch": 16, "unlabelled_batch": 16, "image_size": 48,
        "encoder": "resnet18", "start": f"pretrain:{START}", "text": "minilm", "prompt": "a face image of {}",
        "lr": 3e-4, **config,
    }  # fmt: skip
    record = {"key": files.key_of(config), "kind": "run", "status": status, "config": config}
    if status == "failed":
        return record | {"error": "loss is not finite at step 17"}
    names = LEVELS.get(method, ("semantic", "text", "instance"))
    history = []
    for i in range(1, 21):
        now = accuracy - (0.25 * 0.75**i if i <= 15 else 0) + (draw.gauss(0, 0.002) if i <= 15 else 0)
        entry = {"step": steps * i // 20, "loss": {"labelled": round(2 * 0.8**i, 4), "total": round(2.5 * 0.8**i, 4)}}
        if method != "supervised":
            levels = {name: now + 0.01 * k for k, name in enumerate(names)}
            if len(names) > 1:
                levels["fused"] = now + 0.035
            entry |= {
                "kept": 0.02 * i,
                "pseudo_accuracy": now + 0.03,
                "pseudo_accuracy_kept": now + 0.2 if i > 1 else None,
            }
            entry |= {"level_accuracy": levels, "pseudo_counts": [i] * 7}
            if "instance" in names:
                entry["memory"] = labels + 10 * i
        entry["classifier"] = {"accuracy": now, "macro_f1": now - 0.04, "ece": 0.1}
        with_levels = {"accuracy": now + 0.004, "macro_f1": now - 0.03, "ece": 0.08}
        entry["fused"] = with_levels if method.startswith("sitfer") else None
        history.append(entry)
    return record | {
        "constants": {},
        "data": {
            "name": dataset, "fingerprint": FACES, "classes": list(EXPRESSIONS), "train": 27_000,
            "test": sum(COUNTS), "tested_on": "PublicTest", "duplicates_dropped": 300, "notes": {},
        },
        "split": {"hash": f"{seed:016x}", "labelled": [], "validation": [], "unlabelled": 25_000, "counts": [9] * 7},
        "start": {"kind": "pretrain", "sha256": "ab" * 32, "matched": 1.0, "key": START},
        "metrics": {
            "classifier": _head(accuracy, draw),
            "fused": _head(accuracy + 0.004, draw) if method.startswith("sitfer") else None,
        },
        "history": history,
        "provenance": PROVENANCE,
    }  # fmt: skip


def of(config, accuracy=None, **changes):
    """A finished or failed run of this configuration, found by its key and in the precision that it asks for."""
    record = run(**config.to_dict(), accuracy=accuracy, **changes)
    if "provenance" in record and config.precision != "auto":
        record["provenance"] = PROVENANCE | {"precision": config.precision}
    return record


def here(config, place, accuracy=0.5):
    """A finished run of this configuration over the faces and from the start of a `Place`."""
    record, found = of(config, accuracy), place.identity(config)
    record["data"]["fingerprint"], record["split"]["hash"] = found["data"], found["split"]
    record["start"]["sha256"], record["constants"] = found["start"], found["constants"]
    record["provenance"] = PROVENANCE | {"precision": found["precision"]}
    return record


def made_again(record, points, sha="cd" * 32, **provenance):
    """The same run, so many points better, from another start file of the same pre-training."""
    other = copy.deepcopy(record)
    other["metrics"]["classifier"]["mean_last_fifth"]["accuracy"] += points / 100
    other["start"]["sha256"] = sha
    other["provenance"] |= {"device": "cpu: other", **provenance}
    return other


def _head(accuracy, draw):
    recall = [min(1, max(0, accuracy + draw.uniform(-0.35, 0.35))) for _ in EXPRESSIONS]
    confusion = [[0] * 7 for _ in EXPRESSIONS]
    for i, (n, r) in enumerate(zip(COUNTS, recall)):
        confusion[i][i] = round(n * r)
        confusion[i][(i + 1) % 7] = n - round(n * r)

    def evaluation(step, better=0.0):
        out = {"step": step, "accuracy": accuracy + better, "macro_f1": accuracy - 0.04, "ece": 0.1}
        return out | {"recall": recall, "confusion": confusion}

    mean = {"accuracy": accuracy, "macro_f1": accuracy - 0.04, "ece": 0.1}
    best = evaluation(3200, 0.012)
    return {"last": evaluation(4000), "mean_last_fifth": mean, "selected": None, "best_on_test": best}


def transfer(record, dataset, accuracy, classes=EXPRESSIONS[:6]):
    """The test of a run on another data set."""
    config = {"run": record["config"], "dataset": dataset, "dataset_options": {}}
    metrics = {"accuracy": accuracy, "macro_f1": accuracy - 0.05, "n": 900, "classes": list(classes)}
    return {
        "key": schema.key("transfer", config), "kind": "transfer", "status": "finished", "config": config,
        "data": {"name": dataset, "fingerprint": FACES}, "metrics": metrics, "provenance": PROVENANCE,
    }  # fmt: skip


def pretrain():
    """The start that all these runs share."""
    return {
        "key": START, "kind": "pretrain", "status": "finished", "config": PRETRAIN,
        "data": {"name": "fer2013", "fingerprint": FACES},
        "start": {"sha256": "ab" * 32}, "metrics": {"linear_probe": 0.47, "knn": 0.36, "loss": 3.1},
        "history": [{"step": 100, "loss": 5.0}], "provenance": PROVENANCE,
    }  # fmt: skip


def study(seeds=(0, 1, 2), labels=(2000,)):
    """Table II, complete."""
    return [pretrain()] + [run(m, s, n) for n in labels for m in HEIGHT for s in seeds]
