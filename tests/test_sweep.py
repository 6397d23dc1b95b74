"""Profiles and their grid: what a YAML may say, the order of the runs, and making what is missing."""

import contextlib
import itertools
import multiprocessing
import signal
from dataclasses import replace

import numpy as np
import pytest
import synthetic
import torch
import torchvision
import toy
import yaml
from PIL import Image

from fercore import files, text
from fercore.data import splits
from fercore.data.check import OFFICIAL
from fercore.data.expressions import EXPRESSIONS
from fercore.errors import UserError
from fercore.methods import METHODS
from fercore.study import cost, profiles, records, sweep, workers
from fercore.training import checkpoint, loop, simclr
from fercore.training.simclr import Pretrain

GIVEN = {
    "dataset": "own", "labels": [9, 12], "seeds": [0, 1], "methods": ["supervised", "sitfer/semantic"], "steps": 3,
    "evaluations": 1, "batch": 4, "unlabelled_batch": 4, "image_size": toy.SIZE, "encoder": "toy",
    "text": "orthogonal", "lr": 0.001, "precision": "fp32",
}  # fmt: skip


@pytest.fixture(autouse=True)
def no_place(monkeypatch):
    monkeypatch.delenv("FERCORE_DATA", raising=False)


@pytest.fixture
def profile(tmp_path):
    """A function that writes a YAML with these changes (None: without the key) and returns its path."""

    def write(**changes):
        values = {k: v for k, v in (GIVEN | changes).items() if v is not None}
        path = tmp_path / "toy.yaml"
        path.write_text(yaml.safe_dump(values))
        return path

    return write


def load(path, root=None):
    return profiles.load(path, data_root=root or "", results=path.parent / "results")


# Reading


def test_grid_is_the_product(profile):
    study = load(profile())
    cells = [(c.seed, c.labels, c.method) for c in study.runs()]
    assert sorted(cells) == sorted(itertools.product(GIVEN["seeds"], GIVEN["labels"], GIVEN["methods"]))
    assert len({c.key for c in study.runs()}) == 8
    assert study.name == "toy" and study.data_root is None and study.records == study.results / "records.jsonl"


def test_split_seeds_follow_the_seeds_unless_given(profile):
    assert {(c.seed, c.split_seed) for c in load(profile()).runs()} == {(0, 0), (1, 1)}
    assert {(c.seed, c.split_seed) for c in load(profile(split_seeds=[5, 5])).runs()} == {(0, 5), (1, 5)}


def test_a_method_that_ignores_the_budget_has_one_run_for_each_seed(profile):
    runs = load(profile(methods=["supervised", "fullysupervised"])).runs()
    cells = [(c.seed, c.labels) for c in runs if c.method == "fullysupervised"]
    assert cells == [(0, 0), (1, 0)] and len(runs) == 6
    assert {c.key for c in load(profile(methods=["fullysupervised"], labels=[12])).runs()} < {c.key for c in runs}


def test_part_of_the_grid(profile):
    study = load(profile())
    assert {c.method for c in study.runs(methods=["supervised"])} == {"supervised"}
    assert {c.labels for c in study.runs(labels=[12])} == {12}


def test_keys_do_not_depend_on_place_or_profile_name(profile, tmp_path, monkeypatch):
    keys = [c.key for c in load(profile()).runs()]
    assert [c.key for c in load(profile(profile="another", data_root="somewhere"), root=tmp_path).runs()] == keys


