// The stage: an image or a PDF dropped, pasted, chosen or taken from the examples, with the box and the crop window
// over it, and a box that the visitor draws. Files go to the server inside an event and stay in its memory only.
// `element`, `props`, `trigger` and `watch` are Gradio's.

const make = (tag, className, parent, text) => {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text) made.textContent = text;
  if (parent) parent.append(made);
  return made;
};

const root = element.querySelector(".vs-stage");
const input = make("input", "vs-file", root);
input.type = "file";
input.accept = "image/jpeg,image/png,image/webp,image/gif,image/bmp,image/tiff,application/pdf";
input.setAttribute("aria-label", "Choose an image or a PDF");

const drop = make("button", "vs-drop", root);
drop.type = "button";
make("span", "vs-drop-mark", drop, "+");
make("strong", "", drop, "Drop an image or a PDF here");
make("span", "vs-quiet", drop, "or tap to choose one, or paste it");

const frame = make("div", "vs-frame", root);
const holder = make("div", "vs-image", frame);
const image = make("img", "", holder);
image.alt = "The image you ask about";
image.draggable = false;
const layers = {};
for (const name of ["window", "box", "own"]) layers[name] = make("div", `vs-layer vs-${name}`, holder);
make("span", "vs-tag", layers.box, "looks here");
make("span", "vs-tag", layers.window, "crop");
make("span", "vs-tag", layers.own, "your box");

const bar = make("div", "vs-bar", root);
const leaf = make("span", "vs-leaf", bar); // the pages of a PDF, or of a TIFF of several
leaf.setAttribute("role", "group");
leaf.setAttribute("aria-label", "Page");
const back = make("button", "vs-button", leaf, "‹");
back.setAttribute("aria-label", "Page before");
const number = make("input", "vs-number", leaf);
Object.assign(number, { type: "number", min: 1, inputMode: "numeric" });
number.setAttribute("aria-label", "Page");
const of = make("span", "vs-quiet", leaf);
const next = make("button", "vs-button", leaf, "›");
next.setAttribute("aria-label", "Page after");
const other = make("button", "vs-button", bar, "Other image");
const draw = make("button", "vs-button", bar, "Draw my own box");
const remove = make("button", "vs-button", bar, "Remove my box");
const enlarge = make("button", "vs-button", bar, "Enlarge");
const keep = make("button", "vs-button", bar, "Save image");
for (const button of [back, next, other, draw, remove, enlarge, keep]) button.type = "button";

// A window for what is too small on the page: first as large as the screen, after a click in its own pixels.
const large = make("dialog", "vs-large", root);
large.setAttribute("aria-label", "Enlarged; a click shows its own pixels, Escape closes");
const close = make("button", "vs-button vs-close", large, "Close");
close.type = "button";
close.addEventListener("click", () => large.close());
const open = (canvas) => {
  large.querySelector("canvas")?.remove();
  const copy = make("canvas", "vs-fit", large);
  Object.assign(copy, { width: canvas.width, height: canvas.height });
  copy.getContext("2d").drawImage(canvas, 0, 0);
  copy.addEventListener("click", () => copy.classList.toggle("vs-fit"));
  large.showModal();
};
document.addEventListener("vs-enlarge", (event) => open(event.detail)); // a crop, from the answers

const message = make("p", "vs-message", root);
message.setAttribute("role", "status");

const strip = make("div", "vs-examples", root);
make("span", "vs-quiet", strip, "Examples");
(props.examples || []).forEach((example, index) => {
  const button = make("button", "vs-example", strip);
  button.type = "button";
  button.title = example.question;
  const thumb = make("img", "", button);
  thumb.src = example.thumb;
  thumb.alt = `Example: ${example.question}`;
  button.addEventListener("click", () => {
    if (asking() || arriving()) return;
    say("Opening the example …");
    trigger("click", { example: index, number: begin() });
  });
});

