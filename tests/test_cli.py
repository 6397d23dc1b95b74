"""The command line: what it prints, and that bad input is one clear line, exit code 2, and nothing lost."""

import json
import re
import subprocess
import sys

import pytest
import synthetic
import toy
import yaml
from safetensors.torch import save_file

import fercore
from fercore import cli, paths, text
from fercore.errors import UserError
from fercore.study import plan, profiles, records
from fercore.training import loop

SHORT = (
    f"--labels 9 --steps 2 --evaluations 1 --batch 4 --unlabelled-batch 4 --image-size {toy.SIZE} --encoder toy "
    "--text orthogonal --precision fp32 --device cpu"
).split()


@pytest.fixture
def faces(tmp_path):
    """A copy of the data set that may be damaged."""
    return toy.write_faces(tmp_path / "faces", train=6, test=2)


def train_on(root, results, *more, method="supervised", dataset="own"):
    return ["train", "--dataset", dataset, "--data-root", root, "--method", method, "--results", results, *SHORT, *more]


# What it prints


def test_train_prints_its_record_as_the_last_line(call, toy_root, tmp_path):
    code, out, err = call(*train_on(toy_root, tmp_path, method="sitfer"))
    assert code == 0
    record = json.loads(out[-1])
    assert [record] == records.read(tmp_path / "records.jsonl")
    config = toy.config("sitfer", steps=2, evaluations=1, batch=4, unlabelled_batch=4, lr=1e-4)
    assert record["config"] == config.to_dict() and record["key"] == config.key
    assert not any("Traceback" in line for line in err)
    again = call(*train_on(toy_root, tmp_path, method="sitfer"))
    assert json.loads(again[1][-1]) == record


def test_options_of_method_and_data(call, toy_root, tmp_path):
    more = [
        "--set",
        "tau=0.5",
        "--set",
        'levels=["semantic"]',
        "--data-option",
        'classes=["neutral","anger","happiness"]',
    ]
    code, out, _ = call(*train_on(toy_root, tmp_path, *more, method="sitfer"))
    record = json.loads(out[-1])
    assert code == 0 and record["config"]["options"] == {"tau": 0.5, "levels": ["semantic"]}
    assert record["data"]["classes"] == ["neutral", "anger", "happiness"]


def test_pretrain_then_train_from_it(call, toy_root, tmp_path):
    common = ["--dataset", "own", "--data-root", toy_root, "--results", tmp_path, "--encoder", "toy", "--device", "cpu"]
    code, out, _ = call("pretrain", *common, "--steps", 2, "--batch", 4, "--image-size", toy.SIZE)
    start = json.loads(out[-1])
    assert code == 0 and start["kind"] == "pretrain"
    code, out, _ = call(*train_on(toy_root, tmp_path, "--start", f"pretrain:{start['key']}"))
    assert code == 0 and json.loads(out[-1])["start"]["sha256"] == start["start"]["sha256"]


def test_data_counts_faces(call, toy_root):
    code, out, _ = call("data", "own", toy_root)
    assert code == 0
    assert any(re.match(r"train +16 +16 +16 +48", line) for line in out)
    assert any(re.match(r"test +6 +6 +6 +18", line) for line in out)


def test_text_prints_cosines(call):
    code, out, _ = call("text", "--text", "onehot", "--classes", "a,b,c")
    assert code == 0 and "3 classes x 512" in out[0]
    assert [line.split() for line in out[1:]] == [
        ["a", "1.00", "0.00", "0.00"], ["b", "0.00", "1.00", "0.00"], ["c", "0.00", "0.00", "1.00"],
    ]  # fmt: skip


def test_sweep_and_its_parts(call, toy_root, tmp_path):
    profile = tmp_path / "mini.yaml"
    values = {
        "dataset": "own", "labels": [9], "seeds": [0, 1], "methods": ["supervised"], "steps": 2, "evaluations": 1,
        "batch": 4, "image_size": toy.SIZE, "encoder": "toy", "lr": 0.001,
    }  # fmt: skip
    profile.write_text(yaml.safe_dump(values))
    where = ["--data-root", toy_root, "--results", tmp_path / "results", "--device", "cpu"]
    code, out, _ = call("sweep", profile, *where, "--part", "1/2")
    assert code == 0 and out[-1].endswith("1 runs of 2 are missing")
    assert [r["config"]["seed"] for r in records.read(tmp_path / "results" / "records.jsonl")] == [1]
    code, out, _ = call("sweep", profile, *where)
    assert code == 0 and out[-1].endswith("0 runs of 2 are missing")