def test_data_root_from_option_environment_or_yaml(profile, tmp_path, monkeypatch):
    path = profile(data_root="../data")
    assert load(path).data_root == sweep.paths.ROOT / "../data"
    monkeypatch.setenv("FERCORE_DATA", str(tmp_path / "there"))
    assert load(path).data_root == tmp_path / "there"
    assert load(path, root=tmp_path / "here").data_root == tmp_path / "here"


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"learning_rate": 0.1}, r"toy\.yaml: unknown key learning_rate; known are .*lr"),
        ({"methods": None, "labels": None}, r"toy\.yaml: missing key labels, methods"),
        ({"labels": 400}, r"toy\.yaml: labels: expected a list"),
        ({"labels": []}, r"toy\.yaml: labels: expected a list"),
        ({"seeds": ["0"]}, r"toy\.yaml: seeds: expected a list, each entry a whole number, got \['0'\]"),
        ({"split_seeds": [1]}, r"toy\.yaml: split_seeds: needs one value for each of seeds"),
        ({"methods": ["fixmach"]}, r"toy\.yaml: method: 'fixmach' is unknown; choose one of .*fixmatch"),
        ({"methods": ["sitfer/all"]}, r"toy\.yaml: method: sitfer has no variant 'all'"),
        ({"options": {"tau": "high"}}, r"toy\.yaml: options of s\w+: "),
        ({"dataset": "fer2012"}, r"toy\.yaml: dataset: 'fer2012' is unknown; known are facs"),
        ({"lr": "3e-4"}, r"toy\.yaml: lr: expected a number, got '3e-4'; .*3\.0e-4"),
        ({"steps": "many"}, r"toy\.yaml: steps: expected a whole number"),
        ({"evaluations": 9}, r"toy\.yaml: evaluations: 9 does not lie between"),
        ({"notebooks": ["10_table2"]}, r"toy\.yaml: notebooks: expected name"),
        ({"start": "imagnet"}, r"toy\.yaml: start: expected none, imagenet"),
        ({"start": {"file": "x.pt", "key": {}}}, r"toy\.yaml: start: expected"),
        ({"start": {"pretrain": {}}}, r"toy\.yaml: start: pretrain: missing key steps"),
        ({"start": {"pretrain": {"steps": 5, "epochs": 1}}}, r"toy\.yaml: start: pretrain: unknown key epochs"),
        ({"start": {"pretrain": {"steps": 0}}}, r"toy\.yaml: start: pretrain: steps must be at least 1"),
        ({"start": {"pretrain": {"steps": "5"}}}, r"toy\.yaml: start: pretrain: steps: expected a whole number"),
    ],
)
def test_bad_profile(changes, message, profile):
    with pytest.raises(UserError, match=message):
        load(profile(**changes))


@pytest.mark.parametrize("text", ["dataset: [own", "just words", "", "- own", "a: \x00", "dataset: own\ndataset: {"])
def test_not_a_yaml_of_keys(tmp_path, text):
    path = tmp_path / "toy.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=r"toy\.yaml: "):
        load(path)


def test_yaml_runs_no_code(tmp_path):
    path = tmp_path / "toy.yaml"
    path.write_text("dataset: !!python/object/apply:os.getcwd []")
    with pytest.raises(UserError, match="not valid YAML"):
        load(path)


def test_missing_profile_lists_those_that_are_there():
    with pytest.raises(UserError, match=r"nothing\.yaml: no such profile; there are .*, or give the path"):
        profiles.load("nothing")


@pytest.mark.parametrize("path", profiles.committed(), ids=lambda p: p.stem)
def test_every_committed_profile_can_be_read(path):
    study = profiles.load(path.stem)
    assert study.name == path.stem and study.runs()


# The paper's profiles

PAPER = {"rafdb": [100, 400, 2000, 4000], "sfew": [100, 400], "affectnet": [2000, 10000]}
BESIDE = ("fullysupervised", "flexmatch", "simmatch", "freematch", "audit")
TABLE1 = [name for name in METHODS if name not in BESIDE]


