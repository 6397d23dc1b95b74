"""Profiles: what a YAML may say, the grid that it spans, and those of the paper."""

import itertools

import numpy as np
import pytest
import torch
import torchvision
import toy
import yaml
from PIL import Image

from fercore import encoders, paths, text
from fercore.analysis import claims
from fercore.data import splits
from fercore.data.check import OFFICIAL
from fercore.data.expressions import EXPRESSIONS
from fercore.errors import UserError
from fercore.study import cost, profiles, sweep
from fercore.training import pretrained


def test_the_grid_is_the_product_and_split_seeds_follow_the_seeds(profile):
    study = profiles.load(profile())
    cells = [(c.seed, c.split_seed, c.labels, c.method) for c in study.runs()]
    product = itertools.product(*(toy.PROFILE[name] for name in ("seeds", "labels", "methods")))
    assert sorted(cells) == sorted((seed, seed, *rest) for seed, *rest in product)
    assert len({c.key for c in study.runs()}) == 8
    assert study.name == "toy" and study.data_root is None and study.records == study.results / "records.jsonl"
    part = study.runs(["supervised"], [12])
    assert [(c.method, c.labels, c.seed) for c in part] == [("supervised", 12, 0), ("supervised", 12, 1)]
    assert {(c.seed, c.split_seed) for c in profiles.load(profile(split_seeds=[5, 5])).runs()} == {(0, 5), (1, 5)}


def test_a_method_that_ignores_the_budget_has_one_run_for_each_seed(profile):
    runs = profiles.load(profile(methods=["supervised", "fullysupervised"])).runs()
    cells = [(c.seed, c.labels) for c in runs if c.method == "fullysupervised"]
    assert cells == [(0, 0), (1, 0)] and len(runs) == 6
    other = profiles.load(profile(methods=["fullysupervised"], labels=[12])).runs()
    assert {c.key for c in other} < {c.key for c in runs}


