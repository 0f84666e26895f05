"""The page in a real browser: no error, no request; it sorts, filters and opens; hostile texts stay text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from report_runs import HOSTILE

from masa_lightning.callbacks._rollout_file import EvaluationRolloutFile, to_short_line
from masa_lightning.cli import main
from masa_lightning.types import Completion, MetaPrediction, Problem, Rollout, RolloutGroup


@pytest.fixture(scope="session")
def page(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("page") / "report.html"
    main(["report", str(runs), "-o", str(file)])
    return file


class Shown:
    """A page in a browser; `size` in pixels."""

    def __init__(self, browser: Any, file: Path, width: int = 1200, scheme: str = "light") -> None:
        self.browser = browser
        screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        for log in ("browser", "performance"):
            browser.get_log(log)  # of earlier pages
        browser.get(f"file://{file}")

    def run(self, script: str, *arguments: Any) -> Any:
        return self.browser.execute_script(script, *arguments)

    def texts(self, selector: str) -> list[str]:
        found: list[str] = self.run(
            "return [...document.querySelectorAll(arguments[0])].map(e => e.textContent)", selector
        )
        return found

    def click(self, selector: str, text: str = "") -> None:
        """Clicks the first element, or the first of a text."""
        found = [e for e in self.browser.find_elements("css selector", selector) if text in ("", e.text)]
        assert found, f"no {selector} with {text!r}"
        self.run("arguments[0].scrollIntoView({block: 'center'})", found[0])
        found[0].click()

    def wait(self, selector: str) -> list[str]:
        """The texts of elements that come a moment later: an opened `details` tells the page in a task of its own."""
        from selenium.webdriver.support.ui import WebDriverWait

        WebDriverWait(self.browser, 60).until(lambda _: self.texts(selector))
        return self.texts(selector)

    def open_all(self) -> None:
        """Opens every `details`, and waits until the page has heard of each."""
        self.run("""return Promise.all([...document.querySelectorAll('details:not([open])')].map(d => new Promise(done => {
            d.addEventListener('toggle', done, {once: true});
            d.open = true;
        })))""")

    def column(self, title: str) -> list[str]:
        """The cells of a column of the table of problems."""
        place = self.texts("#table thead th").index(title) + 1
        return self.texts(f"#table tbody tr:not(.opened) td:nth-child({place})")

    def errors(self) -> list[str]:
        return [entry["message"] for entry in self.browser.get_log("browser")]

    def requests(self) -> list[str]:
        events = [json.loads(entry["message"])["message"] for entry in self.browser.get_log("performance")]
        urls = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
        return [url for url in urls if not url.startswith("file:")]


@pytest.fixture
def shown(browser: Any, page: Path) -> Shown:
    return Shown(browser, page)


def test_it_loads_without_an_error_or_a_request(shown: Shown) -> None:
    titles = shown.texts("main h2")
    assert titles == [
        "What came out",
        "Against the first",
        "Curves",
        "Predictions, before and after",
        "Controls",
        "Tokens",
        "Settings",
        "Problems",
    ]
    assert len(shown.texts("#arms li")) == 2
    assert shown.errors() == []
    assert shown.requests() == []
    assert shown.run("return document.querySelectorAll('noscript p').length") == 0


def test_the_screen_and_the_page_say_the_same_of_two(
    shown: Shown, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["report", str(runs), "-o", str(tmp_path / "page.html")])
    printed = capsys.readouterr().out.split("\n\n")[0].splitlines()
    drawn = [
        text.split()
        for selector in ("#costs thead tr", "#costs tbody tr", "#costs .pairs > div > p")
        for text in shown.run("return [...document.querySelectorAll(arguments[0])].map(e => e.innerText)", selector)
    ]
    assert len(printed) > 6 and drawn == [line.split() for line in printed]


def test_every_chart_is_drawn_with_labels_and_its_n(shown: Shown) -> None:
    shown.open_all()
    figures = shown.run("""return new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(
        [...document.querySelectorAll('figure')].map(f => [f.querySelector('strong').textContent,
            f.querySelector('figcaption').textContent.includes('n = '), f.querySelectorAll('.plot svg text').length,
            f.querySelectorAll('.line,.dot,.hollow,.bubble,rect').length])))))""")
    assert len(figures) > 25
    for title, has_n, labels, marks in figures:
        assert has_n and labels >= 4 and marks >= 1, title
    assert "Pass@1 on held-out problems" in [title for title, *_ in figures]
    assert any("2 seeds" in text for text in shown.texts("figcaption"))
    assert shown.errors() == []


def test_numbers_of_a_chart_are_there_as_a_table(shown: Shown) -> None:
    shown.click("figure .numbers summary")
    rows = shown.wait("figure .numbers tbody tr")
    assert len(rows) == 8  # two arms at steps 0, 1, 2 and 3
    assert "[" in "".join(rows)


def test_single_steps_stay_between_the_axes(browser: Any, tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("step,reward\n" + "".join(f"{n},{n % 5}\n" for n in range(1, 29)))
    main(["report", str(tmp_path)])
    shown = Shown(browser, tmp_path / "report.html")
    shown.wait("svg .raw, svg text")
    ends = "const [line, axis] = ['.raw', '.axis'].map(s => document.querySelector('#curves ' + s).getBBox());"
    ends += "return [axis.x, line.x, line.x + line.width, axis.x + axis.width]"
    places = shown.run(ends)
    assert places == sorted(places)
    assert shown.errors() == []


def test_sorting(shown: Shown) -> None:
    shown.click("#table thead button", "Pass rate")
    rates = [float(text) for text in shown.column("Pass rate")]
    assert rates == sorted(rates) and len(set(rates)) > 2
    assert shown.texts("#table th[aria-sort=ascending]") == ["Pass rate"]
    button = shown.browser.switch_to.active_element  # by the keyboard
    button.send_keys("\ue007")
    assert [float(text) for text in shown.column("Pass rate")] == rates[::-1]
    assert shown.texts("#table th[aria-sort=descending]") == ["Pass rate"]


def test_filtering(shown: Shown) -> None:
    everything = len(shown.column("Problem"))
    shown.browser.find_element("id", "search").send_keys("2+2")
    assert set(shown.column("Problem")) == {"2+2"}
    shown.browser.find_element("id", "search").clear()
    shown.browser.find_element("id", "search").send_keys("\ue004")
    shown.run(
        "const s = document.getElementById('outcome'); s.value = 'always right'; s.dispatchEvent(new Event('input'))"
    )
    assert set(shown.column("Problem")) == {"1+1"}
    assert set(shown.column("Pass rate")) == {"1"}
    shown.run("const s = document.getElementById('run'); s.value = 'other'; s.dispatchEvent(new Event('input'))")
    assert set(shown.column("Run")) == {"other"}
    assert "of" in shown.texts("#said")[0] and everything > 3


@pytest.mark.parametrize("width", [1200, 390])
def test_opening_shows_rollouts_of_both_kinds(browser: Any, page: Path, width: int) -> None:
    shown = Shown(browser, page, width)
    shown.browser.find_element("id", "search").send_keys("2+2")
    shown.click("#table .opener")
    assert shown.texts("#table .opened h3")[:3] == [
        "Validation after 0 steps; actual pass rate 0.333", "Solutions (3)", "Predictions (2)",
    ]  # fmt: skip
    text = shown.texts("#table .opened")[0]
    assert "expected answer 4" in text
    assert "predicts pass rate 0.75" in text and "notions <b>ring</b>" in text
    assert "reward 1 (correct 1)" in text and "tokens" in text
    assert shown.texts("#table .opened pre").count(f"right {HOSTILE}") == 2  # before and after
    shown.click("#table .opener")
    assert shown.texts("#table .opened") == []
    assert shown.errors() == []


def test_hostile_texts_stay_text(shown: Shown) -> None:
    shown.open_all()
    for opener in shown.browser.find_elements("css selector", "#table .opener")[:5]:
        shown.run("arguments[0].click()", opener)
    assert shown.run("return window.pwned === undefined")
    assert shown.run("return document.querySelectorAll('main img, main script, main b, main iframe').length") == 0
    assert f"hf {HOSTILE}" in "".join(shown.texts("#settings td"))
    assert "sesame" not in shown.run("return document.documentElement.outerHTML")
    assert "\ufffdreversed\ufffd\ufffd<!--" in "".join(shown.texts("#table .opener"))
    assert not any(c in shown.run("return document.body.textContent") for c in "\u202e\u2028\x00")
    assert shown.errors() == [] and shown.requests() == []


def test_the_policy_stops_what_would_slip_in(shown: Shown) -> None:
    """A hole in the escaping would still run nothing and load nothing."""
    shown.run("""
        const hole = document.createElement('div');
        document.body.append(hole);
        hole.innerHTML = '<img src=x onerror="window.pwned=1"><a id="a" href="#" onclick="window.pwned=1">a</a>';
        const script = document.createElement('script');
        script.textContent = 'window.pwned=1';
        document.body.append(script);
        document.getElementById('a').click();
        window.answer = null;
        fetch('http://127.0.0.1:9/').then(() => window.answer = 'sent', () => window.answer = 'refused');
    """)
    shown.run("return new Promise(done => { const f = () => window.answer ? done() : setTimeout(f, 5); f(); })")
    assert shown.run("return [window.pwned === undefined, window.answer]") == [True, "refused"]
    assert any("Content Security Policy" in error for error in shown.errors())
    assert shown.requests() == []


@pytest.mark.parametrize("opened", [False, True])
def test_a_phone_scrolls_in_one_direction(browser: Any, page: Path, opened: bool) -> None:
    shown = Shown(browser, page, 390)
    if opened:
        shown.open_all()
        for opener in shown.browser.find_elements("css selector", "#table .opener")[:3]:
            shown.run("arguments[0].click()", opener)
    assert shown.run("return [document.documentElement.scrollWidth, innerWidth]") == [390, 390]
    shown.click("#table thead button", "Pass rate")
    assert shown.texts("#table th[aria-sort=ascending]") == ["Pass rate"]
    assert shown.errors() == []


def test_dark_scheme(browser: Any, page: Path) -> None:
    script = "return getComputedStyle(document.body).backgroundColor"
    assert Shown(browser, page).run(script) == "rgb(255, 255, 255)"
    assert Shown(browser, page, scheme="dark").run(script) == "rgb(18, 22, 29)"


def test_a_large_run_is_sampled_and_says_so(browser: Any, tmp_path: Path) -> None:
    def rollout(kind: Any, number: int) -> Rollout:
        return Rollout(
            kind=kind,
            prompt_ids=[],
            completion=Completion(token_ids=[1] * 9, logprobs=[], finish_reason="stop"),
            text=f"{number} <&> " * 300,
            correct=number % 3 == 0,
            prediction=MetaPrediction(pass_rate=number % 9, solution_length=9) if kind == "meta" else None,
            reward=1.0,
        )

    groups = [
        RolloutGroup(
            problem=Problem(id=f"p{n}", problem=f"Problem {n} " + "x" * 500, answer="1"),
            solutions=[rollout("solution", n + i) for i in range(2)],
            metas=[rollout("meta", n)],
        )
        for n in range(4000)
    ]
    file = EvaluationRolloutFile(tmp_path / "rollouts" / "validate_step000009.jsonl")
    file.append([to_short_line(group, r, 9, {}, str) for group in groups for r in group.rollouts])
    file.finish()
    main(["report", str(tmp_path)])
    file = tmp_path / "report.html"
    assert 4_000_000 < file.stat().st_size < 5_000_000
    shown = Shown(browser, file)
    said = shown.texts("#said")[0]
    assert said.startswith("2000 of 2000 problems, an even sample of 4000; the rollouts of ")
    assert 100 < int(said.split("the rollouts of ")[1].split()[0]) < 2000
    assert "n = 4000 problems" in "".join(shown.texts("#predictions figcaption"))
    assert len(shown.column("Problem")) == 50
    shown.click(".more")
    assert len(shown.column("Problem")) == 100
    assert shown.errors() == []


def test_broken_runs_have_a_page_all_the_same(browser: Any, run: Path) -> None:
    for file in run.rglob("*"):
        if file.is_file():
            file.write_bytes(b"\xff{broken" * 20)
    main(["report", str(run)])
    shown = Shown(browser, run / "report.html")
    assert "What is missing or broken" in shown.texts("h3")
    assert len(shown.texts(".notes li")) >= 5
    assert "There are no rollouts to show" in shown.texts("#problems .note")[0]
    assert shown.errors() == []