def test_sweep_of_one_notebook(call, toy_root, tmp_path):
    profile = tmp_path / "mini.yaml"
    values = {
        "dataset": "own", "labels": [9], "seeds": [0, 1], "methods": ["supervised"], "steps": 2, "evaluations": 1,
        "batch": 4, "unlabelled_batch": 4, "image_size": toy.SIZE, "encoder": "toy", "text": "onehot", "lr": 0.001,
        "notebooks": {"10_table2_components": {}, "12_table3_prompts": {}},
    }  # fmt: skip
    profile.write_text(yaml.safe_dump(values))
    where = ["--data-root", toy_root, "--results", tmp_path / "results", "--device", "cpu"]
    asked = ["--notebook", "12_table3_prompts", "--methods", "sitfer", "--seeds", "1", "--part", "0/5"]
    code, out, _ = call("sweep", profile, *where, *asked)
    made = [r["config"] for r in records.read(tmp_path / "results" / "records.jsonl")]
    assert code == 0 and {(config["method"], config["seed"]) for config in made} == {("sitfer", 1)}
    assert len({config["text"] + config["prompt"] for config in made}) == len(made) > 1
    study = profiles.load(profile)
    assert out[-1].endswith(f"{len(plan.runs(study)) - len(made)} runs of {len(plan.runs(study))} are missing")


def test_dry_run_needs_no_data_and_trains_nothing(call, tmp_path, monkeypatch):
    profile = tmp_path / "mini.yaml"
    values = {
        "dataset": "rafdb", "data_root": "absent", "labels": [100], "seeds": [0, 1], "methods": ["supervised"],
        "steps": 2, "evaluations": 1, "image_size": toy.SIZE, "encoder": "toy", "start": {"file": "absent.pth"},
        "notebooks": {"01_one_step": {}, "10_table2_components": {}},
    }  # fmt: skip
    profile.write_text(yaml.safe_dump(values))
    monkeypatch.setitem(sys.modules, "papermill", None)
    code, out, _ = call("reproduce", profile, "--results", tmp_path / "results", "--dry-run")
    assert code == 0 and "2 of 2 runs are missing" in out[0]
    assert any(re.match(r"supervised +100 +2 ", line) for line in out)
    assert any(re.match(r" +10_table2_components +2 runs", line) for line in out)
    code, only, _ = call(
        "reproduce", profile, "--results", tmp_path / "results", "--dry-run", "--notebook", "01_one_step"
    )
    assert code == 0 and not any("10_table2_components" in line for line in only)
    assert not (tmp_path / "results").exists()


def test_merge(call, tmp_path):
    for name, seeds in (("a", (0, 1)), ("b", (1, 2))):
        for seed in seeds:
            records.append(tmp_path / f"{name}.jsonl", synthetic.run("supervised", seed))
    code, out, _ = call("merge", tmp_path / "a.jsonl", tmp_path / "b.jsonl")
    assert code == 0 and out[-1].endswith("a.jsonl: 1 new records")


@pytest.mark.parametrize("arguments", [[], ["--help"], ["train", "--help"]])
def test_help(call, arguments):
    code, out, err = call(*arguments)
    assert code == (0 if arguments else 2)
    assert "Usage:" in "\n".join(out + err) and not any(line.startswith("error:") for line in err)


def test_stopped_by_the_keyboard(call, toy_root, tmp_path, monkeypatch):
    def stopped(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "train_step", stopped)
    code, _, err = call(*train_on(toy_root, tmp_path))
    assert code == 130 and not any("Traceback" in line for line in err)
    assert not (tmp_path / "records.jsonl").exists()


BLOCKED = ("papermill", "open_clip", "pandas", "matplotlib", "seaborn", "IPython", "sentence_transformers")
BARE = f"""
import importlib.machinery, importlib.util, runpy, sys
plain = importlib.machinery.PathFinder.find_spec
def find(cls, name, path=None, target=None):
    return None if name.split(".")[0] in {BLOCKED} else plain(name, path, target)
importlib.machinery.PathFinder.find_spec = classmethod(find)
assert not any(importlib.util.find_spec(name) for name in {BLOCKED})
runpy.run_module("fercore", run_name="__main__")
"""