def test_data_root_from_option_environment_or_yaml_and_in_no_key(profile, tmp_path, monkeypatch):
    keys = [c.key for c in profiles.load(profile()).runs()]
    path = profile(data_root="../data", profile="another")
    assert profiles.load(path).data_root == paths.ROOT / "../data"
    monkeypatch.setenv("FERCORE_DATA", str(tmp_path / "there"))
    assert profiles.load(path).data_root == tmp_path / "there"
    study = profiles.load(path, data_root=tmp_path / "here")
    assert study.data_root == tmp_path / "here" and [c.key for c in study.runs()] == keys


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"learning_rate": 0.1}, r"toy\.yaml: unknown key learning_rate; known are .*lr"),
        ({"methods": None, "labels": None}, r"toy\.yaml: missing key labels, methods"),
        ({"labels": 400}, r"toy\.yaml: labels: expected a valid list"),
        ({"labels": []}, r"toy\.yaml: labels: List should have at least 1 item"),
        ({"seeds": ["0"]}, r"toy\.yaml: seeds: expected a valid integer, got \['0'\]"),
        ({"split_seeds": [1]}, r"toy\.yaml: split_seeds: needs one value for each of seeds"),
        ({"methods": ["fixmach"]}, r"toy\.yaml: method: 'fixmach' is unknown; choose one of .*fixmatch"),
        ({"methods": ["sitfer/all"]}, r"toy\.yaml: method: sitfer has no variant 'all'"),
        ({"options": {"tau": "high"}}, r"toy\.yaml: options of s\w+: "),
        ({"dataset": "fer2012"}, r"toy\.yaml: dataset: expected one of facs, .* got 'fer2012'"),
        ({"steps": "many"}, r"toy\.yaml: steps: expected a valid integer"),
        ({"evaluations": 9}, r"toy\.yaml: evaluations: 9 does not lie between"),
        ({"notebooks": ["10_table2"]}, r"toy\.yaml: notebooks: expected a valid dictionary"),
        ({"points": [9]}, r"toy\.yaml: points: expected a valid dictionary, got \[9\]"),
        ({"points": {"budget": [9]}}, "points: expected 'labels' or 'seeds'"),
        ({"points": {"labels": 9}}, r"points: expected a valid list, got"),
        ({"points": {"labels": [77]}}, r"points: labels: expected some of \[9, 12\], got \[77\]"),
        ({"points": {"seeds": []}}, "points: List should have at least 1 item"),
        ({"points": {"seeds": [[0]]}}, "points: expected a valid integer"),
        ({"start": "imagnet"}, r"toy\.yaml: start: expected none, imagenet"),
        ({"start": {"file": "x.pt", "key": {}}}, r"toy\.yaml: start: expected"),
        ({"start": {"pretrain": {}}}, r"toy\.yaml: start: pretrain: missing key steps"),
        ({"start": {"pretrain": {"steps": 5, "epochs": 1}}}, r"toy\.yaml: start: pretrain: unknown key epochs"),
        ({"start": {"pretrain": {"steps": 0}}}, r"toy\.yaml: start: pretrain: steps: expected greater than or equal"),
        ({"start": {"pretrain": {"steps": "5"}}}, r"toy\.yaml: start: pretrain: steps: expected a valid integer"),
        *(({"profile": name}, r"toy\.yaml: profile: expected a name") for name in ("../x", "a/b", "..", "/x", "")),
        ({"notebooks": {"../x": {}}}, r"toy\.yaml: notebooks: expected a name .* no path, got .*\.\./x"),
        ({"data_root": 5}, r"toy\.yaml: data_root: expected a valid string, got 5"),
        ({"labels": [-1]}, r"toy\.yaml: labels: expected greater than or equal to 0, got -1"),
        ({"labels": [True]}, r"toy\.yaml: labels: expected a valid integer"),
        ({"seeds": [-1]}, r"toy\.yaml: seed: expected greater than or equal to 0, got -1"),
        ({"split_seeds": [0, 2**40]}, r"toy\.yaml: split_seed: expected less than 4294967296"),
        ({"steps": 10**12}, r"toy\.yaml: steps: expected less than or equal to 100000000, got 1000000000000"),
        ({"batch": 1}, r"toy\.yaml: batch: expected greater than or equal to 2, got 1"),
        ({"image_size": 1}, r"toy\.yaml: image_size: expected greater than or equal to 8, got 1"),
        ({"ema": 1.0}, r"toy\.yaml: ema: expected less than 1, got 1.0"),
        ({"validation": -0.1}, r"toy\.yaml: validation: expected greater than or equal to 0, got -0.1"),
        ({"lr": 0}, r"toy\.yaml: lr: expected greater than 0, got 0"),
        ({"prompt": "a face"}, r"toy\.yaml: prompt: expected exactly one {} for the expression, got 'a face'"),
        ({"prompt": "{} {}"}, r"toy\.yaml: prompt: expected exactly one {} for the expression, got '{} {}'"),
        ({"precision": "fp8"}, r"toy\.yaml: precision: expected one of auto, fp32, bf16, got 'fp8'"),
        ({"encoder": "resnet99"}, r"toy\.yaml: encoder: 'resnet99' is unknown"),
        ({"text": "word2vec"}, r"toy\.yaml: text: 'word2vec' is unknown"),
        ({"few_labels": 1}, r"toy\.yaml: few_labels: expected a valid boolean, got 1"),
        ({"methods": ["fixmatch"], "options": {"tau": 1.5}}, r"toy\.yaml: options of fixmatch: tau: expected"),
        ({"start": {"file": 5}}, r"toy\.yaml: start: expected"),
        ({"start": {"file": "x", "keys": {1: 2}}}, r"toy\.yaml: start: start_keys: expected a valid string"),
        *(
            ({"start": {"pretrain": {"steps": 5} | wrong}}, rf"toy\.yaml: start: pretrain: {message}")
            for wrong, message in (
                ({"batch": 1}, "batch: expected greater than or equal to 2, got 1"),
                ({"lr": -1.0}, "lr: expected greater than 0, got -1.0"),
                ({"temperature": 0}, "temperature: expected greater than 0, got 0"),
                ({"warmup": 2}, "warmup: expected less than or equal to 1, got 2"),
                ({"weight_decay": -1}, "weight_decay: expected greater than or equal to 0, got -1"),
                ({"projection": -1}, "projection: expected greater than or equal to 0, got -1"),
                ({"seed": -1}, "seed: expected greater than or equal to 0, got -1"),
                ({"precision": "fp8"}, "precision: expected one of auto"),
                ({"steps": 10**12}, "steps: expected less than or equal to .*, got 1000000000000"),
                ({"encoder": "resnet18"}, "encoder: 'resnet18'; that of the runs is 'toy'"),
            )
        ),
    ],
)
def test_bad_profile(changes, message, profile):
    with pytest.raises(UserError, match=message) as error:
        profiles.load(profile(**changes))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "text, message",
    [
        ("dataset: [own", "not valid YAML"),
        ("a: \x00", "not valid YAML"),
        ("dataset: own\ndataset: {", "not valid YAML"),
        ("dataset: !!python/object/apply:os.getcwd []", "not valid YAML"),  # runs no code
        ("just words", "expected keys and values"),
        ("- own", "expected keys and values"),
        ("", "expected keys and values"),
        ("lr: 1.0\nlr: 2.0", "not valid YAML .*the key lr stands twice"),
        ("options: {tau: 0.5, tau: 0.6}", "not valid YAML .*the key tau stands twice"),
        ("a: &a [x]\nb: *a", "not valid YAML .*aliases"),
        ("a: &a [x, x]\nb: &b [*a, *a]\nlabels: [*b, *b]", "not valid YAML .*aliases"),  # a bomb begins so
        ("options: " + 9000 * "[", "not valid YAML"),
        ("steps: " + 9000 * "9", "not valid YAML"),
        ("x: " + 600_000 * "a", "larger than 500,000 bytes"),
        ("<<: {lr: 1.0}", "unknown key <<"),
    ],
)
def test_not_a_yaml_of_keys(tmp_path, text, message):
    path = tmp_path / "toy.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=rf"toy\.yaml: {message}") as error:
        profiles.load(path)
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize("written", ["010", "1:30", "1_000", "0x10", "1e3", "1.0", "'3'", "yes", "2020-01-01", "~"])
def test_numbers_are_what_they_look_like(written, profile):
    """YAML 1.1 reads octal, base 60 and underscores; none of it is a number of steps here."""
    path = profile()
    path.write_text(path.read_text().replace("steps: 3", f"steps: {written}"))
    with pytest.raises(UserError, match=r"toy\.yaml: steps: expected a valid integer"):
        profiles.load(path)