// The image in its own pixels, with the box, the crop window and the visitor's box as they are shown.
const drawn = () => {
  const canvas = document.createElement("canvas");
  const [width, height] = [image.naturalWidth, image.naturalHeight];
  Object.assign(canvas, { width, height });
  const pen = canvas.getContext("2d");
  pen.drawImage(image, 0, 0);
  const thick = Math.max(3, Math.round(Math.max(width, height) / 300));
  const shown = { window: ["#2563eb", [3 * thick, 2 * thick]], box: ["#dc2626", []], own: ["#f59e0b", []] };
  for (const [name, [color, dashes]] of Object.entries(shown)) {
    if (!layers[name].classList.contains("vs-shown")) continue;
    const [x, y, w, h] = ["left", "top", "width", "height"].map((side) => parseFloat(layers[name].style[side]) / 100);
    Object.assign(pen, { strokeStyle: color, lineWidth: thick });
    pen.setLineDash(dashes);
    pen.strokeRect(x * width, y * height, w * width, h * height);
  }
  return canvas;
};
enlarge.addEventListener("click", () => open(drawn()));
keep.addEventListener("click", () => drawn().toBlob((blob) => {
  const link = document.createElement("a");
  Object.assign(link, { href: URL.createObjectURL(blob), download: "viscot.png" });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}));

let own = null;      // [x0, y0, x1, y1], shares of the image
let from = null;     // where a drag began
let drawing = false; // the button's mode; with a mouse, dragging always draws
let [page, pages] = [null, null];

const say = (text, wrong = false) => {
  message.textContent = text || "";
  message.classList.toggle("vs-wrong", wrong);
};
const place = (layer, shares) => {
  layer.classList.toggle("vs-shown", Boolean(shares));
  if (!shares) return;
  const [x0, y0, x1, y1] = shares.map((share) => 100 * share);
  layer.classList.toggle("vs-small", x1 - x0 < 15); // a tag would cover it
  layer.classList.toggle("vs-far", x0 > 70); // a tag to the right would be cut at the border
  Object.assign(layer.style, { left: `${x0}%`, top: `${y0}%`, width: `${x1 - x0}%`, height: `${y1 - y0}%` });
};
const refresh = () => {
  root.classList.toggle("vs-filled", Boolean(image.getAttribute("src")));
  root.classList.toggle("vs-drawing", drawing);
  draw.setAttribute("aria-pressed", String(drawing));
  remove.hidden = !own;
  leaf.hidden = !pages || pages < 2;
  [number.value, number.max, of.textContent] = [page || 1, pages || 1, `of ${pages}`];
  [back.disabled, next.disabled] = [page <= 1, page >= pages];
  place(layers.own, own);
};
const forget = () => {
  place(layers.box, null);
  place(layers.window, null);
};
const NOT_HERE = "The image is not here yet: wait for it, or choose it again.";
const setOwn = (box) => {
  if (coming()) { refresh(); return say(NOT_HERE); } // it would be a box of the image before
  own = box;
  drawing = false;
  refresh();
  trigger("select", { box });
  say(box ? "Your next question is about your box." : "");
};
const show = (source) => {
  image.src = source;
  own = null;
  drawing = false;
  forget();
  refresh();
};

// While a question is answered, its crops are drawn from the image on the stage: that one stays until then. And
// a question waits for its image: it would be about the one before, which the server still has.
let wanted = 0; // number of the newest file or page that was sent for
let there = 0;  // number of the one that the server has, as it says itself
let since = 0;  // when the newest one was sent for
let sent = 0;   // when a question was, whose first words have not come
const PATIENCE = 30000; // ms; then another image may be chosen, as this one may have failed on the way
const coming = () => there !== wanted;
const begin = () => { since = Date.now(); return ++wanted; };
// Gradio drops a second file while the first one is on its way: one at a time.
const arriving = () => {
  const busy = coming() && Date.now() - since < PATIENCE;
  if (busy) say("The image before is still on its way: wait for it, then choose again.");
  return busy;
};
const asks = ({ type, key, target }) =>
  type === "click" ? target.closest?.("#ask") : key === "Enter" && target.closest?.("#question");
for (const type of ["click", "keydown"]) {
  document.addEventListener(type, (event) => {
    if (!asks(event)) return;
    if (!coming()) { sent = Date.now(); return; }
    event.preventDefault();
    event.stopImmediatePropagation();
    say(`${NOT_HERE} Then ask.`);
  }, true);
}
const asking = () => {
  const busy = root.classList.contains("vs-asking") || Date.now() - sent < 2000;
  if (busy) say("Wait for the answer, then choose another image.");
  return busy;
};
const isPdf = (file) => file.type === "application/pdf";
const take = (file) => {
  if (!file || asking() || arriving()) return;
  if (!file.type.startsWith("image/") && !isPdf(file)) {
    return say(`${file.name} is not an image; choose a JPEG, PNG, WebP, TIFF or PDF.`, true);
  }
  if (file.size > props.max_bytes) {
    return say(`The file is larger than ${Math.round(props.max_bytes / 1e6)} MB; choose a smaller one.`, true);
  }
  const reader = new FileReader();
  const number = begin();
  say(isPdf(file) ? "Reading the PDF …" : "Reading the image …");
  reader.onload = () => {
    if (!isPdf(file)) { [page, pages] = [null, null]; show(reader.result); } // a page comes back as an image
    trigger("upload", { image: reader.result, number });
  };
  reader.onerror = () => { wanted -= 1; say("The file could not be read; choose it again.", true); };
  reader.readAsDataURL(file);
};

