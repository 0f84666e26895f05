
"use strict";
// Texts of models and data sets reach the page as text nodes alone: nothing here reads them as HTML.
const data = JSON.parse(document.getElementById("data").textContent);
const main = document.getElementById("main");
const NONE = "\u2013";
const several = data.arms.length > 1;
const seeds = data.arms.some((arm) => arm.runs.length > 1);

function element(name, attributes, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) if (value !== null) made.setAttribute(key, value);
  made.append(...children.filter((child) => child !== null && child !== ""));
  return made;
}

function drawn(name, attributes, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

const color = (arm) => `c${arm % 8}`;
const label = (arm) => data.arms[arm].label;

function number(value) {
  if (value === null || value === undefined) return NONE;
  const size = Math.abs(value);
  if (size >= 1e6) return `${+(value / 1e6).toPrecision(3)}M`;
  if (size >= 1e4) return `${+(value / 1e3).toPrecision(3)}k`;
  if (size >= 100) return String(Math.round(value));
  if (size !== 0 && size < 1e-3) return value.toExponential(1);
  return String(+value.toFixed(size < 1 ? 3 : 1));
}
// A figure in two lines: its interval below it.
function figures(text) {
  const cut = text.indexOf(" [");
  if (cut < 0) return text;
  return element("span", {}, text.slice(0, cut), element("span", { class: "interval" }, text.slice(cut + 1)));
}
const interval = (low, high) => (low === null || high === null ? "" : ` [${number(low)}, ${number(high)}]`);

function section(id, title, ...intro) {
  const made = element("section", { id, "aria-labelledby": `${id}-title` });
  made.append(element("h2", { id: `${id}-title` }, title), ...intro.map((text) => element("p", { class: "dim" }, text)));
  main.append(made);
  document.getElementById("nav").append(element("a", { href: `#${id}` }, title));
  return made;
}

function table(given, kind, caption) {
  const body = element("tbody");
  given.rows.forEach((row, place) => {
    const arm = given.arms[place];
    body.append(element("tr", {}, ...row.map((text, column) => {
      const inside = column === 0 && arm !== undefined && several
        ? element("span", { class: `arm ${color(arm)}` }, text)
        : element("span", { class: "inline" }, kind === "facts" && column ? figures(text) : text);
      return element("td", {}, inside);
    })));
  });
  const head = element("thead", {}, element("tr", {}, ...given.head.map((text, column) => element("th", { scope: "col" },
    given.columns?.[column - 1] !== undefined && several ? element("span", { class: `arm ${color(given.columns[column - 1])}` }, text) : text))));
  return element("div", {}, element("p", { class: "dim" }, caption), element("div", { class: "scroll", tabindex: "0", role: "group",
    "aria-label": caption }, element("table", { class: kind }, head, body)));
}

// Few runs with many figures: a line a figure, which fits where a line a run does not.
function turned(given) {
  if (given.rows.length > 4) return given;
  const rows = given.head.slice(1).map((name, place) => [name, ...given.rows.map((row) => row[place + 1])]);
  return { head: ["", ...given.rows.map((row) => row[0])], rows, columns: given.arms, arms: [] };
}

// -- charts -------------------------------------------------------------------------------------------------------------

function ticks(low, high, count) {
  const rough = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= rough) || rough;
  const found = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + step * 1e-9; k++) found.push(+(k * step).toPrecision(12));
  return found;
}

function range(values, floor) {
  let low = Infinity, high = -Infinity;
  for (const value of values) { low = Math.min(low, value); high = Math.max(high, value); }
  if (low > high) return [0, 1];
  if (low === 0 && high === 0) return [floor ? 0 : -1, 1];
  if (low === high) { const pad = Math.abs(low) * 0.1 || 1; low -= pad; high += pad; }
  const pad = (high - low) * 0.06;
  return [floor && low >= 0 && low - pad < 0 ? 0 : low - pad, high + pad];
}

