import dataclasses
import json
import re
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from torch.nn.functional import mse_loss

from etude import report
from etude.errors import BadTypeError, StorageError
from etude.recipe import Recipe
from etude.report import embed, trials
from etude.report.kinds.run import of_run
from etude.report.kinds.tuning import of_tuning
from etude.tasks.task import Task
from etude.tuning.trial_summary import TrialSummary
from etude.tuning.tune import tune

EVIL = "<script>alert('x')</script>&\"</style>"


class Reader(HTMLParser):
    """Keeps the tags with their attributes, and the text outside scripts and styles."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts, self.scripts, self.inside = [], [], [], None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.inside = tag if tag in ("script", "style") else self.inside

    def handle_endtag(self, tag):
        self.inside = None if tag == self.inside else self.inside

    def handle_data(self, data):
        if self.inside is None:
            self.texts.append(data)
        elif self.inside == "script":
            self.scripts.append(data)

    @property
    def text(self):
        return re.sub(r"\s+", " ", " ".join(self.texts))

    @property
    def figures(self):
        return json.loads(next(s for s in self.scripts if s.startswith('{"figure-1"')))


@pytest.fixture
def page(result):
    return report.html(result())


def test_nothing_is_loaded_from_elsewhere(page):
    reader = Reader(page)
    loading = ("src", "href", "srcset", "data", "action", "poster", "background")
    found = [attrs[a] for _, attrs in reader.tags for a in loading if a in attrs]
    assert found == ["data:,"]
    style = page[page.index("<style>") : page.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    assert not [tag for tag, _ in reader.tags if tag in ("iframe", "object", "embed", "img")]
    policy = next(a["content"] for _, a in reader.tags if "http-equiv" in a)
    assert policy.startswith("default-src 'none'")
    assert "http" not in policy


def test_plotly_is_embedded_once(page):
    assert page.count("* plotly.js (basic - minified) v") == 1


def test_the_page_holds_the_answer(page):
    text = Reader(page).text
    for part in (
        "line: of the rates tried, 0.1 trains best",
        "0.03 was not followed to the end and may end as well",
        "At 1 training diverged, at update 3",
        "1.69 full runs",
        "1 min 15 s",
        "untrained 2.3",
        "diverged: the training loss became inf at update 3 (lr 1)",
        "lr = 0.1",
        "torch.optim.AdamW(model.parameters(), lr=0.1)",
        "2.13.0",
    ):
        assert part in text, part


def test_every_figure_has_its_place_and_its_data(page):
    reader = Reader(page)
    places = [attrs for _, attrs in reader.tags if attrs.get("class") == "plot"]
    assert [a["id"] for a in places] == list(reader.figures) == [f"figure-{i}" for i in range(1, 5)]
    assert all(a["aria-label"] for a in places)


def test_what_the_user_wrote_is_text(record, result):
    evil = record(task=EVIL, metric=EVIL, reason=EVIL, status="stopped", **{EVIL: [1.0, 2, 3, 4]})
    trial = TrialSummary(0.1, evil, False, True)
    tuned = result((trial,), tied=(0.1, 0.1), stable_below=None)
    for page in (report.html(evil), report.html(tuned)):
        reader = Reader(page)
        assert EVIL not in page
        assert EVIL in "".join(reader.texts)
        assert len(reader.scripts) == 3
        assert "alert(" not in reader.scripts[-1]
        names = [
            a["text"] for f in reader.figures.values() for a in f["figure"]["layout"]["annotations"]
        ]
        assert any("&lt;script&gt;" in name for name in names)
        assert not any("<script" in name for name in names)


def test_a_notice_stands_only_where_there_is_one(result):
    assert 'class="notice"' not in report.html(result())
    page = report.html(result(outcome="at an edge"))
    assert result(outcome="at an edge").advice() in Reader(page).text
    failed = result(outcome="nothing trains")
    assert of_tuning(failed).title == "line: no learning rate that was tried trains it"
    assert failed.advice() in Reader(report.html(failed)).text


@pytest.mark.parametrize(
    ("more", "title"),
    [
        ({}, "line trained at a learning rate of 0.1"),
        ({"status": "diverged", "reason": "NaN at 3"}, "line diverged at a learning rate of 0.1"),
        ({"status": "stopped", "length": 9}, "line was stopped after 4 of 9 updates"),
    ],
)
def test_a_record_says_how_it_ended(record, more, title):
    run = record(**more)
    answer = of_run(run)
    assert answer.title == title
    assert more.get("reason", "") in answer.notice
    reader = Reader(report.html(run))
    assert title in reader.text
    assert list(reader.figures) == ["figure-1", "figure-2"]


def test_a_diverged_run_claims_no_loss(record):
    facts = {f.name: f for f in of_run(record(status="diverged")).facts}
    assert facts["Validation loss"].value == "diverged"
    assert facts["Validation loss"].note == "last finite: 0.5"


def test_facts_of_a_tuning(result):
    facts = {f.name: f.value for f in of_tuning(result()).facts}
    assert facts == {
        "Learning rate": "0.1",
        "May be as good": "0.03 to 0.1",
        "Not followed to the end": "1 rate",
        "Broke training": "1",
        "Validation accuracy": "95.00%",
        "Validation loss": "0.3",
        "Cost": "1.69 full runs",
    }
    common = result(tied=(0.1, 0.1), stable_below=None)  # a higher rate diverged all the same
    broke = next(t.record.cost.steps for t in common.trials if t.record.status == "diverged")
    alone = {f.name: f.value for f in of_tuning(common).facts}
    assert alone["May be as good"] == "none"
    assert alone["Broke training"] == f"update {broke}"
    assert f"did so at update {broke}: no edge is known" in of_tuning(common).lede
    sound = tuple(t for t in common.trials if t.record.status != "diverged")
    whole = of_tuning(dataclasses.replace(common, trials=sound))
    assert {f.name: f.value for f in whole.facts}["Broke training"] == "none"
    assert "No higher rate diverged, as far as they were followed" in whole.lede


def test_verdicts(result):
    rows = trials.trial_rows(result())
    assert [(r.lr, r.updates, r.share, r.loss, r.metric) for r in rows] == [
        (0.03, 8, 0.5, 0.8, 0.7),
        (0.1, 16, 1.0, 0.3, 0.95),
        (1.0, 3, 3 / 16, np.inf, 0.1),
    ]
    verdicts = [r.verdict.partition(":")[0] for r in rows]
    assert verdicts == ["left, may tie", "chosen", "diverged"]
    assert [r.chosen for r in rows] == [False, True, False]


def test_a_value_of_the_mean_of_the_weights_stands_beside_that_of_the_weights(result):
    """A rate is ranked by the better of the two: the table shows both where they differ."""
    plain = result()
    assert "of the mean" not in [c.name for c in trials.trial_table(plain).columns]
    first, *rest = plain.trials
    told = dataclasses.replace(plain, trials=(dataclasses.replace(first, compared=0.75), *rest))
    table = trials.trial_table(told)
    names = [c.name for c in table.columns]
    cells = [row.cells[names.index("of the mean")] for row in table.rows]
    assert cells == ["0.75", "", ""]
    assert table.rows[0].cells[names.index("validation loss")] == "0.8"
    assert "the loss of the mean of the weights over the last 2% of the run" in table.caption


@pytest.mark.parametrize(
    ("tied", "said"),
    [
        ((0.05, 0.5), "The best rate may lie from 0.05 to 0.5."),
        ((0.02, 0.5), "from 0.02 to 0.5, and below: none lower than 0.03 was tried."),
        ((0.05, 2.0), "from 0.05 to 2, and above: none higher than 1 was tried."),
        ((0.02, 2.0), "and beyond: none lower than 0.03 or higher than 1 was tried."),
    ],
)
def test_a_range_that_goes_on_beyond_what_was_tried_says_so(result, tied, said):
    assert said in of_tuning(result(tied=tied)).lede


def test_the_dark_dress_is_the_light_one_and_its_changes(result):
    from etude.report.figures import loss_against_rate
    from etude.report.figures.palette import DARK

    info = loss_against_rate.info(result())
    entry = embed.both(lambda theme: loss_against_rate.draw(info, theme))
    assert entry["dark"]
    tree = entry["figure"]
    for path, value in entry["dark"]:
        spot = tree
        for key in path[:-1]:
            spot = spot[key]
        spot[path[-1]] = value
    assert tree == json.loads(loss_against_rate.draw(info, DARK).to_json())


def test_write_makes_the_folder_and_returns_the_path(result, tmp_path):
    path = report.write(result(), tmp_path / "new" / "report.html")
    assert path == tmp_path / "new" / "report.html"
    assert path.read_text(encoding="utf-8") == report.html(result())
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]


def test_a_place_that_cannot_be_written_is_named(result, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"cannot write to the folder .*file"):
        report.write(result(), tmp_path / "file" / "report.html")


def test_other_things_are_refused():
    known = r"no report for a dict, only for a Backprop, .*a Record, .*a TuneResult.* or an? "
    with pytest.raises(BadTypeError, match=known):
        report.html({})


def test_importing_the_room_loads_no_plotly():
    code = "import sys, etude.report; sys.exit('plotly' in sys.modules or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_report_of_a_real_tuning(tmp_path):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(256, 4, generator=generator)
    y = x @ torch.tensor([[1.0], [-2], [0.5], [3]])
    task = Task(
        lambda: torch.nn.Linear(4, 1), (x[:192], y[:192]), (x[192:], y[192:]), loss=mse_loss
    )
    best = tune(task, Recipe(steps=64, batch_size=16), budget=2.0, progress=False)
    text = Reader(report.write(best, tmp_path / "report.html").read_text(encoding="utf-8")).text
    for trial in best.trials:
        assert f"{trial.lr:g}" in text
    for part in best.costs:
        assert f"{part.runs:.2f}" in text
    assert f"{best.loss:.4g}" in text
    assert best.recipe.to_toml().strip() in "".join(Reader(report.html(best)).texts)


def test_a_figure_follows_the_width_of_its_place(result):
    """Looked at with Chromium at 400 pixels, in a window and in a frame: nothing is cut."""
    page = report.html(result())
    assert "new ResizeObserver" in page
    assert ".plot{width:100%;min-width:0" in page
