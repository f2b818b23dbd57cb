"use strict";
const {items, images, prompts} = JSON.parse(document.getElementById("data").textContent);
const form = document.getElementById("filters"), cards = document.getElementById("cards");
const NS = "http://www.w3.org/2000/svg";
let page = 0, shown = [];

const scoreOf = i => i.score === undefined ? (i.state || "no verdict") : i.score >= 0.5 ? "0.5 and more" : "under 0.5";
const boxOf = i => i.boxStatus === "unparsable" ? ["unparsable"] :
  [i.boxStatus, i.iou === undefined ? undefined : i.iou > 0.5 ? "IoU over 0.5" : "IoU up to 0.5"];
const several = new Set(items.map(i => i.run)).size > 1;
const wayOf = i => several ? `${i.run}: ${i.strategy}` : i.strategy;
const DISAGREE = "judges disagree";

/* The answers to one question, over all strategies and runs, and what holds between them. */
const questions = new Map();
for (const item of items) {
  const key = JSON.stringify([item.dataset, item.id]);
  if (!questions.has(key)) questions.set(key, {answers: [], holds: []});
  item.about = questions.get(key);
  item.about.answers.push(item);
}
for (const {answers, holds} of questions.values()) {
  const scored = answers.filter(i => i.score !== undefined);
  for (const right of scored) for (const wrong of scored) {
    if (right.score >= 0.5 && wrong.score < 0.5) holds.push(`${wayOf(right)} right, ${wayOf(wrong)} wrong`);
  }
  const apart = i => i.judges && new Set(Object.values(i.judges).map(score => score >= 0.5)).size > 1;
  if (answers.some(apart)) holds.push(DISAGREE);
}

const facets = {
  run: i => [i.run], dataset: i => [i.dataset], strategy: i => [i.strategy], compare: i => i.about.holds,
  score: i => [scoreOf(i)], status: i => [i.status], box: boxOf,
};
const apart = i => {
  const scores = i.about.answers.map(each => each.score).filter(score => score !== undefined);
  return scores.length ? Math.min(...scores) - Math.max(...scores) : undefined;
};
/* What is smallest comes first; what has no such figure comes last. */
const orders = {
  worst: i => i.score, best: i => i.score === undefined ? undefined : -i.score, apart, iou: i => i.iou,
  small: i => i.share, slow: i => i.seconds === undefined ? undefined : -i.seconds,
};

function fillSelects() {
  for (const [name, of] of Object.entries(facets)) {
    const counts = new Map(), add = value => value === undefined || counts.set(value, (counts.get(value) || 0) + 1);
    if (name === "compare") for (const each of questions.values()) each.holds.forEach(add);
    else for (const item of items) of(item).forEach(add);
    const select = form.elements[name];
    select.append(new Option(name === "compare" ? "all" : `all (${items.length})`, ""));
    for (const [value, count] of [...counts].sort()) select.append(new Option(`${value} (${count})`, value));
  }
}

function readHash() {
  const wanted = new URLSearchParams(location.hash.slice(1));
  for (const element of form.elements) if (element.name) {
    const fallback = element.name === "per" ? "24" : "";
    element.value = wanted.get(element.name) ?? fallback;
    if (element.selectedIndex === -1) element.value = fallback;
  }
  page = Math.max(0, (parseInt(wanted.get("page"), 10) || 1) - 1);
}

function writeHash() {
  const wanted = new URLSearchParams();
  for (const element of form.elements) if (element.name && element.value) wanted.set(element.name, element.value);
  if (page) wanted.set("page", page + 1);
  history.replaceState(null, "", "#" + wanted);
}

function filter() {
  const checks = Object.entries(facets).filter(([name]) => form.elements[name].value)
    .map(([name, of]) => [of, form.elements[name].value]);
  const words = form.elements.words.value.trim().toLowerCase();
  shown = items.filter(item => checks.every(([of, value]) => of(item).includes(value)) &&
    (!words || [item.question, item.answer, item.reference, item.reply, item.id, item.image]
      .some(text => text && text.toLowerCase().includes(words))));
  const order = orders[form.elements.sort.value];
  if (order) shown.sort((a, b) => (order(a) ?? Infinity) - (order(b) ?? Infinity) || 0);
}

function draw() {
  const rows = form.elements.view.value === "rows";
  const all = rows ? [...new Set(shown.map(item => item.about))] : shown;
  const per = Number(form.elements.per.value), pages = Math.max(1, Math.ceil(all.length / per));
  page = Math.min(page, pages - 1);
  cards.replaceChildren(...all.slice(page * per, (page + 1) * per).map(rows ? row : card));
  const what = rows ? "questions" : "items";
  document.getElementById("where").value = `${all.length} ${what}, page ${page + 1} of ${pages}`;
  document.getElementById("back").disabled = page === 0;
  document.getElementById("next").disabled = page >= pages - 1;
}

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  Object.assign(element, attributes);
  element.append(...children);
  return element;
}

function rect(kind, [x0, y0, x1, y1]) {
  const element = document.createElementNS(NS, "rect");
  const values = {x: x0, y: y0, width: Math.max(0, x1 - x0), height: Math.max(0, y1 - y0), class: kind};
  for (const [name, value] of Object.entries(values)) element.setAttribute(name, value);
  return element;
}