@pytest.mark.parametrize("name", PAPER)
def test_profiles_of_the_paper_are_its_protocol(name):
    study = profiles.load(name)
    assert (study.dataset, study.labels, study.seeds) == (name, PAPER[name], [0, 1, 2, 3, 4])
    assert set(METHODS) - {"audit"} | {"sitfer/semantic", "sitfer/text", "sitfer/instance"} == set(study.methods)
    assert [row for row in study.methods if row in TABLE1] == TABLE1  # in its order
    for config in study.runs():
        assert (config.image_size, config.encoder, config.batch, config.lr) == (224, "resnet18", 16, 1e-4)
        assert (config.steps, config.evaluations) == (60 * 800, 60)
        assert (config.text, config.prompt) == ("clip:ViT-B-32/openai", "a face image of {}")
        assert config.start == "file:weights/resnet18_msceleb.pth" and config.dataset_options == config.options == {}


@pytest.mark.parametrize("name", PAPER)
def test_the_published_faces_suffice_for_the_budgets(name):
    pool = np.array(OFFICIAL[name]["train"][0][1])
    order = FOLDERS if name == "sfew" else EXPRESSIONS  # classes in the order of the published counts
    for budget in PAPER[name]:
        wanted = splits.allotment(pool, budget, name, order)
        assert sum(wanted) == budget and (np.array(wanted) <= pool).all()


FOLDERS = ("anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise")
SFEW = ("Angry", "Disgust", "Fear", "Happy", "Neutral", "Sad", "Surprise")


def miniature(name, root):
    """The official layout with three training faces and a test face of each class."""
    rng = np.random.default_rng(0)

    def save(file, height=100, width=100):
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(file)

    faces = [("train", i, i % 7) for i in range(21)] + [("test", i, i) for i in range(7)]
    if name == "rafdb":
        lines = [f"{part}_{i:05}.jpg {label + 1}" for part, i, label in faces]
        for part, i, _ in faces:
            save(root / f"basic/Image/aligned/{part}_{i:05}_aligned.jpg")
        (root / "basic/EmoLabel").mkdir()
        (root / "basic/EmoLabel/list_patition_label.txt").write_text("\n".join(lines))
    if name == "sfew":
        place = {"train": "Train/Train_Aligned_Faces", "test": "Val/Val_Aligned_Faces_new"}
        for part, i, label in faces:
            save(root / place[part] / SFEW[label] / f"{i}.png", 181, 143)
    if name == "affectnet":
        for part, i, label in faces:
            folder = root / {"train": "train_set", "test": "val_set"}[part]
            save(folder / f"images/{i}.jpg", 224, 224)
            (folder / "annotations").mkdir(exist_ok=True)
            np.save(folder / f"annotations/{i}_exp.npy", np.array(str(label)))
    return root


@pytest.mark.parametrize("name", PAPER)
def test_profiles_of_the_paper_run_as_they_stand(name, tmp_path, monkeypatch):
    """Layout, start, prompts, methods and notebooks as given; only sizes and counts are smaller."""
    values = yaml.safe_load((sweep.paths.PARAMS / f"{name}.yaml").read_text())
    smaller = {"labels": [14], "seeds": [0], "steps": 2, "evaluations": 1, "image_size": 32, "batch": 4}
    smaller["points"] = {}
    third = values["methods"][list(PAPER).index(name) :: 3]  # every method on one of the three, SIT-FER on all
    smaller["methods"] = list(dict.fromkeys([*third, "sitfer"]))
    (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(values | smaller))
    network = torchvision.models.resnet18(num_classes=5)  # in the wrapping of published face networks
    weights = {f"module.{key}": tensor for key, tensor in network.state_dict().items()}
    (tmp_path / "weights").mkdir()
    torch.save({"state_dict": weights}, tmp_path / "weights" / "resnet18_msceleb.pth")
    monkeypatch.setattr(loop.paths, "ROOT", tmp_path)
    seen = []
    monkeypatch.setitem(text.ENCODERS, "clip", lambda name, lines: seen.append((name, lines)) or torch.eye(7, 512))
    monkeypatch.setenv("FERCORE_CACHE", str(tmp_path / "cache"))
    study = profiles.load(tmp_path / f"{name}.yaml", data_root=miniature(name, tmp_path / "data"))
    study = replace(study, results=tmp_path / "results")
    made = sweep.complete(study, device="cpu", progress=False)
    assert [r["status"] for r in made] == ["finished"] * len(study.methods), [r.get("error") for r in made]
    for record in made:
        assert record["start"]["kind"] == "file" and record["start"]["matched"] == 1.0
        assert record["data"]["classes"] == list(EXPRESSIONS) and record["data"]["test"] == 7
    assert {(name, lines[0]) for name, lines in seen} == {("ViT-B-32/openai", "a face image of surprise")}