// Draws into a figure whenever its width changes; `draw` gets the SVG, scales of x and y, and the place between the axes.
function plot(figure, { xs, ys, x, y, square }, draw) {
  const holder = element("div", { class: "plot" });
  figure.append(holder);
  let width = 0;
  const redraw = () => {
    const now = Math.round(holder.clientWidth);
    if (!now || now === width) return;
    width = now;
    const height = square ? Math.min(width, 330) : 210;
    const box = { left: 50, right: width - 10, top: 20, bottom: height - 36 };
    const sx = (v) => box.left + ((v - xs[0]) / (xs[1] - xs[0])) * (box.right - box.left);
    const sy = (v) => box.bottom - ((v - ys[0]) / (ys[1] - ys[0])) * (box.bottom - box.top);
    const image = drawn("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img", "aria-label": figure.title_ });
    for (const tick of ticks(ys[0], ys[1], 4)) {
      image.append(drawn("line", { class: "gridline", x1: box.left, x2: box.right, y1: sy(tick), y2: sy(tick) }),
        drawn("text", { x: box.left - 10, y: sy(tick) + 4, "text-anchor": "end" }, number(tick)));
    }
    for (const tick of ticks(xs[0], xs[1], Math.max(2, Math.floor(width / 80)))) {
      image.append(drawn("text", { x: sx(tick), y: box.bottom + 15, "text-anchor": "middle" }, number(tick)));
    }
    image.append(drawn("line", { class: "axis", x1: box.left, x2: box.right, y1: box.bottom, y2: box.bottom }),
      drawn("text", { x: box.right, y: height - 4, "text-anchor": "end" }, x),
      drawn("text", { x: 2, y: 11 }, y));
    draw(image, sx, sy, box);
    holder.replaceChildren(image);
  };
  new ResizeObserver(redraw).observe(holder);
}

function figureOf(title, ...lines) {
  const figure = element("figure", {}, element("figcaption", {}, element("strong", {}, title),
    ...lines.filter(Boolean).map((text) => element("p", {}, text))));
  figure.title_ = [title, ...lines].filter(Boolean).join(". ");
  return figure;
}

function lineChart(chart) {
  const figure = figureOf(chart.title, chart.note);
  const all = chart.lines.flatMap((line) => line.points);
  const raw = chart.lines.flatMap((line) => line.raw);
  const names = new Set(chart.lines.map((line) => line.name));
  if (several || names.size > 1) {
    figure.append(element("ul", { class: "keys" }, ...chart.lines.map((line) => {
      const key = drawn("svg", { viewBox: "0 0 26 10", "aria-hidden": "true", class: color(line.arm) },
        drawn("line", { class: line.dashed ? "line dashed" : "line", x1: 0, x2: 26, y1: 5, y2: 5 }));
      return element("li", {}, key, [several ? label(line.arm) : "", line.name].filter(Boolean).join(", "));
    })));
  }
  const xs = range(all.concat(raw).map((p) => p[0]), true);
  const heights = all.flatMap((p) => [p[1], p[2], p[3]]).concat(raw.map((p) => p[1])).filter((v) => v !== null);
  const ys = range(heights, true);
  const readout = element("p", { class: "readout" });
  plot(figure, { xs, ys, x: chart.x, y: chart.y }, (image, sx, sy, box) => {
    chart.lines.forEach((line, place) => {
      const shift = line.points.length > 12 ? 0 : (place - (chart.lines.length - 1) / 2) * 4;
      const group = drawn("g", { class: color(line.arm) });
      const at = (p) => `${(sx(p[0]) + shift).toFixed(1)},${sy(p[1]).toFixed(1)}`;
      if (line.raw.length > 1) group.append(drawn("polyline", { class: "raw", points: line.raw.map(at).join(" ") }));
      const bounded = line.points.filter((p) => p[2] !== null && p[3] !== null);
      if (line.points.length > 12) {
        const there = bounded.map((p) => `${sx(p[0]).toFixed(1)},${sy(p[3]).toFixed(1)}`);
        const back = bounded.map((p) => `${sx(p[0]).toFixed(1)},${sy(p[2]).toFixed(1)}`).reverse();
        if (there.length > 1) group.append(drawn("polygon", { class: "band", points: there.concat(back).join(" ") }));
      } else {
        for (const p of bounded) group.append(drawn("line",
          { class: "bar", x1: sx(p[0]) + shift, x2: sx(p[0]) + shift, y1: sy(p[2]), y2: sy(p[3]) }));
      }
      if (line.points.length > 1) group.append(drawn("polyline",
        { class: line.dashed ? "line dashed" : "line", points: line.points.map(at).join(" ") }));
      if (line.points.length <= 12) for (const p of line.points) group.append(drawn("circle",
        { class: line.dashed ? "hollow" : "dot", cx: sx(p[0]) + shift, cy: sy(p[1]), r: 4 }));
      image.append(group);
    });
    const cursor = drawn("line", { class: "cursor", y1: box.top, y2: box.bottom, visibility: "hidden" });
    image.append(cursor);
    image.addEventListener("pointermove", (event) => {
      const place = event.clientX - image.getBoundingClientRect().left;
      let best = null;
      for (const p of all) if (best === null || Math.abs(sx(p[0]) - place) < Math.abs(sx(best) - place)) best = p[0];
      if (best === null) return;
      cursor.setAttribute("x1", sx(best)); cursor.setAttribute("x2", sx(best)); cursor.setAttribute("visibility", "visible");
      readout.textContent = `${chart.x} ${number(best)}: ` + chart.lines.flatMap((line) => line.points
        .filter((p) => p[0] === best)
        .map((p) => [several ? label(line.arm) : "", line.name, number(p[1]) + interval(p[2], p[3])].filter(Boolean).join(" "))
      ).join("; ");
    });
  });
  const numbers = element("details", { class: "numbers" }, element("summary", {}, "Numbers"));
  numbers.addEventListener("toggle", () => {
    if (numbers.children.length > 1) return;
    const rows = chart.lines.flatMap((line) => line.points.map((p) =>
      [[several ? label(line.arm) : "", line.name].filter(Boolean).join(", ") || chart.y, number(p[0]), number(p[1]) +
        interval(p[2], p[3]), p[4] ? String(p[4]) : NONE]));
    numbers.append(table({ head: ["", chart.x, chart.y, "n"], rows, arms: [] }, "facts", chart.title));
  });
  figure.append(readout, numbers);
  return figure;
}

