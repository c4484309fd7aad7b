// How far people agree, how each of them works, and where they differ.

import { get } from "./api.js";
import { bars, intervals } from "./chart.js";
import { $, bdi, count, figure, fixed, h, meta, percent, seconds, table } from "./dom.js";
import { failed } from "./forms.js";

const view = $("#view");
const id = meta("project");

async function start() {
  const [project, quality, worst] = await Promise.all([
    get(`/projects/${id}`),
    get(`/projects/${id}/quality`),
    get(`/projects/${id}/items?order=disagreement&limit=10`),
  ]);
  const { statistics } = quality;
  if (!statistics) {
    view.replaceChildren(h("div", { className: "empty" }, h("h2", {}, "Nothing judged yet"), h("p", {}, "Numbers come with the first answers.")));
    return;
  }
  const people = joined(quality);
  view.replaceChildren(
    h(
      "div",
      { className: "stack wide" },
      h("dl", { className: "figures" }, figures(statistics, project)),
      statistics.simulated ? h("p", { className: "notice warn" }, `${count(statistics.simulated, "ranking")} of ${statistics.rankings.toLocaleString("en")} ${statistics.simulated === 1 ? "comes" : "come"} from simulated annotators.`) : null,
      warnings(people),
      agreement(quality),
      annotators(people, quality.converged),
      disagreement(worst.entries.filter(({ disagreement: share }) => share > 0)),
      unsettled(quality.disputed ?? [], project),
      positions(statistics.position),
    ),
  );
}

/** What is known of a person, from both parts of the answer. */
function joined({ statistics, annotators = [] }) {
  const more = new Map(annotators.map((each) => [each.annotator, each]));
  return statistics.annotators.map((each) => ({ reliability: null, accuracy: null, gold: null, warnings: [], ...each, ...more.get(each.annotator) }));
}

function figures(statistics, { progress }) {
  const { seconds: time } = statistics;
  const pairs = statistics.pairs + statistics.ties;
  return [
    figure("Items done", `${progress.done.toLocaleString("en")} of ${(progress.done + progress.open).toLocaleString("en")}`, `${statistics.prompts_with_overlap.toLocaleString("en")} with several opinions`),
    figure("Rankings", statistics.rankings.toLocaleString("en"), statistics.superseded ? `${statistics.superseded.toLocaleString("en")} earlier versions` : ""),
    figure("Ties", percent(pairs ? statistics.ties / pairs : null), `of ${count(pairs, "pair")}`),
    figure("None acceptable", percent(statistics.rankings ? statistics.none_acceptable / statistics.rankings : null), `${statistics.none_acceptable.toLocaleString("en")} times`),
    figure("Time for an item", seconds(time?.median), time ? `${seconds(time.p10)} to ${seconds(time.p90)} for most` : "not measured"),
  ];
}

function warnings(people) {
  const found = people.flatMap(({ annotator, warnings: own }) => own.map(({ message }) => h("li", {}, h("strong", {}, bdi(annotator)), `: ${message}`)));
  if (!found.length) return null;
  return h("section", { className: "section" }, h("h2", {}, "Worth a look"), h("ul", { className: "notice warn warnings" }, found));
}

function agreement({ statistics, by_criterion: criteria = {} }) {
  const measures = [
    ["Krippendorff’s alpha", statistics.alpha],
    ["Pairs judged alike", statistics.agreement],
    ["Pairs judged alike, without ties", statistics.agreement_strict],
    ["Kendall’s W", statistics.kendall_w],
  ];
  const rows = measures.map(([name, estimate]) => ({ name, ...estimate }));
  const measured = statistics.alpha.value !== null;
  const alphas = Object.entries(criteria).map(([name, { alpha }]) => ({ name, ...alpha }));
  return h(
    "section",
    { className: "section" },
    h("h2", {}, "Agreement"),
    !measured
      ? h("p", { className: "muted" }, "Agreement can be measured once several people have judged the same items.")
      : h("p", { className: "muted" }, "Alpha and W are 1 when people agree fully; alpha is 0 when they agree no more than by chance. Lines are 95 % intervals."),
    measured ? chartBox(intervals(rows, { label: "Agreement with intervals" })) : null,
    measured && alphas.length > 1 ? [h("h3", {}, "Alpha by criterion"), chartBox(intervals(alphas, { label: "Krippendorff’s alpha by criterion" }))] : null,
  );
}

