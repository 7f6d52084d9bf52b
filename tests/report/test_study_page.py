"""The page on a study: what it holds, how large it is, and what a browser makes of it."""

import itertools
import json
import math
import re

import pytest

import etude
from etude import report, tasks
from etude.diagnosis.health.read import health_of
from etude.errors import BadTypeError, BadValueError, UnknownNameError
from etude.recipe import Recipe
from etude.report import embed
from etude.report.document import Bullets, DataTable, Drawing, Gallery, TableColumn, TableRow
from etude.report.figures.palette import LIGHT
from etude.report.study import learning_curves, loss_curves, size_curves, stability_map
from etude.report.study.content import StudyContent
from etude.report.study.stability_map import MapRow
from etude.studies.analysis.progress import MOST_READ
from etude.studies.batch_rules import batch_rules
from tests.report.browser import CHROMIUM, Page
from tests.studies.common import kind, made, valley

MOST = 1_500_000
"""Bytes of the page of the default study."""

EVIL = "<img src=x onerror=alert(1)>'\"</script><b>"

SCHEDULES = ("cosine()", "constant()", "warmup('5%') >> cosine()")


def several():
    """Two tasks × two optimizers × two schedules × two widths, some of which break."""
    kinds = {}
    for place, (task, optimizer, schedule, width) in enumerate(
        itertools.product(("one", "two"), ("sgd", "adam"), SCHEDULES[:2], (4, 16))
    ):
        one = kind(task, optimizer=optimizer, schedule=schedule, width=width)
        kinds[one] = valley(0.1, 0.3 + 0.05 * place, 0.01, 5.0 if place % 3 else math.inf)
    limits = {one: 2.0 for one in kinds if one.optimizer == "sgd"}
    return made(kinds, limits=limits)


@pytest.fixture(scope="module")
def study():
    return several()


@pytest.fixture(scope="module")
def page(study):
    return report.html(study)


def parts(result):
    return [part for section in report.present(result).sections for part in section.parts]


def figures_of(page):
    return json.loads(re.search(r'id="figures">(.*?)</script>', page, re.S)[1])


def test_every_part_of_the_issue_is_on_the_page(study):
    titles = [section.title for section in report.present(study).sections]
    assert titles == [
        "Findings",
        "Each kind of run",
        "Where training works",
        "Loss against rate",
        "Sensitivity to the rate",
        "Best rate against size",
        "Optimizers and schedules",
        "Learning curves",
    ]
    assert {type(part) for part in parts(study)} >= {Bullets, DataTable, Drawing, Gallery}


def test_the_table_names_the_trials_of_each_row(study):
    table = next(part for part in parts(study) if isinstance(part, DataTable))
    place = [column.name for column in table.columns].index("trials")
    read = set()
    for row in table.rows:
        low, _, high = row.cells[place].partition("–")
        read |= set(range(int(low), int(high) + 1))
    assert read == {row.number for row in study.rows}


def test_a_row_chooses_its_own_learning_curves(study):
    table = next(part for part in parts(study) if isinstance(part, DataTable))
    gallery = next(
        p for p in parts(study) if isinstance(p, Gallery) and p.name == "learning-curves"
    )
    for row in table.rows:
        name, place = row.choice
        assert name == gallery.name
        assert gallery.drawings[place][0] == ", ".join(row.cells[:4])


def test_a_number_is_sorted_by_its_key_or_the_number_with_which_it_begins(study):
    for table in (part for part in parts(study) if isinstance(part, DataTable)):
        for place, column in enumerate(table.columns):
            for row in table.rows if column.number else ():
                begins = re.match(r"[−-]?\d+(\.\d+)?(e-?\d+)?", row.cells[place])
                assert row.keys or begins
                assert begins or row.cells[place] == "–" or row.keys[place] is not None


def test_a_row_has_a_key_for_each_column():
    with pytest.raises(BadValueError, match="a row has 1 keys for 2 columns"):
        DataTable((TableColumn("a"), TableColumn("b")), (TableRow(("1", "2"), keys=(1,)),))
    with pytest.raises(BadValueError, match="the gallery 'empty' has no figure"):
        Gallery("empty", "", "", ())