function scatter(panel, found, title, unit, greatest = null) {
  if (!found) return null;
  const said = [`n = ${found.problems} problems${panel.seeds > 1 ? ` of ${panel.seeds} seeds` : ""}`];
  if (found.drawn < found.problems) said.push(`${found.drawn} of them drawn`);
  if (found.r) said.push(`r = ${number(found.r[0])}${interval(found.r[1], found.r[2])}`);
  if (found.bias) said.push(`predicted \u2212 actual = ${number(found.bias[0])}${interval(found.bias[1], found.bias[2])}`);
  const figure = figureOf(title, said.join("; "));
  const most = greatest ?? Math.max(...found.points.flatMap((p) => [p[0], p[1]]));
  const least = greatest === null ? Math.min(0, ...found.points.flatMap((p) => [p[0], p[1]])) : 0;
  const ends = greatest === 1 ? [-0.04, 1.04] : [least * 1.05, most * 1.05 || 1];
  const top = Math.max(...found.points.map((p) => p[2]));
  plot(figure, { xs: ends, ys: ends, x: `actual ${unit}`, y: `predicted ${unit}`, square: true }, (image, sx, sy) => {
    image.append(drawn("line", { class: "diagonal", x1: sx(least), y1: sy(least), x2: sx(most), y2: sy(most) }));
    const group = drawn("g", { class: color(panel.arm) });
    for (const [predicted, actual, n] of found.points) { // as in the run's pictures
      group.append(drawn("circle", { class: "bubble", cx: sx(actual), cy: sy(predicted), r: 2.5 + 9 * Math.sqrt((n - 1) / Math.max(top, 8)) },
        drawn("title", {}, `predicted ${number(predicted)}, actual ${number(actual)}: ${n} problem${n === 1 ? "" : "s"}`)));
    }
    image.append(group);
  });
  return figure;
}

function reliability(panel) {
  const found = panel.reliability;
  if (!found) return null;
  const over = panel.seeds > 1 ? `means of ${panel.seeds} seeds, 95% interval over seeds` : "95% interval (Wilson) over problems";
  const figure = figureOf("Reliability", `n = ${found.problems} problems in ${found.points.length} bins; ${over}. Bars: how many.`);
  const most = Math.max(...found.points.map((p) => p[4]));
  plot(figure, { xs: [0, 1], ys: [0, 1.02], x: "predicted pass rate", y: "actual pass rate", square: true }, (image, sx, sy, box) => {
    const group = drawn("g", { class: color(panel.arm) });
    for (const [x, , , , n] of found.points) {
      const bin = Math.min(9, Math.floor(x * 10 + 1e-9));
      const high = ((box.bottom - box.top) * 0.3 * n) / most;
      group.append(drawn("rect", { class: "count", x: sx(bin / 10) + 1, width: (box.right - box.left) / 10 - 2, y: box.bottom - high,
        height: high }, drawn("title", {}, `${n} problems`)));
    }
    image.append(drawn("line", { class: "diagonal", x1: sx(0), y1: sy(0), x2: sx(1), y2: sy(1) }));
    for (const [x, y, low, high, n] of found.points) {
      if (low !== null) group.append(drawn("line", { class: "bar", x1: sx(x), x2: sx(x), y1: sy(low), y2: sy(high) }));
      group.append(drawn("circle", { class: "dot", cx: sx(x), cy: sy(y), r: 4.5 },
        drawn("title", {}, `predicted ${number(x)}, actual ${number(y)}${interval(low, high)}, ${n} problems`)));
    }
    image.append(group);
  });
  return figure;
}