def test_train_needs_the_core_packages_only(toy_root, tmp_path):
    more = ["--encoder", "wrn28_2", "--image-size", "16"]
    arguments = map(str, train_on(toy_root, tmp_path, *more, method="sitfer"))
    done = subprocess.run([sys.executable, "-c", BARE, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["status"] == "finished"


def test_what_trains_does_not_import_what_shows():
    folders = (paths.ROOT / "fercore", paths.ROOT / "fercore/methods", paths.ROOT / "fercore/data")
    files = [file for folder in folders for file in folder.glob("*.py")]
    assert len(files) > 40
    assert [file.name for file in files if re.search(r"^from fercore(\.| import )pages", file.read_text(), re.M)] == []


def test_the_map_of_the_library_names_every_module_once():
    words = re.findall(r"[a-z_]+", re.sub(r"\(.*?\)", "", fercore.__doc__.partition(":\n\n")[2]))
    rows = {line.split()[0] for line in fercore.__doc__.partition(":\n\n")[2].splitlines() if line}
    here = [path for path in (paths.ROOT / "fercore").iterdir() if not path.name.startswith("__")]
    assert sorted(words) == sorted([*rows, *(path.stem for path in here if path.suffix in ("", ".py"))])


# Bad input


@pytest.mark.parametrize(
    "dataset, make, message",
    [
        ("own", lambda root: None, r"absent does not exist; expected a folder per class"),
        ("rafdb", lambda root: root.mkdir(), r"rafdb|list_patition_label"),
        ("fer2013", lambda root: root.mkdir(), r"fer2013\.csv"),
        ("own", lambda root: root.mkdir(), r"holds no image in a folder per class"),
    ],
)
def test_missing_root_and_wrong_layout(refused, tmp_path, dataset, make, message):
    root = tmp_path / "absent"
    make(root)
    assert re.search(message, refused(*train_on(root, tmp_path / "r", dataset=dataset)))
    assert not (tmp_path / "r" / "records.jsonl").exists()


def test_no_root(refused, tmp_path):
    line = refused("train", "--dataset", "own", "--method", "supervised", "--results", tmp_path, *SHORT)
    assert "own: no data root given; expected a folder per class" in line


def test_truncated_image(refused, call, faces, tmp_path):
    victim = faces / "train" / "anger" / "3.png"
    whole = victim.read_bytes()
    victim.write_bytes(whole[: len(whole) // 2])
    assert "train/anger/3.png is unreadable" in refused(*train_on(faces, tmp_path / "r"))
    code, out, _ = call("data", "own", faces)
    assert code == 1 and any("3.png is unreadable" in line for line in out)
    victim.write_bytes(whole)
    assert call(*train_on(faces, tmp_path / "r"))[0] == 0


def test_unknown_class(refused, faces, tmp_path):
    line = refused(*train_on(faces, tmp_path, "--data-option", 'classes=["anger","happiness"]'))
    assert "of the unknown class 'neutral'; expected anger, happiness" in line


def test_budget_larger_than_a_class(refused, faces, tmp_path):
    for i in range(2, 6):
        (faces / "train" / "anger" / f"{i}.png").unlink()
    line = refused(*train_on(faces, tmp_path, "--labels", 9))
    assert "own: class anger has 2 training faces, 9 labels in total need 3 of it" in line
    assert "own: 15 labels asked for, the training set has 14" in refused(*train_on(faces, tmp_path, "--labels", 15))


def test_weights_with_wrong_keys(refused, toy_root, tmp_path):
    state = {f"trunk.{k}": v.contiguous() for k, v in toy.network().state_dict().items()}
    save_file(state, tmp_path / "other.safetensors")
    line = refused(*train_on(toy_root, tmp_path / "r", "--start", f"file:{tmp_path / 'other.safetensors'}"))
    assert "other.safetensors: only 0% of the encoder's 10 tensors found" in line
    (tmp_path / "broken.safetensors").write_bytes(b"these are no weights")
    line = refused(*train_on(toy_root, tmp_path / "r", "--start", f"file:{tmp_path / 'broken.safetensors'}"))
    assert "broken.safetensors: not readable as weights" in line


def test_damaged_prompt_cache(refused, call, toy_root, tmp_path, monkeypatch):
    monkeypatch.setenv("FERCORE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(text.ENCODERS, "sentence", lambda name, lines: text._random(len(lines)))
    arguments = train_on(toy_root, tmp_path / "r", "--text", "sentence:x", method="sitfer")
    assert call(*arguments)[0] == 0
    (file,) = (tmp_path / "cache" / "text").iterdir()
    file.write_bytes(b"damaged")
    line = refused(*arguments, "--seed", 1)
    assert f"{file.name}: damaged prompt table; delete it, and it is computed again" in line
    assert len(records.read(tmp_path / "r" / "records.jsonl")) == 1


def test_damaged_cache_of_faces_is_built_again(call, faces, tmp_path, monkeypatch):
    monkeypatch.setenv("FERCORE_CACHE", str(tmp_path / "cache"))
    assert call(*train_on(faces, tmp_path / "r"))[0] == 0
    (images,) = (tmp_path / "cache" / "faces").glob("*/images.npy")
    images.write_bytes(b"damaged")
    code, out, _ = call(*train_on(faces, tmp_path / "r", "--seed", 1))
    assert code == 0 and json.loads(out[-1])["status"] == "finished"


def test_damaged_records_line(refused, toy_root, tmp_path):
    records.append(tmp_path / "records.jsonl", synthetic.run("supervised", 0))
    with open(tmp_path / "records.jsonl", "a") as file:
        file.write('{"key": "0123\n')
    before = (tmp_path / "records.jsonl").read_bytes()
    assert "records.jsonl, line 2: not a JSON record" in refused(*train_on(toy_root, tmp_path))
    assert (tmp_path / "records.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["train", "--stpes", "5"], r"--stpes"),
        (["trian"], r"trian"),
        (["train", "--dataset", "own", "--method", "sitfer"], r"--labels"),
        (["train", "--dataset", "own", "--method", "sitfer", "--labels", "many"], r"--labels.*integer"),
        (["train", "--dataset", "own", "--method", "sitfer", "--labels", "9", "--set", "tau"], r"--set: 'tau'"),
        (["train", "--dataset", "own", "--method", "sitfer", "--labels", "-1"], r"labels: -1; expected a budget"),
        (["data"], r"(?i)name"),
        (["data", "celeba", "."], r"unknown data set 'celeba'; known: facs"),
        (["text", "--text", "bert"], r"text: 'bert' is unknown"),
        (["text", "--text", "onehot", "--prompt", "a face", "--classes", "a"], None),
        (["bench", "train"], r"bench: 'train' is unknown; there are: step, methods"),
        (["sweep", "nothing"], r"nothing\.yaml: no such profile"),
        (["reproduce", "nothing"], r"nothing\.yaml: no such profile"),
        (["reproduce", "nothing", "--dry-run"], r"nothing\.yaml: no such profile"),
        (["reproduce", "rafdb", "--dry-run", "--notebook", "99"], r"rafdb: no notebook '99'; there are 00_claims"),
    ],
)
def test_bad_arguments(refused, call, arguments, message):
    if message is None:
        assert call(*arguments)[0] == 0  # a control looks at no words
        return
    assert re.search(message, refused(*arguments))


def test_bad_device(refused, toy_root, tmp_path):
    assert "device: 'gpu' is unknown" in refused(*train_on(toy_root, tmp_path, "--device", "gpu"))


@pytest.mark.parametrize("key, message", [("learning_rate: 0.1", "unknown key learning_rate"), ("lr: 3e-4", "lr: ")])
def test_bad_yaml(refused, tmp_path, key, message):
    profile = tmp_path / "mine.yaml"
    profile.write_text(
        f"dataset: own\nlabels: [9]\nseeds: [0]\nmethods: [supervised]\nsteps: 9\nevaluations: 1\n{key}\n"
    )
    line = refused("sweep", profile, "--data-root", tmp_path)
    assert f"mine.yaml: {message}" in line


def test_sweep_without_data(refused, tmp_path):
    profile = tmp_path / "mine.yaml"
    profile.write_text("dataset: own\nlabels: [9]\nseeds: [0]\nmethods: [supervised]\nsteps: 20\n")
    assert "absent does not exist" in refused("sweep", profile, "--data-root", tmp_path / "absent")
    assert "--part: '2/2' should read I/N with I < N" in refused(
        "sweep", profile, "--data-root", tmp_path, "--part", "2/2"
    )


def test_an_unknown_method_is_said_before_anything_is_trained(refused, toy_root, tmp_path):
    profile = tmp_path / "mine.yaml"
    start = "start: {pretrain: {steps: 2, batch: 4}}"
    profile.write_text(f"dataset: own\nlabels: [9]\nseeds: [0]\nmethods: [supervised]\nsteps: 20\n{start}\n")
    place = ("--data-root", toy_root, "--results", tmp_path / "out")
    assert "'sitfre' is unknown" in refused("sweep", profile, "--methods", "sitfre", *place)
    assert not (tmp_path / "out").exists()


def test_reproduce_says_when_the_data_asked_for_are_not_there(refused, tmp_path):
    line = refused("reproduce", "fer2013", "--data-root", tmp_path / "absent", "--results", tmp_path / "out")
    assert "absent does not exist" in line and not (tmp_path / "out").exists()


def test_merge_of_records_that_disagree(refused, tmp_path):
    one = synthetic.run("supervised", 0)
    records.append(tmp_path / "a.jsonl", one)
    records.append(tmp_path / "b.jsonl", one | {"metrics": {}})
    line = refused("merge", tmp_path / "a.jsonl", tmp_path / "b.jsonl")
    assert "b.jsonl" in line and "a.jsonl" in line and one["key"] in line


def test_an_error_of_ours_is_not_swallowed(monkeypatch):
    def broken(*args, **options):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(cli, "app", broken)
    with pytest.raises(ZeroDivisionError):
        cli.main()
    monkeypatch.setattr(cli, "app", lambda **options: (_ for _ in ()).throw(UserError("yours")))
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 2