# Making


def test_complete_trains_what_is_missing_and_only_that(profile, toy_root, monkeypatch):
    study = load(profile(), toy_root)
    first = study.runs()[:3]
    assert len(sweep.complete(study, first, device="cpu", progress=False)) == 3
    assert [c.key for c in sweep.missing(study)] == [c.key for c in study.runs()[3:]]
    made = []
    plain = loop.run
    monkeypatch.setattr(loop, "run", lambda config, **place: made.append(config.key) or plain(config, **place))
    out = sweep.complete(study, device="cpu", progress=False)
    assert made == [c.key for c in sweep.ordered(study.runs()[3:])]
    assert {r["key"] for r in out} == {c.key for c in study.runs()}
    assert sweep.missing(study) == []
    assert sweep.complete(study, device="cpu", progress=False) == out and len(made) == 5


def test_cheap_runs_first_within_a_seed(profile):
    methods = ["remixmatch", "fixmatch", "mixmatch", "supervised", "fullysupervised"]
    study = load(profile(methods=methods, labels=[9], seeds=[1, 0]))
    rows = [(config.seed, config.method) for config in sweep.ordered(study.runs())]
    cheap = ["supervised", "fullysupervised", "fixmatch", "mixmatch", "remixmatch"]
    assert rows == [(seed, method) for seed in (1, 0) for method in cheap]


def test_what_cannot_be_counted_comes_last(profile, monkeypatch):
    study = load(profile(labels=[9], seeds=[0]))
    monkeypatch.setattr(cost, "images", lambda config: 1 / 0 if config.method == "supervised" else cost.Images(4, 4))
    assert [config.method for config in sweep.ordered(study.runs())] == ["sitfer/semantic", "supervised"]


def test_the_line_of_progress(profile):
    runs = load(profile(labels=[9], seeds=[0], methods=["supervised", "sitfer/semantic"])).runs()
    a, b = runs
    finished = {"status": "finished", "metrics": {"classifier": {"last": {"accuracy": 0.5125}}}}
    with workers.Progress("toy", runs, show=True) as line:
        prices = [cost.work(config) for config in runs]
        assert line.bar.total == pytest.approx(sum(prices)) and line.bar.desc == "toy: 0 of 2 runs"
        line.step(a, 1)
        line.step(a, 2)
        assert line.bar.n == pytest.approx(2 / 3 * prices[0])
        line.finish(a, finished)
        assert line.bar.n == pytest.approx(prices[0]) and line.bar.desc == "toy: 1 of 2 runs"
        assert line.bar.postfix == "last=0.512"
        line.step(b, 3)  # two of its three steps came from a checkpoint: they take no time now
        assert line.bar.total == pytest.approx(prices[0] + prices[1] / 3)
        line.finish(b, {"status": "failed"})
        assert line.bar.n == pytest.approx(line.bar.total) and line.bar.desc == "toy: 2 of 2 runs"


# Several processes. A spawned process knows the registered encoders and methods only.

REAL = {
    "dataset": "facs", "dataset_options": {"n": 28, "test": 14}, "labels": [7], "encoder": "wrn28_2",
    "image_size": 16, "steps": 4,
}  # fmt: skip