def test_the_map_is_hatched_where_a_run_diverged_and_nowhere_else():
    row = MapRow("a", (0.1, 1.0, 10.0), (0.5, 0.9, math.inf), 1.0, 0.1)
    cells = stability_map.draw([row]).data[0]
    assert list(cells.marker.pattern.shape) == ["", "", "/"]
    assert row.left()[:2] == [0.0, pytest.approx(0.8)]
    broken = MapRow("b", (0.1, 1.0), (2.0, math.inf), 1.0, 0.1)
    assert broken.left()[0] == 1.0
    assert math.isnan(broken.left()[1])


def test_the_losses_have_the_interval_of_the_mean_as_band_and_the_limit_as_line(study):
    name, lines, start = StudyContent(study).losses[0]
    assert (name.split(",")[0], start) == ("one", 2.0)
    summary = study.summaries()[0]
    assert lines[0].mean == summary.losses
    assert lines[0].low == tuple(min(row) for row in summary.table)
    assert lines[0].limit == 2.0
    drawn = loss_curves.draw(lines, start)
    upright = [s for s in drawn.layout.shapes if s.x0 == s.x1]
    assert [s.x0 for s in upright] == [2.0]


def test_the_rules_pass_through_the_middle_of_the_optima():
    kinds = {kind(batch_size=b): valley(0.01 * b) for b in (1, 10, 100)}
    (found,) = StudyContent(made(kinds)).drifts
    data = size_curves.draw(found).data
    best = data[-1].y
    assert data[2].name.startswith("noise-scale rule")
    rules = {rule.name: rule for rule in batch_rules([1, 10, 100], best)}
    assert data[2].y == pytest.approx(rules["noise scale"].lrs)
    middle = math.exp(sum(map(math.log, best)) / 3)
    for line, slope in zip(data[:2], (1.0, 0.5), strict=True):
        assert line.y[0] * 10**slope == pytest.approx(middle)
        assert line.y[1] / line.y[0] == pytest.approx(100**slope)


def test_a_learning_curve_is_the_mean_of_the_evaluations_over_seeds(study):
    content = StudyContent(study)
    place, _, data = content.curves[0]
    summary = content.summaries[place]
    for at, curve in enumerate(data.curves):
        runs = [study.record(n) for n in summary.numbers[at]]
        for step, mean in zip(curve.steps, curve.losses, strict=True):
            values = [e.loss for run in runs for e in run.evaluations if e.step == step]
            assert mean == pytest.approx(sum(values) / len(values), rel=1e-3)
        assert curve.broken == sum(run.status == "diverged" for run in runs)
    assert learning_curves.info(summary, {}) is None


def test_a_gallery_holds_each_figure_once_and_gives_it_back(study, page):
    kept = figures_of(page)
    gallery = next(
        p for p in parts(study) if isinstance(p, Gallery) and p.name == "learning-curves"
    )
    entry = list(kept.values())[-1]
    others = entry.pop("others")
    assert len(others) == len(gallery.drawings) - 1
    for (_, draw), changes in zip(gallery.drawings[1:], others, strict=True):
        tree = {"root": json.loads(json.dumps(entry))}
        for path, value in changes:
            spot = tree
            for key in ["root", *path][:-1]:
                spot = spot[key]
            spot[["root", *path][-1]] = value
        assert tree["root"] == json.loads(json.dumps(embed.both(draw)))


def test_the_gradient_of_each_layer_is_shown_of_runs_that_were_watched():
    result = made({kind(): valley()})
    watched = etude.train(tasks.get("cancer-mlp"), Recipe(lr=0.1, steps=20), watch=True)
    assert "Gradient of each layer" not in report.html(result)
    result.files.record = lambda digest, what: watched
    (figure,) = StudyContent(result).drawn["layers"]
    layers = [layer.name for layer in health_of(watched).history.layers]
    assert {trace.name for trace in figure[1](LIGHT).data} <= set(layers)
    assert "Gradient of each layer" in report.html(result)


