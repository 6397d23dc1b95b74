"""The audit says what the records say, from no run at all to three seeds, and nothing more."""

import statistics
from dataclasses import replace

import matplotlib
import pytest
import synthetic

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.text import Text

from fercore.analysis import auditing, discrepancies, ladder
from fercore.methods import audit, resolve
from fercore.report import audit_figures, figures, printing
from fercore.study import plan, profiles

FER, RAF = profiles.load("fer2013"), profiles.load("rafdb")


@pytest.fixture(autouse=True)
def close_figures():
    figures.style()
    yield
    plt.close("all")


def record(config, accuracy, kept=None, status="finished"):
    """A record of this run; its share of kept faces per evaluation, as many as there are."""
    made = synthetic.run(config.method, config.seed, config.labels, config.dataset, accuracy, status, config.steps)
    made |= {"key": config.key, "config": config.to_dict()}
    if status == "finished":
        made["metrics"]["fused"] = synthetic._head(accuracy - 0.02, synthetic.random.Random(0))
        shares = kept or [0.1] * 10
        made["history"] = [
            entry | {"step": config.steps * (i + 1) // len(shares), "kept": share}
            for i, (entry, share) in enumerate(zip(made["history"], shares))
        ]
    return made


FALLS, RISES = [0.1, 0.3, 0.2, *[0.4] * 7], [0.1, 0.2, 0.3, *[0.4] * 7]


def study(seeds=3, study=FER):
    """Every rung a little lower than the one before it, except that two differ from their end by nothing but noise."""
    out = []
    for rung in ladder.rungs(study, 2000):
        for config in rung.runs[:seeds]:
            low = {"SIT-FER": 0.50, "released code": 0.42}.get(rung.side, 0.46)
            noise = 0.01 * (config.seed - 1) if rung.name in ("max", "hard") else 0.001 * config.seed
            base = {ladder.UP: 0.50, ladder.DOWN: 0.42}.get(rung.side, low)
            low = base + noise if rung.name in ("max", "hard") else low + 0.0001 * config.seed
            out.append(record(config, low + 0.02 * config.seed, FALLS if rung.switches else RISES))
    return out


def line(table, **wanted):
    (found,) = [row for _, row in table.iterrows() if all(row[key] == value for key, value in wanted.items())]
    return found


# The ladder


def test_rungs_are_those_of_the_plan_and_meet_their_end():
    for profile in (FER, RAF):
        labels = ladder.budgets(profile)[-1]
        rungs = ladder.rungs(profile, labels)
        runs = {config.key for rung in rungs for config in rung.runs}
        fixmatch = {config.key for config in plan.base(profile, "fixmatch")}
        assert runs == {c.key for c in plan.runs(profile, ladder.NOTEBOOK)} - fixmatch
        for rung in rungs[1:]:
            for one, end in zip(rung.runs, rung.end, strict=True):
                assert (one.seed, one.labels) == (end.seed, end.labels) and one.key != end.key
        assert {rung.name for rung in rungs[2:]} == set(plan.rungs(profile))
        code = [rung for rung in rungs if "logits" in getattr(resolve(*_asked(rung))[1], "code", ())]
        assert [rung for rung in rungs if rung.switches] == code and code


def _asked(rung):
    return rung.runs[0].method, rung.runs[0].options


def test_a_few_rungs_alone():
    some = ladder.runs(FER, ["logits"])
    assert len(some) == 4 * len(FER.seeds)  # both ends, and logits from each
    assert {c.key for c in some} < {c.key for c in ladder.runs(FER)}


def test_ladder_is_mean_and_spread_of_the_pairs():
    table = auditing.ladder_table(study(), FER)
    assert len(table) == 2 + 2 * len(plan.rungs(FER))
    cosine = line(table, side=ladder.UP, change="text at T = 1")
    pairs = [100 * (0.46 + 0.0001 * s - 0.50 - 0.0001 * s) for s in range(3)]
    assert cosine["difference"] == pytest.approx(statistics.fmean(pairs)) and cosine["#"] == "6"
    assert cosine["than the\nspread"] == ladder.LARGER and cosine["n"] == 3
    noisy = line(table, side=ladder.UP, change="hard labels")
    assert noisy["than the\nspread"] == ladder.WITHIN and noisy["difference ±"] > abs(noisy["difference"])
    code = line(table, side=ladder.CODE)
    assert code["difference"] == pytest.approx(-8) and code["ours"] == pytest.approx(44.01)
    back = line(table, side=ladder.DOWN, change="text at our T")
    assert back["difference"] == pytest.approx(4)
    assert line(table, side=ladder.PAPER)["than the\nspread"] == ""
    assert (table["p, Holm"].dropna() >= table["p"].dropna()).all() and table["p"].notna().sum() == len(table) - 1
    assert max(map(len, printing.text(table[auditing.LADDER]).splitlines())) <= 120


def test_one_seed_says_nothing_of_the_spread():
    records = study(1)
    table = auditing.ladder_table(records, FER)
    assert set(table["than the\nspread"]) == {"", ladder.ONE_SEED} and table["p"].isna().all()
    assert "cannot be said from one seed" in auditing.answer(records, FER)
    assert "one seed has none" in auditing.reach(records, FER)
    assert "not run" not in printing.text(table)


def test_without_records_every_row_says_so():
    table = auditing.ladder_table([], FER)
    assert printing.text(table).count("not run") == len(table) == 2 + 2 * len(plan.rungs(FER))
    assert auditing.answer([], FER).startswith("Not run")
    assert auditing.predicted([], FER).endswith("not run.")
    assert printing.text(auditing.readings_table([], FER)).count("not run") == 4
    assert printing.text(auditing.switch_table([], FER)) == "(no rows)"
    effects = auditing.effects_table([], FER)
    measured = effects[effects["known"].str.contains("measured")]
    assert measured["effect"].str.contains("not run|grey").all() and len(effects) == 32
    for draw in (audit_figures.rungs, audit_figures.switch):
        assert any(text.get_text() == "not run" for text in draw([], FER).findobj(Text))


def test_what_lies_beyond_a_run_made_again():
    known, rungs = study(), ladder.rungs(FER, 2000)[1:]
    moved = {rung: abs(statistics.fmean(ladder.differences(known, rung))) for rung in rungs}
    for noise in (0.5, 5.0, 50.0):
        said = auditing.beyond(known, FER, noise)
        large = [rung for rung, points in moved.items() if points > noise]
        assert f"Beyond the {noise:.2f} points" in said and f"lie {len(large)} of {len(moved)} differences" in said
        assert all((rung.said or ladder.CODE) in said for rung in large)
    assert "0 of 27 differences." in said and "0 of 0" in auditing.beyond([], FER, 1.0)
    assert "not known" in auditing.beyond(known, FER, 0.0)


def test_gaps_and_failures_stay_visible():
    code = ladder.rungs(FER, 2000)[1]
    failed = [record(code.runs[0], 0.4, status="failed")]
    assert line(auditing.ladder_table(failed, FER), side=ladder.CODE)["failed"] == 1
    assert "failed" in printing.text(auditing.ladder_table(failed, FER))
    assert auditing.answer(failed, FER).startswith("Not run")
    alone = study()[:3]  # SIT-FER without anything to compare it with
    assert "No single point has run" in auditing.answer(alone, FER)
    assert line(auditing.ladder_table(alone, FER), side=ladder.CODE)["than the\nspread"] == ""


def test_several_budgets_stand_apart():
    both = replace(FER, points={"labels": [2000, 400]})
    table = auditing.ladder_table(study(), both)
    assert len(table) == 2 * (2 + 2 * len(plan.rungs(FER)))
    assert (table[table["labels"] == 400]["n"] == 0).all() and (table[table["labels"] == 2000]["n"] == 3).all()


def test_colours_are_measured_where_there_are_any():
    assert "grey" in auditing.toggled([], FER, "colour")
    assert auditing.toggled([], RAF, "colour") == "BGR from the paper: not run; RGB from the code: not run."


# The switch


def test_windows_are_those_on_either_side_of_the_switch():
    config = ladder.rungs(FER, 2000)[1].runs[0]
    before, after = ladder.windows(record(config, 0.4, FALLS))  # 2,000 steps, the switch after 375
    assert (before.start, before.end, before.kept) == (200, 400, 0.3)
    assert (after.start, after.end, after.kept) == (400, 600, 0.2)
    before, after = ladder.windows(record(config, 0.4, [0.01 * i for i in range(1, 17)]))  # 125 steps each
    assert (before.end, after.start) == (375, 375)
    before, after = ladder.windows(record(config, 0.4, [0.1, 0.2, 0.3, 0.4]))  # 500 each: 375 of them are mainly
    assert before.end == after.start == 500
    assert ladder.windows(record(config, 0.4, [0.1])) is None


def test_prediction_is_counted_run_by_run():
    records = study()
    table = auditing.switch_table(records, FER)
    assert set(table[table["difference"] < 0]["fuses"]) == {"logits"}
    assert (table["fell in"] == table["n"] * (table["fuses"] == "logits")).all()
    assert len(printing.text(table).splitlines()[0]) <= 120
    n = len(plan.rungs(FER)) * 3 + 3  # logits from the paper, the code, and all but one from the code
    others = 3 * (2 + 2 * len(plan.rungs(FER))) - n
    assert f"held: coverage fell at the switch in {n} of {n} runs; over the same steps in 0 of {others}" in (
        auditing.predicted(records, FER)
    )
    code = ladder.rungs(FER, 2000)[1].runs
    some = [record(c, 0.4, kept) for c, kept in zip(code, (FALLS, RISES, [0.0] * 10))]
    assert "held in part: coverage fell at the switch in 1 of 2 runs (1 more kept" in auditing.predicted(some, FER)
    assert "failed: coverage fell at the switch in 0 of 1" in auditing.predicted(some[1:2], FER)
    assert "could not be tested" in auditing.predicted(some[2:], FER)


def test_resolution_is_that_of_the_evaluations():
    said = auditing.resolution(FER)
    assert "2,000 steps, an evaluation every 200, the switch after step 375" in said and "87.5 % before it" in said
    assert "16 evaluations" in said
    assert "a boundary falls on it" in auditing.resolution(replace(FER, shared={**FER.shared, "evaluations": 16}))


# Other readings


def test_readings_are_of_the_same_runs():
    table = auditing.readings_table(study(), FER)
    paper = line(table, runs=ladder.PAPER)
    assert paper["fused head\ndifference"] == pytest.approx(-2)
    assert paper["best on test\ndifference"] == pytest.approx(1.2)
    assert line(table, runs=f"{ladder.UP}, all")["n"] == 3 * len(plan.rungs(FER))
    assert "+1.20 ± 0.00" in auditing.read_otherwise(study(), FER, "best")
    assert "not run" in auditing.read_otherwise([], FER, "fused")


def test_no_number_is_written_where_there_is_none():
    one, three = (auditing.effects_table(study(seeds), FER) for seeds in (1, 3))
    assert one["effect"].str.contains(r"\(one seed\)").sum() == three["effect"].str.contains("the spread").sum() > 10
    for table, widths in ((auditing.points_table(), {}), (three, {"effect": 76, "point": 22})):
        assert list(table["#"]) == list(range(1, 33))
        assert printing.text(table, wrap=widths)


# Figures


@pytest.mark.parametrize("seeds", [0, 1, 3])
@pytest.mark.parametrize("draw", [audit_figures.rungs, audit_figures.switch])
def test_figures_say_no_less_than_the_table(draw, seeds):
    records = study(seeds)
    figure = draw(records, FER)
    said = [text.get_text() for text in figure.findobj(Text)]
    assert "not run" in said if not seeds else "not run" not in said
    if draw is audit_figures.rungs:
        assert all(any(name in text for text in said) for r in plan.rungs(FER) for name in ladder.SAID[r])
        dots = [len(item.get_xdata()) for ax in figure.axes for item in ax.lines if item.get_marker() == "o"]
        assert sum(dots) == seeds * (2 + 2 * len(plan.rungs(FER)))


def test_every_rung_has_a_name_and_a_point():
    assert set(ladder.SAID) == set(plan.rungs(RAF)) == set(discrepancies.RUNGS)
    assert all(discrepancies.of_rung(name) for name in plan.rungs(RAF))
    assert audit.SWITCH * 80 == 15