def test_two_processes_make_what_one_makes(profile, tmp_path):
    study = load(profile(**REAL, methods=["supervised", "fixmatch", "sitfer/semantic"], seeds=[0]))
    alone = replace(study, results=tmp_path / "alone")
    together = sweep.complete(study, device="cpu", processes=2, progress=False)
    one_by_one = sweep.complete(alone, device="cpu", progress=False)
    assert len(together) == 3 and sweep.missing(study) == []
    by_key = records.finished(one_by_one)
    if torch.get_num_threads() == 1:  # sums in one order
        assert all(toy.content(record) == toy.content(by_key[record["key"]]) for record in together)
    assert not list((study.results / "checkpoints").iterdir())
    assert sweep.complete(study, processes=2, progress=False) == together


@pytest.fixture
def forked(monkeypatch):
    """Processes that start at once, where the system can fork; how they are spawned is tested above."""
    if "fork" not in multiprocessing.get_all_start_methods():
        pytest.skip("this system cannot fork")
    monkeypatch.setattr(workers, "SPAWN", multiprocessing.get_context("fork"))


def test_processes_stop_for_what_the_user_must_mend(profile, forked):
    study = load(profile(**REAL, start={"file": "absent.pth"}, seeds=[0]))
    with pytest.raises(UserError, match=r"absent\.pth: no such weights file"):
        sweep.complete(study, device="cpu", processes=2, progress=False)
    assert records.read(study.records) == [] and not multiprocessing.active_children()


def test_ctrl_c_stops_all_processes_and_leaves_their_checkpoints(profile, forked):
    long = REAL | {"steps": 100_000, "methods": ["supervised", "fixmatch"], "seeds": [0]}
    study = load(profile(**long))
    seen = []

    class Stop(workers.Progress):
        def step(self, config, step):
            seen.append(config.key)
            if len(set(seen)) == 2:
                signal.raise_signal(signal.SIGINT)

    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it in what it starts in the background
    with pytest.raises(KeyboardInterrupt), Stop("toy", study.runs(), show=False) as line:
        place = {"data_root": None, "results": study.results, "device": "cpu", "progress": False}
        workers.share(study.runs(), 2, place | {"checkpoint_every": 1}, line)
    assert not multiprocessing.active_children()
    kept = sorted(file.name for file in (study.results / "checkpoints").iterdir())
    assert kept == sorted(f"{config.key}.pt" for config in study.runs())  # whole ones: no temporary file is left
    assert all(checkpoint.load(study.results / "checkpoints" / name, torch.device("cpu"))["step"] for name in kept)
    assert records.read(study.records) == []


def test_a_process_that_dies_leaves_a_failed_record_and_is_replaced(profile, forked, monkeypatch):
    study = load(profile(**REAL, methods=["supervised", "fixmatch"], seeds=[0, 1]))
    plain, killed = workers.start, []

    def start(*arguments):
        line, process = plain(*arguments)
        if not killed:
            killed.append(process.kill())
        return line, process

    monkeypatch.setattr(workers, "start", start)
    made = sweep.complete(study, device="cpu", processes=2, progress=False)
    assert [r["status"] for r in made].count("failed") == 1 and len(made) == 4
    assert next(r["error"] for r in made if r["status"] == "failed") == "its process ended with exit code -9"


def test_several_sweeps_over_one_folder_share_the_work(profile, toy_root, monkeypatch):
    """What another sweep is at comes last, is waited for, and is not made again."""
    study = load(profile(labels=[9], methods=["supervised"], seeds=[0, 1]), toy_root)
    first, second = sweep.ordered(study.runs())
    plain, made = loop.run, []

    def run(config, **place):
        made.append(config.key)
        record = plain(config, **place)
        if config == second:  # and now the other sweep is done with the first
            records.append(study.records, synthetic.of(first, accuracy=0.5))
            other.close()
        return record

    monkeypatch.setattr(loop, "run", run)
    with contextlib.ExitStack() as other:
        other.enter_context(workers.claim(study.results, first.key))
        out = sweep.complete(study, device="cpu", progress=False)
    assert made == [second.key] and sorted(r["key"] for r in out) == sorted([first.key, second.key])
    assert not list((study.results / "checkpoints").iterdir())