function tokenBars() {
  const shades = [1, 0.7, 0.5, 0.35, 0.22];
  const names = [...new Set(data.bars.flatMap((bar) => bar.parts.map((part) => part[0])))];
  const sums = data.bars.map((bar) => bar.parts.reduce((sum, part) => sum + part[1], 0));
  const figure = figureOf("Tokens of training", `n = ${data.bars.length} ${seeds ? "arm" : "run"}${data.bars.length === 1 ? "" : "s"}${seeds ? ", means over seeds" : ""}; ` +
    "from left to right: " + names.join("; "));
  const most = Math.max(...sums, 1);
  plot(figure, { xs: [0, most * 1.02], ys: [0, data.bars.length], x: "tokens", y: "" }, (image, sx, sy, box) => {
    image.querySelectorAll("text").forEach((text) => { if (text.getAttribute("text-anchor") === "end" && +text.getAttribute("x") < box.left) text.remove(); });
    const thick = Math.min(34, (box.bottom - box.top) / data.bars.length - 16);
    data.bars.forEach((bar, place) => {
      const top = box.top + (place + 0.5) * ((box.bottom - box.top) / data.bars.length) - thick / 2 + 7;
      image.append(drawn("text", { x: box.left, y: top - 3 }, label(bar.arm).slice(0, 60)));
      let sum = 0;
      for (const [name, tokens] of bar.parts) {
        const part = drawn("rect", { x: sx(sum), y: top, width: Math.max(0, sx(sum + tokens) - sx(sum)), height: Math.max(4, thick),
          fill: "var(--c)", class: color(bar.arm), "fill-opacity": shades[names.indexOf(name) % shades.length] },
          drawn("title", {}, `${name}: ${number(tokens)} tokens`));
        part.setAttribute("fill", "currentColor");
        part.style.color = "var(--c)";
        image.append(part);
        sum += tokens;
      }
    });
  });
  return figure;
}

// -- the parts of the page ----------------------------------------------------------------------------------------------

function overview() {
  const made = section("overview", "What came out");
  if (data.overview.rows.some((row) => row.length > 2)) {
    made.append(table(turned(data.overview), "facts", "Means with 95% intervals: over problems of one run, over seeds of several"));
  }
  if (data.notes.length) {
    const notes = data.notes.map(([run, text]) => element("li", {}, data.runs.length > 1 ? `${run}: ${text}` : text));
    const what = element("h3", {}, "What is missing or broken");
    made.append(what, element("ul", { class: "notes" }, ...notes.slice(0, 12)));
    if (notes.length > 12) made.append(element("details", {}, element("summary", {}, `${notes.length - 12} more`),
      element("ul", { class: "notes" }, ...notes.slice(12))));
  }
}

function costs() {
  if (!data.costs.length) return;
  const made = section("costs", "Against the first", "What runs saved and solved, and what that cost, in what both have logged" +
    `${seeds ? "; means over seeds" : ""}. Seconds are those of training steps and cloning, without validation. ` +
    "Solved is the difference of pass@1 on the same problems, with its 95% interval (Student's t).");
  made.append(element("div", { class: "pairs" }, ...data.costs.map((pair) => {
    const compared = pair.head.slice(1, 3).reverse().join(" against ");
    return element("div", {}, pair.rows.length ? table(pair, "facts", compared) : element("p", { class: "dim" }, compared),
      ...pair.said.map((text) => element("p", {}, text)),
      ...pair.unequal.map((text) => element("p", { class: "note" }, text)));
  })));
}