def test_what_users_named_is_text():
    kinds = {
        kind(EVIL, optimizer=EVIL, schedule=EVIL, width=w, note=EVIL): valley() for w in (1, 2)
    }
    kinds |= {kind("other", optimizer="sgd", width=1): valley()}
    result = made(kinds, name=EVIL)
    page = report.html(result)
    head, _, rest = page.partition("<body>")
    assert EVIL not in page
    assert "<img" not in rest.replace("\\u003cimg", "")
    assert "<img" not in head
    assert "<img" not in result._repr_html_()
    frame = result.report()._repr_html_()
    assert "<img" not in frame
    assert frame.count("<iframe") == 1


@pytest.mark.slow
def test_the_page_of_the_default_study_is_small():
    """Eight networks × two optimizers × seven schedules × five rates × two seeds."""
    schedules = [*SCHEDULES, "step(30)", "exponential(0.99)", "polynomial(2.0)", "onecycle()"]
    kinds = {
        kind(f"digits-network-{n}", optimizer=o, schedule=s): valley(
            0.1, 0.3 + 0.0123 * n, 0.0137 * (n + 1), 5.0 if n % 2 else math.inf
        )
        for n in range(8)
        for o in ("sgd (momentum 0.9)", "adam")
        for s in schedules
    }
    content = report.html(made(kinds, points=20))
    assert len(content.encode()) <= MOST


@pytest.mark.slow
def test_a_large_study_reads_few_records_and_its_page_has_a_bound():
    kinds = {kind(width=w, depth=d): valley(0.1, 0.3 + w / 99) for w in range(1, 21)
             for d in range(1, 31)}  # fmt: skip
    result = made(kinds)
    content = report.html(result)
    assert len(result.files.read) <= MOST_READ
    assert len(content.encode()) <= 2 * MOST
    assert "The first 40 of 600" in content
    assert "The first 400 of 600" in content


def test_a_notebook_shows_the_same_figures_and_sentences(study, page, tmp_path):
    shown = study._repr_html_()
    text = str(study)
    assert "<script" not in shown
    for finding in StudyContent(study).findings:
        assert finding.text in text
    shown_page = study.report()
    assert shown_page.html == page
    assert shown_page.write(tmp_path / "new" / "b.html").read_text(encoding="utf-8") == page
    whole = study.plot("map")
    assert whole.data[0].type == "bar"
    name, draw = StudyContent(study).drawn["losses"][1]
    assert study.plot(f"losses: {name}").to_json() == draw(LIGHT).to_json()
    assert study.plot("map", dark=True).to_json() != whole.to_json()
    with pytest.raises(UnknownNameError, match="figure of this result 'maps': did you mean 'map'"):
        study.plot("maps")
    with pytest.raises(BadTypeError, match="no report for a dict"):
        report.figure_of({}, "map")


# ---- in a browser ------------------------------------------------------------------------------

needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (Debian: chromium)")

COLUMN = "[...document.querySelectorAll('table.sortable')[0].tBodies[0].rows].map((row) => {})"


@pytest.fixture(scope="module")
def file(page, tmp_path_factory):
    place = tmp_path_factory.mktemp("page") / "study.html"
    place.write_text(page, encoding="utf-8")
    return place