def test_a_claimed_run_goes_to_the_end_of_the_queue_of_all_processes(profile, forked):
    study = load(profile(**REAL, methods=["supervised", "fixmatch"], seeds=[0]))
    first, _ = sweep.ordered(study.runs())
    order = []

    class Watch(workers.Progress):
        def finish(self, config, record):
            order.append(config.key)
            other.close()

    with contextlib.ExitStack() as other, Watch("toy", study.runs(), show=False) as line:
        other.enter_context(workers.claim(study.results, first.key))
        place = {"data_root": None, "results": study.results, "device": "cpu", "progress": False}
        workers.share(sweep.ordered(study.runs()), 2, place, line)
    assert len(order) == 2 and order[-1] == first.key


# Merging


def test_records_of_one_file_that_disagree(tmp_path):
    one = synthetic.run("supervised", 0)
    for record in (synthetic.run("supervised", 1), one, one | {"provenance": {}}, one | {"metrics": {}, "split": 1}):
        records.append(tmp_path / "b.jsonl", record)
    with pytest.raises(UserError) as error:
        sweep.merge(tmp_path / "a.jsonl", [tmp_path / "b.jsonl"])
    b = tmp_path / "b.jsonl"
    assert str(error.value) == (
        f"{b}, record 2 and {b}, record 4: {one['key']} differs in metrics, split; keep one of them, or keep both with "
        "--again"
    )
    assert not (tmp_path / "a.jsonl").exists()  # nothing is added beside a conflict
    with pytest.raises(UserError, match=r"b\.jsonl, record 2 and .*b\.jsonl, record 4"):
        sweep.merge(b, [])


def test_identical_duplicates_collapse(tmp_path):
    one = synthetic.run("supervised", 0)
    for name in "bc":
        records.append(tmp_path / f"{name}.jsonl", one)
        records.append(tmp_path / f"{name}.jsonl", one | {"provenance": {"device": name}})
        records.append(tmp_path / f"{name}.jsonl", synthetic.run("supervised", 1, status="failed"))
    assert sweep.merge(tmp_path / "a.jsonl", [tmp_path / "b.jsonl", tmp_path / "c.jsonl"]) == 1
    assert records.read(tmp_path / "a.jsonl") == [one]


def test_a_failed_run_leaves_its_error_and_does_not_stop_the_others(profile, toy_root, monkeypatch):
    study = load(profile(labels=[9]), toy_root)
    plain = loop.run

    def run(config, **place):
        if config.seed == 0 and config.method == "supervised":
            raise RuntimeError("loss is not finite")
        return plain(config, **place)

    monkeypatch.setattr(loop, "run", run)
    out = sweep.complete(study, device="cpu", progress=False)
    assert [r["status"] for r in out].count("failed") == 1 and len(out) == 4
    failed = next(r for r in out if r["status"] == "failed")
    assert failed["error"] == "RuntimeError: loss is not finite" and failed["config"]["seed"] == 0
    assert [c.key for c in sweep.missing(study)] == [failed["key"]]
    monkeypatch.setattr(loop, "run", plain)
    sweep.complete(study, device="cpu", progress=False)
    assert sweep.missing(study) == []  # made again; the failure stays on record


def test_a_loss_that_is_not_finite_is_a_failure(profile, toy_root, monkeypatch):
    study = load(profile(labels=[9], seeds=[0], methods=["supervised"], lr=1e30, steps=8), toy_root)
    (record,) = sweep.complete(study, device="cpu", progress=False)
    assert record["status"] == "failed" and record["error"]
    files.canonical(record)