@pytest.mark.parametrize("written, value", [("3e-4", 3e-4), ("3.0e-4", 3e-4), ("1", 1.0), ("+.5", 0.5), ("5.", 5.0)])
def test_numbers_with_and_without_exponent_are_read(written, value, profile):
    path = profile()
    path.write_text(path.read_text().replace("lr: 0.001", f"lr: {written}"))
    assert profiles.load(path).shared["lr"] == value


@pytest.mark.parametrize("written", [".nan", ".inf", "1e999", "'0.1'", "yes", "010.5"])
def test_a_learning_rate_is_a_finite_number(written, profile):
    path = profile()
    path.write_text(path.read_text().replace("lr: 0.001", f"lr: {written}"))
    with pytest.raises(UserError, match=r"toy\.yaml: lr: expected a (valid|finite) number"):
        profiles.load(path)


def test_missing_profile_lists_those_that_are_there():
    with pytest.raises(UserError, match=r"nothing\.yaml: no such profile; there are .*, or give the path"):
        profiles.load("nothing")


@pytest.mark.parametrize("path", profiles.committed(), ids=lambda p: p.stem)
def test_every_committed_profile_can_be_read(path):
    study = profiles.load(path.stem)
    assert study.name == path.stem and study.runs()


# The paper's profiles