@needs_chromium
def test_a_browser_sorts_chooses_and_hides_without_a_complaint(file, study):
    table = next(part for part in parts(study) if isinstance(part, DataTable))
    place = [column.name for column in table.columns].index("loss")
    keys = COLUMN.format(f"parseFloat(row.cells[{place}].textContent)")
    head = f"document.querySelectorAll('table.sortable')[0].tHead.rows[0].cells[{place}]"
    gallery = "document.getElementById('learning-curves')"
    lines = f"{gallery}.querySelectorAll('.scatterlayer .trace').length"
    with Page(file) as page:
        page.until("document.querySelectorAll('.plot .main-svg').length >= 3")
        before = page.run(keys)
        page.click(f"{head}.querySelector('button')")
        assert page.run(keys) == sorted(before)
        assert page.run(f"{head}.ariaSort") == "ascending"
        page.run(f"{head}.querySelector('button').focus()")
        page.press("Enter", 13)
        page.until(f"{head}.ariaSort === 'descending'")
        assert page.run(keys) == sorted(before, reverse=True)

        title = f"{gallery}.querySelector('select').selectedOptions[0].textContent"
        row = "document.querySelectorAll('table.sortable')[0].tBodies[0].rows[0]"
        first = page.run(f"{row}.querySelector('button.pick').dataset.choice")
        page.click(f"{row}.querySelector('button.pick')")
        chosen = next(p for p in parts(study) if isinstance(p, Gallery)
                      and p.name == "learning-curves").drawings[int(first)]  # fmt: skip
        page.until(f"{title} === {json.dumps(chosen[0])}")
        shown = f"{gallery}.querySelector('.plot').data.map((line) => [...line.y])"
        expected = [list(trace["y"]) for trace in embed.both(chosen[1])["figure"]["data"]]
        assert page.run(shown) == expected

        drawn = page.run(lines)
        page.click(f"{gallery}.querySelector('.legend .legendtoggle')")
        page.until(f"{lines} < {drawn}")
        for link in page.run("[...document.querySelectorAll('[src],link[href]')].map((one) => "
                             "one.getAttribute('src') ?? one.getAttribute('href'))"):  # fmt: skip
            assert link.startswith("data:")
        assert page.complaints == []


@needs_chromium
@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True])
def test_nothing_is_wider_than_a_phone_in_either_theme(file, dark):
    with Page(file, width=390, height=800, dark=dark) as page:
        page.until("document.querySelectorAll('.plot .main-svg').length >= 3")
        assert page.run("document.documentElement.scrollWidth <= innerWidth")
        cut = page.run(
            "[...document.querySelectorAll('.plot text')].filter((text) => {"
            " const box = text.getBoundingClientRect();"
            " return box.width && (box.right > innerWidth + 1 || box.left < -1);"
            "}).map((text) => text.textContent)"
        )
        assert cut == []
        paper = page.run("getComputedStyle(document.body).backgroundColor")
        assert (paper == "rgb(20, 23, 27)") == dark
        assert page.complaints == []


@needs_chromium
@pytest.mark.slow
def test_a_table_that_is_wider_than_a_phone_says_that_it_scrolls(file):
    hint = "getComputedStyle({}, '::before').content"
    wide = "document.querySelector('.wide:has(table.sortable)')"
    with Page(file, width=390, height=800) as page:
        page.until(f"{wide}.classList.contains('scrolls')")
        assert "scroll sideways for more columns" in page.run(hint.format(wide))
        assert page.run(f"{wide}.tabIndex") == 0
        assert page.run(f"getComputedStyle({wide}).maskImage") != "none"
        right = (
            f"{wide}.querySelector('caption').getBoundingClientRect().left + innerWidth - 32 - 40"
        )
        inside = page.run(
            f"(() => {{ const text = document.createRange();"
            f" text.selectNodeContents({wide}.querySelector('caption'));"
            f" return text.getBoundingClientRect().right <= {right}; }})()"
        )
        assert inside  # the caption ends before the edge that fades
        page.run(f"{wide}.scrollLeft = {wide}.scrollWidth")
        page.until(f"getComputedStyle({wide}).maskImage === 'none'")  # nothing is left to show
        said = page.run(
            "[...document.querySelectorAll('.wide')].filter((one) =>"
            " (one.scrollWidth > one.clientWidth + 1) !== one.classList.contains('scrolls')).length"
        )
        assert said == 0
    with Page(file, width=1700) as page:
        page.until("document.querySelectorAll('.plot .main-svg').length >= 3")
        assert page.run(f"{wide}.classList.contains('scrolls')") is False
        assert page.run(hint.format(wide)) == "none"