function curves() {
  if (!data.charts.length) return;
  const made = section("curves", "Curves",
    "Thick lines are means of several steps or seeds, with 95% intervals (Student's t over steps or seeds; over problems Wilson's, " +
    "or Fisher's of a correlation). Thin lines are single steps.");
  const groups = { "held out": "On held-out problems", training: "On the problems of training", update: "The update" };
  for (const [group, title] of Object.entries(groups)) {
    const charts = data.charts.filter((chart) => chart.group === group);
    if (!charts.length) continue;
    const grid = element("div", { class: "grid" }, ...charts.map(lineChart));
    made.append(group === "update" ? element("details", {}, element("summary", {}, `${title} (${charts.length} charts)`), grid)
      : element("div", {}, element("h3", {}, title), grid));
  }
}

function predictions() {
  if (!data.predictions.length) return;
  const made = section("predictions", "Predictions, before and after",
    "Each circle is one problem or, where it is larger, several: the mean of its predictions against what its solutions did. On the " +
    "dotted line predictions are right. Lengths are those of right solutions.");
  for (const panel of data.predictions) {
    const title = element("h3", { class: several ? `arm ${color(panel.arm)}` : "" },
      (several ? `${label(panel.arm)}: ` : "") + panel.when);
    made.append(title, element("div", { class: "grid" }, ...[
      scatter(panel, panel.rate, "Pass rate", "pass rate", 1), reliability(panel),
      scatter(panel, panel.length, "Solution length", "tokens"),
      ...panel.others.map((each) => scatter(panel, each.scatter, each.name[0].toUpperCase() + each.name.slice(1), each.name)),
    ].filter(Boolean)));
  }
}

function tables() {
  if (data.controls.rows.length) {
    const made = section("controls", "Controls",
      "What the predictions were used for. Figures look back on the last steps of the run (their window); of several seeds, means " +
      "with 95% intervals over seeds.");
    made.append(table(data.controls, "facts", "n is the number of units seen in full that the figures rest on"));
    made.append(element("div", { class: "grid" }, ...data.charts.filter((c) => c.group === "controls").map(lineChart)));
  }
  if (data.tokens.rows.length) {
    const made = section("tokens", "Tokens");
    made.append(table(data.tokens, "facts", `In all of training${seeds ? "; means over seeds with 95% intervals" : ""}`));
    if (data.bars.length) made.append(tokenBars());
  }
  if (data.benchmarks.rows.length) {
    section("benchmarks", "Benchmarks").append(table(data.benchmarks, "facts",
      "Pass@1 with 95% intervals over problems (Wilson's), or over seeds"));
  }
  if (data.settings.all.rows.length) {
    const made = section("settings", "Settings");
    made.append(data.settings.differing.rows.length
      ? table(data.settings.differing, "settings", "Those that differ between runs; of several seeds, all their values")
      : element("p", { class: "dim" }, data.runs.length > 1 ? "No setting differs between these runs." : "One run: nothing to compare."));
    const all = element("details", {}, element("summary", {}, `All settings (${data.settings.all.rows.length})`));
    all.addEventListener("toggle", () => {
      if (all.children.length < 2) all.append(table(data.settings.all, "settings", "All settings"));
    });
    made.append(all);
  }
}

// -- problems -----------------------------------------------------------------------------------------------------------

function fact(name, text) { return element("span", {}, element("span", { class: "dim" }, `${name} `), element("span", { class: "inline" }, text)); }

function rollout(given) {
  const line = element("div", { class: "facts-line" });
  if (given.kind === "solution") {
    const verdict = given.ungraded ? "no verdict" : given.correct ? "right" : "wrong";
    line.append(element("span", { class: given.ungraded ? "dim" : verdict }, verdict));
  } else {
    if (given.rate !== null || !given.others.length) line.append(fact("predicts pass rate", number(given.rate)));
    if (given.length !== null || !given.others.length) line.append(fact("tokens", number(given.length)));
    for (const [name, value] of given.others) line.append(fact(name.replaceAll("_", " "), value));
    if (given.notions.length) line.append(fact("notions", given.notions.join(", ")));
    if (given.failures.length) line.append(element("span", { class: "wrong inline" }, `not read: ${given.failures.join("; ")}`));
  }
  const parts = given.rewards.map(([name, value]) => `${name} ${number(value)}`).join(", ");
  line.append(fact("reward", number(given.reward) + (parts ? ` (${parts})` : "")));
  line.append(fact("length", `${number(given.tokens)} tokens${given.cut ? ", cut at the limit" : ""}`));
  return element("article", {}, line, element("pre", { dir: "auto" }, given.text));
}