drop.addEventListener("click", () => input.click());
other.addEventListener("click", () => input.click());
input.addEventListener("change", () => { take(input.files[0]); input.value = ""; });
root.addEventListener("dragover", (event) => { event.preventDefault(); root.classList.add("vs-over"); });
root.addEventListener("dragleave", () => root.classList.remove("vs-over"));
root.addEventListener("drop", (event) => {
  event.preventDefault();
  root.classList.remove("vs-over");
  take(event.dataTransfer.files[0]);
});
document.addEventListener("paste", (event) => {
  const file = [...event.clipboardData.files].find((each) => each.type.startsWith("image/") || isPdf(each));
  if (file) take(file);
});

const turnTo = (chosen) => {
  if (chosen === page || asking() || arriving()) return refresh();
  say(`Reading page ${chosen} …`);
  trigger("input", { page: chosen, number: begin() });
};
back.addEventListener("click", () => turnTo(page - 1));
next.addEventListener("click", () => turnTo(page + 1));
number.addEventListener("change", () => turnTo(Math.min(Math.max(Math.round(Number(number.value)) || 1, 1), pages)));

draw.addEventListener("click", () => {
  drawing = !drawing;
  say(drawing ? "Drag over the part that matters." : "");
  refresh();
});
remove.addEventListener("click", () => setOwn(null));

const at = (event) => {
  const area = holder.getBoundingClientRect();
  const inside = (value) => Math.min(Math.max(value, 0), 1);
  return [inside((event.clientX - area.left) / area.width), inside((event.clientY - area.top) / area.height)];
};
const between = (a, b) => [Math.min(a[0], b[0]), Math.min(a[1], b[1]), Math.max(a[0], b[0]), Math.max(a[1], b[1])];
holder.addEventListener("pointerdown", (event) => {
  if (!drawing && event.pointerType !== "mouse") return;
  from = at(event);
  holder.setPointerCapture(event.pointerId);
  event.preventDefault();
});
holder.addEventListener("pointermove", (event) => { if (from) place(layers.own, between(from, at(event))); });
holder.addEventListener("pointerup", (event) => {
  if (!from) return;
  const box = between(from, at(event));
  from = null;
  const meant = box[2] - box[0] > 0.02 && box[3] - box[1] > 0.02;
  if (meant) setOwn(box);
  else refresh();
});
holder.addEventListener("pointercancel", () => { from = null; refresh(); });

const look = (region) => {
  const [width, height] = region.size;
  const shares = ([x0, y0, x1, y1]) => [x0 / width, y0 / height, x1 / width, y1 / height];
  place(layers.box, own || region.status === "unparsable" ? null : shares(region.box));
  place(layers.window, shares(region.crop));
};

document.addEventListener("vs-look", ({ detail }) => { // "Show its box", from the answers
  if (detail.page && detail.page !== page) return say(`That box is on page ${detail.page}; choose it first.`);
  look(detail.region);
  say(`The box of ${detail.whose}.`);
});

const update = () => {
  const value = props.value || {};
  sent = 0;
  if (value.number) there = value.number;
  if (coming() && value.number) { // it came too late: the server has this one, the page shows another
    since = 0;
    return say("Another image came late, in place of yours: choose yours again.");
  }
  if (value.image || value.page) [page, pages] = value.page ? [value.page, value.pages || pages] : [null, null];
  if (value.image && value.image !== image.getAttribute("src")) show(value.image);
  if (value.failed) { image.removeAttribute("src"); own = null; [page, pages] = [null, null]; forget(); }
  refresh();
  if (value.forget) forget();
  if (value.region && (value.about || null) === page) (image.complete ? Promise.resolve() : image.decode()).then(() => look(value.region));
  say(value.message, Boolean(value.failed));
};
watch("value", update);
refresh();