function annotators(people, converged) {
  const measured = people.filter(({ reliability }) => reliability?.value !== null && reliability !== null);
  const estimate = (value) => (value?.value === null || !value ? "–" : `${fixed(value.value)}${value.ci95 ? ` [${fixed(value.ci95[0])}, ${fixed(value.ci95[1])}]` : ""}`);
  const columns = [
    { title: "Annotator", row: true, of: (each) => [bdi(each.annotator), each.simulated ? h("span", { className: "tag warn" }, "simulated") : null] },
    { title: "Rankings", className: "num", of: ({ rankings }) => rankings.toLocaleString("en") },
    { title: "Agree with others", className: "num", of: ({ agreement: share }) => percent(share) },
    { title: "Gold right", className: "num", of: ({ gold }) => (gold?.n ? `${percent(gold.value)} of ${gold.n}` : "–") },
    { title: "Reliability", className: "num", of: ({ reliability }) => estimate(reliability) },
    { title: "Accuracy", className: "num", of: ({ accuracy }) => percent(accuracy) },
    { title: "Ties", className: "num", of: ({ tie_share: share }) => percent(share) },
    { title: "None", className: "num", of: ({ none_acceptable: none }) => none },
    { title: "First is best", className: "num", of: ({ position }) => (position.first_share === null ? "–" : `${percent(position.first_share)} (fair: ${percent(position.expected)})`) },
    { title: "Median time", className: "num", of: ({ median_seconds: time }) => seconds(time) },
  ];
  return h(
    "section",
    { className: "section" },
    h("h2", {}, "Annotators"),
    h("p", { className: "muted" }, "Reliability is how consistently somebody agrees with the consensus of all: 0 is guessing, 1 never differs, below 0 contradicts it. Accuracy is the share of pairs somebody is expected to judge right, by Dawid and Skene."),
    converged === false ? h("p", { className: "notice warn" }, "The fit behind reliability has not settled; read it with care.") : null,
    table(columns, people, { label: "Annotators" }),
    measured.length > 1 ? chartBox(intervals(measured.map(({ annotator, reliability }) => ({ name: annotator, ...reliability })), { label: "Reliability of annotators with intervals" })) : null,
  );
}

function disagreement(entries) {
  const columns = [
    { title: "Prompt", row: true, className: "grow", of: (item) => h("a", { className: "clip", dir: "auto", href: `/projects/${id}/review#task=${item.task_id}` }, item.prompt_start || "(empty)") },
    { title: "Pairs judged differently", className: "num", of: ({ disagreement: share }) => percent(share) },
    { title: "Opinions", className: "num", of: ({ opinions }) => opinions },
    { title: "", of: ({ adjudicated }) => (adjudicated ? h("span", { className: "tag good" }, "Decided") : null) },
  ];
  return h(
    "section",
    { className: "section" },
    h("h2", {}, "Where people differ most"),
    entries.length ? table(columns, entries, { label: "Items with most disagreement" }) : h("p", { className: "muted" }, "Nowhere so far."),
  );
}

/** Where the order that the annotators together give is least certain: not the same as where they differ. */
function unsettled(entries, project) {
  if (!entries.length) return null;
  const titles = new Map(project.criteria.map(({ name, title }) => [name, title]));
  const columns = [
    { title: "Prompt", row: true, className: "grow", of: (item) => (item.task_id ? h("a", { className: "clip", dir: "auto", href: `/projects/${id}/review#task=${item.task_id}` }, item.prompt_start || "(empty)") : h("span", { className: "clip", dir: "auto" }, item.prompt_start || "(empty)")) },
    ...(project.criteria.length > 1 ? [{ title: "Criterion", of: ({ criterion }) => bdi(titles.get(criterion) ?? criterion) }] : []),
    { title: "Still open", className: "num", of: ({ uncertainty }) => percent(uncertainty) },
    { title: "Opinions", className: "num", of: ({ rankings }) => rankings },
  ];
  return h(
    "section",
    { className: "section" },
    h("h2", {}, "Least settled"),
    h("p", { className: "muted" }, "How open the order of the answers still is by the model of all annotators, each weighed by reliability: 100 % is a toss-up, 0 % is settled. Another opinion is worth most at the top."),
    table(columns, entries.slice(0, 10), { label: "Least settled items" }),
  );
}

function positions(position) {
  const places = Object.entries(position.best_at).sort(([a], [b]) => a - b);
  if (!places.length) return null;
  const telling = position.p_value !== null && position.p_value < 0.01;
  return h(
    "section",
    { className: "section" },
    h("h2", {}, "Position"),
    h("p", { className: "muted" }, `The answer that was shown first was best ${percent(position.first_share)} of the time; a fair order gives ${percent(position.expected)}${position.p_value === null ? "" : ` (p = ${fixed(position.p_value, 3)})`}.`),
    telling ? h("p", { className: "notice warn" }, "That is more than chance: people may be judging by position.") : null,
    chartBox(bars(places.map(([place, value]) => ({ name: `Shown in place ${place}`, value, note: `best ${count(value, "time")}` })), { label: "Where the best answer stood" })),
  );
}

function chartBox(chart) {
  return h("div", { className: "chart-box", tabindex: "0", role: "region", "aria-label": chart.getAttribute("aria-label") }, chart);
}

start().catch(failed(view));
