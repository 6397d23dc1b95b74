"""Notebooks: hygiene of the committed copies, and a Papermill run of each at toy size."""

import ast
import re

import nbformat
import numpy as np
import pytest
import yaml

from fercore import paths
from fercore.analysis import paper_vs_code
from fercore.study import dumps, plan, profiles, records

FILES = sorted(paths.NOTEBOOKS.glob("*.ipynb"))
NAMES = [file.stem for file in FILES]
HEADINGS = ["Question", "Claim", "Our answer", "What is compared", "Runs", "Answer", "Figure", "Verdict", "Provenance"]
EXAMPLE = "02_your_own_method"  # whose subject is code: it alone may hold a class and a function
FEATURES = "15_features"  # which needs the weights of its runs
DRAWS = r"figures\.(?!style)"
STEMS = {
    "00_claims": "claims", "02_your_own_method": "own_method", "10_table2_components": "table2",
    "11_table1_comparison": "table1", "12_table3_prompts": "table3", "13_figure4_thresholds": "figure4",
    "14_figure5_pseudo_labels": "figure5", "16_sensitivity": "sensitivity",
    "50_paper_versus_code": "audit_ladder",
}  # fmt: skip
ONLY = {
    "12_table3_prompts": ["random"], "13_figure4_thresholds": ["tau"], "16_sensitivity": ["vote"],
    "50_paper_versus_code": ["logits"],
}  # fmt: skip
TOY = {
    "profile": "toy", "dataset": "facs", "dataset_options": {"n": 70, "test": 21}, "image_size": 16,
    "text": "onehot", "steps": 20, "evaluations": 4, "batch": 7, "unlabelled_batch": 7, "lr": 0.001, "ema": 0.0,
    "labels": [14], "seeds": [0, 1], "methods": ["supervised", "sitfer/semantic", "sitfer"],
    "points": {"labels": [14], "seeds": [0]},
}  # fmt: skip


def cells(name, kind="code"):
    notebook = nbformat.read(paths.NOTEBOOKS / f"{name}.ipynb", 4)
    nbformat.validate(notebook)
    return [cell for cell in notebook.cells if kind in (None, cell.cell_type)]


def tags(cell):
    return cell.metadata.get("tags", [])


def test_there_are_notebooks():
    assert {"00_claims", "01_one_step", "10_table2_components", "11_table1_comparison"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_parameters_are_first_and_literal(name):
    code = cells(name)
    assert [i for i, cell in enumerate(code) if "parameters" in tags(cell)] == [0]
    assigned = {}
    for node in ast.parse(code[0].source).body:
        assert isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name), ast.unparse(node)
        assigned[node.targets[0].id] = ast.literal_eval(node.value)
    default = "embedded" if name == EXAMPLE else "fer2013"
    assert assigned.items() >= {"profile": default, "data_root": "", "results": ""}.items()
    assert not any("injected-parameters" in tags(cell) for cell in code)


@pytest.mark.parametrize("name", NAMES)
def test_template(name):
    text = "\n".join(cell.source for cell in cells(name, "markdown"))
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == HEADINGS
    assert len(re.findall(r"^# .+$", text, re.MULTILINE)) == 1
    assert len(cells(name, None)) <= 24


@pytest.mark.parametrize("name", NAMES)
def test_code_is_short_and_plain(name):
    for cell in cells(name):
        assert len(cell.source.splitlines()) <= (12 if name == EXAMPLE else 10), cell.source
        assert not re.search(r"^\s*[!%]", cell.source, re.MULTILINE), cell.source
        nodes = list(ast.walk(ast.parse(cell.source)))
        made = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda
        assert name == EXAMPLE or not any(isinstance(n, made) for n in nodes)
        if "figures." in cell.source and "style" not in cell.source:
            assert len(cell.source.splitlines()) <= 2, cell.source


@pytest.mark.parametrize("name", NAMES)
def test_only_environment_runs_and_figures_are_left_unchecked(name):
    for cell in cells(name):
        assert set(tags(cell)) <= {"parameters", "nbval-ignore-output"}
        makes_runs = "sweep.complete" in cell.source or "tables.environment" in cell.source
        draws = re.search(DRAWS, cell.source)
        assert ("nbval-ignore-output" in tags(cell)) == bool(makes_runs or draws), cell.source


