// Questions and answers about the image on the stage, the newest first; each way of answering is a card with
// the crop the model looked at. Texts are set as text, never as HTML.

const list = element.querySelector(".vs-answers");
const make = (tag, className, parent, text) => {
  const made = document.createElement(tag);
  made.className = className;
  if (text) made.textContent = text;
  parent.append(made);
  return made;
};
const detail = (card) => {
  const parts = [];
  if (card.region && card.region.status === "unparsable") parts.push("no box could be read, so it saw it all:");
  if (card.region && card.region.status === "repaired") parts.push("box repaired");
  if (card.region && card.looks.length < 2) parts.push(card.region.text); // each step has its own words
  if (card.seconds !== null) parts.push(`${card.seconds} s`);
  return parts.join("  ·  ");
};
const copy = async (text, button) => {
  try {
    await navigator.clipboard.writeText(text);
  } catch { // without https, or where the browser refuses: the older way
    const area = make("textarea", "vs-file", list, "");
    area.value = text;
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  button.textContent = "Copied";
};
const crops = new Map(); // drawn once: a card is made anew with every word
const cropOf = (key, region) => {
  const [left, top, right, bottom] = region.crop;
  const [width, height] = [right - left, bottom - top];
  const shape = `${key}/${region.crop}`;
  if (!crops.has(shape)) {
    const canvas = document.createElement("canvas");
    Object.assign(canvas, { width, height, className: "vs-crop" });
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", "The part of the image the model looked at");
    canvas.title = "Enlarge";
    canvas.tabIndex = 0;
    const enlarge = () => document.dispatchEvent(new CustomEvent("vs-enlarge", { detail: canvas }));
    canvas.addEventListener("click", enlarge);
    canvas.addEventListener("keydown", (event) => { if (event.key === "Enter") enlarge(); });
    const image = document.querySelector("#stage .vs-image img");
    image.decode().then(() => {
      canvas.getContext("2d").drawImage(image, left, top, width, height, 0, 0, width, height);
    });
    crops.set(shape, canvas);
  }
  return crops.get(shape);
};
const isBusy = (card) => !["done", "failed"].includes(card.state);
const draw = () => {
  list.replaceChildren();
  const turns = [...(props.value || [])].reverse();
  if (!turns.length) crops.clear();
  const open = turns.some((turn) => turn.cards.some(isBusy));
  for (const part of document.querySelectorAll(".vs-stage, .vs-head")) {
    part.classList.toggle("vs-answered", turns.length > 0);
    part.classList.toggle("vs-asking", open);
  }
  for (const turn of turns) {
    const item = make("article", "vs-turn", list);
    make("h3", "vs-question", item, turn.question);
    if (turn.page) make("p", "vs-detail vs-page", item, `Page ${turn.page} of ${turn.pages}`);
    const cards = make("div", "vs-cards", item);
    if (turn.hint) make("p", "vs-hint", item, turn.hint);
    for (const card of turn.cards) {
      const box = make("section", `vs-card vs-way-${card.way} vs-${card.state}`, cards);
      const looks = card.looks && card.looks.length ? card.looks : card.region ? [card.region] : [];
      for (const [at, region] of looks.entries()) {
        const crop = cropOf(`${turn.number}/${card.model}/${card.way}/${at}`, region);
        if (looks.length === 1) { box.append(crop); continue; }
        const step = make("figure", "vs-step", box); // several looks are numbered steps
        step.append(crop);
        make("figcaption", "vs-detail", step, `${at + 1}. ${region.text.slice(0, 120)}`);
      }
      const words = make("div", "vs-words", box);
      make("h4", "vs-title", words, card.title);
      if (card.model) make("p", "vs-model", words, card.model);
      const busy = isBusy(card);
      if (card.text) make("p", "vs-answer", words, card.text);
      if (card.note) make("p", busy ? "vs-busy" : "vs-note", words, card.note);
      if (card.state === "done" && !card.text) make("p", "vs-note", words, "The model said nothing.");
      make("p", "vs-detail", words, detail(card));
      if (card.state === "done" && card.text) {
        const button = make("button", "vs-copy", words, "Copy");
        button.type = "button";
        button.addEventListener("click", () => copy(card.text, button));
      }
      if (!open && card.region && turn.cards.filter((each) => each.region).length > 1) { // the stage has one box
        const button = make("button", "vs-copy", words, "Show its box");
        button.type = "button";
        const shown = { region: card.region, page: turn.page, whose: card.model };
        button.addEventListener("click", () => document.dispatchEvent(new CustomEvent("vs-look", { detail: shown })));
      }
    }
  }
};
watch("value", draw);
draw();