function looks(item) {
  const source = typeof item.source === "number" ? images[item.source] : item.source;
  const row = make("div", {className: "looks"});
  if (!source) { row.append(make("div", {className: "missing"}, `No image: ${item.image || "none named"}`)); return row; }
  const lost = () => row.replaceChildren(make("div", {className: "missing"}, `Image not found: ${item.image}`));
  const image = make("div", {className: "image"}, make("img", {src: source, alt: item.image, onerror: lost}));
  const [width, height] = item.size;
  image.style.maxWidth = `${Math.round(400 * width / height)}px`;
  const layer = document.createElementNS(NS, "svg");
  layer.setAttribute("viewBox", `0 0 ${width} ${height}`);
  layer.setAttribute("preserveAspectRatio", "none");
  if (item.crop) layer.append(rect("box-crop", item.crop));
  if (item.truth) layer.append(rect("box-true", item.truth));
  if (item.box) layer.append(rect("box-mine", item.box));
  image.append(layer);
  row.append(image);
  if (item.crop) {
    const [left, top, right, bottom] = item.crop, across = right - left, down = bottom - top;
    const look = make("img", {src: source, alt: "crop"});
    look.style.cssText = `width:${100 * width / across}%;left:${-100 * left / across}%;top:${-100 * top / down}%`;
    const crop = make("div", {className: "crop"}, look);
    crop.style.aspectRatio = `${across} / ${down}`;
    row.append(crop);
  }
  return row;
}

function steps(item) {
  if (!item.steps || !item.steps.length) return [looks(item)];
  return item.steps.flatMap((step, at) => [
    make("p", {className: "step"}, `${at + 1}. ${step.said.length > 300 ? step.said.slice(0, 300) + "..." : step.said}`),
    looks({...item, box: step.box, crop: step.crop})]);
}

function badge(item) {
  const mark = item.score === undefined ? (item.state || "no verdict") : item.score.toFixed(2);
  const tone = item.score === undefined ? "" : item.score >= 0.5 ? " good" : " bad";
  return make("span", {className: "badge" + tone}, item.status === "failed" ? "failed" : mark);
}

function factsOf(item, asked) {
  const facts = make("dl");
  const fact = (name, value) => { if (value !== undefined) facts.append(make("dt", {}, name), make("dd", {}, String(value))); };
  if (asked) fact("Question", item.question);
  fact("Answer", item.answer);
  if (asked) fact("Reference", item.reference);
  fact("Judge", item.reply);
  if (item.judges) fact("Judges", Object.entries(item.judges).map(([name, score]) => `${name} ${score.toFixed(2)}`).join(", "));
  fact("Reason", item.reason);
  fact("Error", item.error);
  if (item.refused) fact("Refused", `${item.refused} of its calls`);
  if (item.iou !== undefined) fact("Box", `IoU ${item.iou.toFixed(3)}${item.boxStatus ? ", " + item.boxStatus : ""}`);
  if (item.seconds !== undefined) fact("Time", `${item.seconds} s`);
  if (!item.prompts) return [facts];
  const said = make("details", {}, make("summary", {}, item.prompts.length > 1 ? "Prompts" : "Prompt"));
  const parts = {"\u0001": item.question, "\u0002": item.boxText};
  for (const number of item.prompts)
    said.append(make("pre", {}, prompts[number].replace(/[\u0001\u0002]/g, mark => parts[mark])));
  return [facts, said];
}

function card(item) {
  return make("article", {},
    make("header", {}, make("span", {}, `${item.dataset} ${item.id}, ${wayOf(item)}`), badge(item)),
    ...steps(item), ...factsOf(item, true));
}

/* One question: what each strategy of each run made of it, side by side. */
function row({answers}) {
  const first = answers[0];
  const way = item => make("section", {className: "way"},
    make("header", {}, make("span", {}, wayOf(item)), badge(item)), ...steps(item), ...factsOf(item, false));
  return make("article", {className: "row"},
    make("header", {}, make("span", {}, `${first.dataset} ${first.id}`),
      make("span", {}, first.reference === undefined ? "" : `Reference: ${first.reference}`)),
    make("p", {className: "question"}, first.question), make("div", {className: "ways"}, ...answers.map(way)));
}

/* What is filtered, one line an answer; boxes are left, top, right, bottom in pixels of the image. */
const COLUMNS = {
  run: "run", strategy: "strategy", dataset: "dataset", id: "id", image: "image", question: "question",
  reference: "reference", answer: "answer", status: "status", state: "verdict", score: "score", reply: "judge_reply",
  boxStatus: "box_status", iou: "iou", share: "true_box_share", box: "box", truth: "true_box", crop: "crop", seconds: "seconds",
};
function csv() {
  const cell = value => {
    let text = value === undefined ? "" : Array.isArray(value) ? value.join(" ") : String(value);
    // A spreadsheet runs a text that begins so as a formula, whoever wrote it; a quote before it keeps it a text.
    if (typeof value === "string" && /^[=+\-@\t\r]/.test(text) && isNaN(text)) text = `'${text}`;
    return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  const lines = shown.map(item => Object.keys(COLUMNS).map(name => cell(item[name])).join(","));
  return [Object.values(COLUMNS).join(","), ...lines].join("\n") + "\n";
}
function save() {
  const link = make("a", {href: URL.createObjectURL(new Blob([csv()], {type: "text/csv"})), download: "items.csv"});
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

const again = () => { filter(); draw(); };
const turn = by => { page += by; draw(); writeHash(); scrollTo({top: cards.offsetTop - document.getElementById("bar").offsetHeight}); };
form.addEventListener("input", () => { page = 0; again(); writeHash(); });
form.addEventListener("submit", event => event.preventDefault());
document.getElementById("back").addEventListener("click", () => turn(-1));
document.getElementById("next").addEventListener("click", () => turn(1));
document.getElementById("filter").addEventListener("click", () => scrollTo({top: form.offsetTop}));
document.getElementById("csv").addEventListener("click", save);
addEventListener("hashchange", () => { readHash(); again(); });
fillSelects(); readHash(); again();