function moment(row, given) {
  const when = row.set === "training" ? `Training step ${number(given.step)}: some of its rollouts`
    : given.step === null ? row.set : `${row.set[0].toUpperCase()}${row.set.slice(1)} after ${number(given.step)} steps`;
  const kinds = element("div", { class: "kinds" });
  for (const [kind, title] of [["solution", "Solutions"], ["meta", "Predictions"]]) {
    const rollouts = given.rollouts.filter((each) => each.kind === kind);
    kinds.append(element("div", {}, element("h3", {}, `${title} (${rollouts.length})`),
      element("div", { class: "rollouts", tabindex: "0", role: "group", "aria-label": title }, ...rollouts.map(rollout))));
  }
  return element("div", {}, element("h3", {}, `${when}; actual pass rate ${number(given.rate)}`), kinds);
}

function opened(row, place, columns) {
  const inside = element("td", { colspan: columns });
  const whole = data.rollouts[place];
  inside.append(element("div", { class: "facts-line" }, fact("problem", row.id), fact("of", row.source || NONE), fact("run", data.runs[row.run])));
  if (whole) {
    inside.append(element("pre", { dir: "auto" }, whole.problem), element("p", {}, fact("expected answer", whole.answer || NONE)),
      ...whole.moments.map((each) => moment(row, each)));
  } else {
    inside.append(element("p", { class: "note" }, "The rollouts of this problem are not in this page, which has room for those of " +
      `${Object.keys(data.rollouts).length} of ${data.problems.length} problems. They are in the files of the run.`));
  }
  return element("tr", { class: "opened" }, inside);
}