@pytest.mark.parametrize("name", NAMES)
def test_outputs_are_stored_whole_and_clean(name):
    assert (paths.NOTEBOOKS / f"{name}.ipynb").stat().st_size < 250_000
    code = cells(name)
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1)), (
        "run all cells, in order, and store"
    )
    for cell in code:
        kinds = [output.output_type for output in cell.outputs]
        assert "error" not in kinds
        drawn = sum("image/png" in output.get("data", {}) for output in cell.outputs)
        assert drawn == bool(re.search(DRAWS, cell.source))
        if not tags(cell):
            makes = any(isinstance(n, ast.FunctionDef | ast.ClassDef) for n in ast.parse(cell.source).body)
            shown = {kind for output in cell.outputs for kind in output.get("data", {output.get("name"): ""})}
            assert shown or makes, f"says nothing: {cell.source}"
            assert shown <= {"stdout", "text/markdown", "text/plain"}, f"shows text and tables only: {cell.source}"
        said = "".join(output.get("text", "") for output in cell.outputs) + cell.source
        assert not re.search(r"(?<![\w.:/<>])/(?!\s)[\w.-]+/[\w.-]+", said), "an absolute path"
        assert "<table" not in said


def test_the_committed_faces_are_drawn_by_fercore():
    said = "".join(o.get("text", "") for cell in cells(dumps.NOTEBOOK) for o in cell.outputs)
    assert "faces shown: rendered faces\n" in said


@pytest.mark.parametrize("profile", profiles.committed(), ids=lambda p: p.stem)
def test_profiles_give_notebooks_only_parameters_they_have(profile):
    papermill = pytest.importorskip("papermill")
    given = yaml.safe_load(profile.read_text()).get("notebooks") or {}
    for name, extra in given.items():
        known = papermill.inspect_notebook(paths.NOTEBOOKS / f"{name}.ipynb")
        assert set(extra or {}) <= set(known), f"{profile.name}: {name} does not know {set(extra) - set(known)}"


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """A profile of seconds, with a results folder of its own: the notebooks share its records."""
    folder = tmp_path_factory.mktemp("toy")
    (folder / "toy.yaml").write_text(yaml.safe_dump(TOY))
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_papermill_at_toy_size(name, toy):
    papermill = pytest.importorskip("papermill")
    given = {"profile": str(toy / "toy.yaml"), "results": str(toy / "results")}
    if name == "01_one_step":
        given["steps"] = 24
    if name == FEATURES:  # records that stand already left no weights
        given["results"] = str(toy / "results" / "kept")
    given |= {"only": ONLY[name]} if name in ONLY else {}
    source, target = paths.NOTEBOOKS / f"{name}.ipynb", toy / f"{name}.ipynb"
    done = papermill.execute_notebook(
        source, target, given, cwd=str(paths.NOTEBOOKS), kernel_name="python3", progress_bar=False
    )
    assert not any(output.output_type == "error" for cell in done.cells for output in cell.get("outputs", []))
    if name == "01_one_step":
        losses = np.load(toy / "results" / "one_step.npz")["losses"]
        assert losses[-8:].mean() < losses[:8].mean()
        return
    if name == FEATURES:
        kept = toy / "results" / "kept"
        made = {record["key"] for record in records.read(kept / "records.jsonl")}
        assert len(made) == 4  # two rows, two seeds
        assert {file.stem for file in (kept / "features").iterdir()} == made
        for file in ("features.md", "features.csv", "features.png", "features_text.png"):
            assert (kept / file).stat().st_size > 100
        return
    made = records.read(toy / "results" / "records.jsonl")
    study = profiles.load(toy / "toy.yaml", results=toy / "results")
    rungs = paper_vs_code.runs(study, ONLY[name]) if name == paper_vs_code.NOTEBOOK else None
    asked = {config.key for config in rungs or plan.runs(study, name, only=ONLY.get(name, ()))}
    keys = [record["key"] for record in made]  # those of the notebooks before this one, too
    assert set(keys) >= asked and len(keys) == len(set(keys)) and {r["status"] for r in made} == {"finished"}
    assert name != EXAMPLE or "weighted" in {r["config"]["method"] for r in made}
    assert name != dumps.NOTEBOOK or list((toy / "results" / "dumps").glob("*.safetensors"))
    for record in made:
        loss = [entry["loss"]["labelled"] for entry in record["history"]]
        assert loss[-1] < loss[0], record["config"]["method"]
    for suffix in ("md", "csv", "png"):
        files = list((toy / "results").glob(f"{STEMS[name]}*.{suffix}"))
        assert files and all(file.stat().st_size > 100 for file in files)