@pytest.mark.parametrize("error", [UserError("no weights"), KeyboardInterrupt()])
def test_what_the_user_must_mend_stops_the_sweep(profile, toy_root, monkeypatch, error):
    study = load(profile(), toy_root)
    plain, calls = loop.run, []

    def run(config, **place):
        calls.append(config)
        if len(calls) == 2:
            raise error
        return plain(config, **place)

    monkeypatch.setattr(loop, "run", run)
    with pytest.raises(type(error)):
        sweep.complete(study, device="cpu", progress=False)
    assert len(records.read(study.records)) == 1  # what was finished stays


def test_without_data_nothing_is_trained(profile, tmp_path, monkeypatch):
    study = load(profile(), tmp_path / "absent")
    monkeypatch.setattr(loop, "run", lambda *args, **place: pytest.fail("trained"))
    assert not sweep.ready(study) and sweep.complete(study, progress=False) == []
    record = {"key": study.runs()[0].key, "kind": "run", "status": "finished", "config": study.runs()[0].to_dict()}
    records.append(study.records, record)
    assert sweep.complete(study, progress=False) == [record]
    assert len(sweep.missing(study)) == 7
    assert not sweep.ready(load(profile())) and sweep.ready(load(profile(dataset="facs")))


def test_a_text_encoder_that_is_not_at_hand_leaves_out_its_runs(profile, toy_root, tmp_path, monkeypatch):
    def absent(name, lines):
        raise UserError("text: not here")

    monkeypatch.setenv("FERCORE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(text.ENCODERS, "clip", absent)
    sweep.at_hand.cache_clear()
    study = load(profile(labels=[9], seeds=[0], methods=["sitfer"]), toy_root)
    (own,) = study.runs()
    others = [replace(own, text=name) for name in ("clip:toy/toy", "shuffled:clip:toy/toy", "onehot")]
    made = sweep.complete(study, [own, *others], device="cpu", progress=False)
    assert [r["config"]["text"] for r in made] == ["orthogonal", "onehot"]
    # The profile's own encoder is asked for: its absence is an error.
    study = load(profile(labels=[9], seeds=[0], methods=["sitfer"], text="clip:toy/toy"), toy_root)
    with pytest.raises(UserError, match="text: not here"):
        sweep.complete(study, device="cpu", progress=False)


def test_the_start_is_made_first_and_once(profile, toy_root):
    start = {"pretrain": {"steps": 2, "batch": 8}}
    study = load(profile(start=start, labels=[9], seeds=[0], methods=["supervised"]), toy_root)
    assert study.pretrain == Pretrain("own", 2, toy.SIZE, encoder="toy", batch=8)
    assert study.start == f"pretrain:{study.pretrain.key}"
    out = sweep.complete(study, device="cpu", progress=False)
    assert [r["kind"] for r in out] == ["pretrain", "run"]
    assert out[1]["start"]["sha256"] == out[0]["start"]["sha256"] and out[1]["start"]["matched"] == 1.0
    assert out[1]["start"]["key"] == out[0]["key"]
    assert simclr.file(study.results, study.pretrain.key).is_file()
    assert [r["kind"] for r in sweep.complete(study, device="cpu", progress=False)] == ["pretrain", "run"]


def test_a_start_from_a_file_of_the_repository(profile, toy_root, tmp_path, monkeypatch):
    from safetensors.torch import save_file

    state = {f"old.{k}": v.contiguous() for k, v in toy.network().state_dict().items()}
    save_file(state, tmp_path / "weights.safetensors")
    monkeypatch.setattr(loop.paths, "ROOT", tmp_path)
    start = {"file": "weights.safetensors", "keys": {"old.": ""}}
    study = load(profile(start=start, labels=[9], seeds=[0], methods=["supervised"]), toy_root)
    (record,) = sweep.complete(study, device="cpu", progress=False)
    assert record["start"]["kind"] == "file" and record["start"]["matched"] == 1.0
    assert record["config"]["start"] == "file:weights.safetensors"  # the key is the same on every machine