function problems() {
  const made = section("problems", "Problems");
  if (!data.problems.length) {
    made.append(element("p", { class: "note" }, "There are no rollouts to show: RolloutTable and BenchmarkReport write them."));
    return;
  }
  const gap = (row) => (row.predicted === null || row.actual === null ? null : row.predicted - row.actual);
  const columns = [
    { key: "problem", title: "Problem", value: (row) => row.problem.toLowerCase() },
    { key: "run", title: "Run", value: (row) => data.runs[row.run], text: true, wide: true, drop: data.runs.length < 2 },
    { key: "set", title: "Set", value: (row) => row.set, text: true, wide: true },
    { key: "answer", title: "Expected", value: (row) => row.answer, text: true, wide: true },
    { key: "before", title: "Pass rate before", value: (row) => row.before, wide: true },
    { key: "actual", title: "Pass rate", value: (row) => row.actual },
    { key: "predicted_before", title: "Predicted before", value: (row) => row.predicted_before, wide: true },
    { key: "predicted", title: "Predicted", value: (row) => row.predicted },
    { key: "gap", title: "Predicted \u2212 actual", value: gap },
    { key: "length", title: "Tokens", value: (row) => row.length, wide: true },
    { key: "predicted_length", title: "Predicted tokens", value: (row) => row.predicted_length, wide: true },
    { key: "meta_reward", title: "Meta reward", value: (row) => row.meta_reward, wide: true },
  ].filter((column) => !column.drop && (column.text || data.problems.some((row) => column.value(row) !== null)));
  const outcomes = {
    all: () => true,
    "always right": (row) => row.actual === 1,
    "sometimes right": (row) => row.actual > 0 && row.actual < 1,
    "never right": (row) => row.actual === 0,
    "better than before": (row) => row.before !== null && row.actual > row.before,
    "worse than before": (row) => row.before !== null && row.actual < row.before,
    "over-confident by 0.25 or more": (row) => gap(row) !== null && gap(row) >= 0.25,
    "under-confident by 0.25 or more": (row) => gap(row) !== null && gap(row) <= -0.25,
  };
  const choice = (title, values) => {
    const select = element("select", {}, ...values.map((value) => element("option", { value }, value)));
    return [select, element("label", {}, title, select)];
  };
  const search = element("input", { type: "search", id: "search", autocomplete: "off" });
  const [outcome, outcomeLabel] = choice("Outcome", Object.keys(outcomes));
  const [set, setLabel] = choice("Set", ["all", ...new Set(data.problems.map((row) => row.set))]);
  const [run, runLabel] = choice("Run", ["all", ...data.runs]);
  outcome.id = "outcome"; set.id = "set"; run.id = "run";
  const filters = element("form", { class: "filters" }, element("label", {}, "Text of the problem, its answer or id", search),
    outcomeLabel, setLabel, data.runs.length > 1 ? runLabel : null);
  filters.addEventListener("submit", (event) => event.preventDefault());
  const said = element("p", { class: "dim", id: "said", role: "status" });
  const head = element("tr");
  const body = element("tbody");
  const more = element("button", { class: "more", type: "button" }, "Show 50 more");
  let sorted = { column: null, rising: true };
  let visible = 50;
  let rows = [];

  const fill = () => {
    body.replaceChildren();
    for (const place of rows.slice(0, visible)) {
      const row = data.problems[place];
      const opener = element("button", { class: "opener", type: "button", "aria-expanded": "false", dir: "auto" }, row.problem || row.id);
      const cells = columns.map((column) => {
        if (column.key === "problem") return element("td", {}, opener);
        const value = column.value(row);
        const kind = `${column.text ? "text" : "number"}${column.wide ? " wide" : ""}`;
        const off = column.key === "gap" && value !== null && Math.abs(value) >= 0.25 ? " over" : "";
        if (column.key === "run" && several) return element("td", { class: kind }, element("span", { class: `arm ${color(row.arm)}` }, value));
        return element("td", { class: kind + off, dir: column.text ? "auto" : null },
          column.text ? value || NONE : (column.key === "gap" && value > 0 ? "+" : "") + number(value));
      });
      const line = element("tr", {}, ...cells);
      opener.addEventListener("click", () => {
        const open = opener.getAttribute("aria-expanded") === "true";
        opener.setAttribute("aria-expanded", String(!open));
        if (open) line.nextSibling.remove();
        else line.after(opened(row, place, columns.length));
      });
      body.append(line);
    }
    more.hidden = rows.length <= visible;
  };
  const select = () => {
    const wanted = search.value.trim().toLowerCase();
    rows = [...data.problems.keys()].filter((place) => {
      const row = data.problems[place];
      return outcomes[outcome.value](row) && (set.value === "all" || row.set === set.value) &&
        (run.value === "all" || data.runs[row.run] === run.value) &&
        (!wanted || `${row.problem}\n${row.answer}\n${row.id}\n${row.source}`.toLowerCase().includes(wanted));
    });
    if (sorted.column) {
      const direction = sorted.rising ? 1 : -1;
      const value = (place) => sorted.column.value(data.problems[place]);
      rows.sort((a, b) => {
        const [x, y] = [value(a), value(b)];
        if (x === null || y === null) return (x === null) - (y === null) || a - b;
        return (x < y ? -direction : x > y ? direction : 0) || a - b;
      });
    }
    visible = 50;
    said.textContent = `${rows.length} of ${data.problems.length} problems` +
      (data.all_problems > data.problems.length ? `, an even sample of ${data.all_problems}` : "") +
      `; the rollouts of ${Object.keys(data.rollouts).length} are in this page`;
    fill();
  };
  for (const column of columns) {
    const button = element("button", { type: "button" }, column.title);
    const cell = element("th", { scope: "col", class: `${column.text || column.key === "problem" ? "" : "number"}${column.wide ? " wide" : ""}` }, button);
    button.addEventListener("click", () => {
      sorted = { column, rising: sorted.column === column ? !sorted.rising : true };
      for (const other of head.children) other.removeAttribute("aria-sort");
      cell.setAttribute("aria-sort", sorted.rising ? "ascending" : "descending");
      select();
    });
    head.append(cell);
  }
  for (const field of [search, outcome, set, run]) field.addEventListener("input", select);
  more.addEventListener("click", () => { visible += 50; fill(); });
  made.append(filters, said, element("div", { class: "scroll" },
    element("table", { id: "table" }, element("thead", {}, head), body)), more);
  select();
}

document.getElementById("arms").append(...data.arms.map((arm, place) => element("li", { class: color(place) },
  arm.runs.length > 1 ? `${arm.label}: ${arm.runs.join(", ")}` : arm.label)));
overview();
costs();
curves();
predictions();
tables();
problems();
main.append(element("p", { class: "dim" }, `Made by masa_lightning ${data.version}: masa report. This file loads nothing.`));