PAPER = {"rafdb": [100, 400, 2000, 4000], "sfew": [100, 400], "affectnet": [2000, 10000]}


@pytest.mark.parametrize("name", PAPER)
def test_profiles_of_the_paper_are_its_protocol(name):
    study = profiles.load(name)
    assert (study.dataset, study.labels, study.seeds) == (name, PAPER[name], [0, 1, 2, 3, 4])
    table1, table2 = (list(dict.fromkeys(c.row for c in claims.load() if c.id.startswith(t))) for t in TABLES)
    assert [row for row in study.methods if row in table1] == table1  # in its order
    assert set(table2) <= set(study.methods)
    for config in study.runs():
        assert (config.image_size, config.encoder, config.batch, config.lr) == (224, "resnet18", 16, 1e-4)
        assert (config.steps, config.evaluations) == (60 * 800, 60)
        assert (config.text, config.prompt) == ("clip:ViT-B-32/openai", "a face image of {}")
        assert config.start == "file:weights/resnet18_msceleb.pth" and config.dataset_options == config.options == {}


TABLES = "sit-fer/I ", "sit-fer/II "


@pytest.mark.parametrize("name", PAPER)
def test_the_published_faces_suffice_for_the_budgets(name):
    pool = np.array(OFFICIAL[name]["train"][0][1])
    order = FOLDERS if name == "sfew" else EXPRESSIONS  # classes in the order of the published counts
    for budget in PAPER[name]:
        wanted = splits.labels_per_class(pool, budget, name, order)
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


def published(network):
    """Weights in the wrapping of published face networks."""
    return {f"module.{key}": tensor for key, tensor in network.state_dict().items()}


def test_a_published_resnet_is_found_whole():
    state = published(torchvision.models.resnet18(num_classes=5))
    assert pretrained.load(encoders.backbone("resnet18")[0], pretrained.Start("file", tensors=state)) == 1.0


@pytest.mark.parametrize("name", PAPER)
def test_profiles_of_the_paper_run_as_they_stand(name, tmp_path, monkeypatch):
    """Layout, start, prompts, methods and notebooks as given; the encoder, sizes and counts are smaller."""
    values = yaml.safe_load((paths.PARAMS / f"{name}.yaml").read_text())
    smaller = {"labels": [14], "seeds": [0], "steps": 2, "evaluations": 1, "image_size": toy.SIZE, "encoder": "toy"}
    smaller |= {"batch": 4, "unlabelled_batch": 4, "points": {}}
    third = values["methods"][list(PAPER).index(name) :: 3]  # every method on one of the three, SIT-FER on all
    smaller["methods"] = list(dict.fromkeys([*third, "sitfer"]))
    (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(values | smaller))
    (tmp_path / "weights").mkdir()
    torch.save({"state_dict": published(toy.network())}, tmp_path / "weights" / "resnet18_msceleb.pth")
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    monkeypatch.setattr(cost, "flops", lambda config: 1.0)  # the order is no matter here
    seen = []
    monkeypatch.setitem(text.ENCODERS, "clip", lambda name, lines: seen.append((name, lines)) or torch.eye(7, 512))
    monkeypatch.setenv("FERCORE_CACHE", str(tmp_path / "cache"))
    given = tmp_path / f"{name}.yaml"
    study = profiles.load(given, data_root=miniature(name, tmp_path / "data"), results=tmp_path / "results")
    made = sweep.complete(study, device="cpu", progress=False)
    assert [r["status"] for r in made] == ["finished"] * len(study.methods), [r.get("error") for r in made]
    for record in made:
        assert record["start"]["kind"] == "file" and record["start"]["matched"] == 1.0
        assert record["data"]["classes"] == list(EXPRESSIONS) and record["data"]["test"] == 7
    assert {(name, lines[0]) for name, lines in seen} == {("ViT-B-32/openai", "a face image of surprise")}
