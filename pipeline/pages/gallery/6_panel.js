// The filters beside the tiles: classes, categories, and histograms of numbers that are dragged over.

const drawn = new Map(); // name of a number -> what redraws its histogram

function buildPanel() {
  const panel = by("filters");
  panel.replaceChildren(
    sources(), classes(), ...meta.categories.map(categories).filter(Boolean),
    ...meta.numbers.map((one) => histogram(one)),
  );
}

const group = (title, open, ...children) => make("details", { open }, make("summary", {}, title), ...children);

function choice(type, name, checked, onchange, ...label) {
  return make("label", { class: "choice" }, make("input", { type, name, ".checked": checked, onchange }), ...label);
}

const tally = (number) => make("span", { class: "tally" }, count(number));
const toggled = (set, one) => { if (!set.delete(one)) set.add(one); };

function sources() {
  if (meta.sources.length < 2) return "";
  const lines = meta.sources.map((source, number) => choice(
    "checkbox", "run", state.sources.has(number),
    () => { toggled(state.sources, number); update(); },
    make("span", { class: "name" }, source.name), tally(source.num),
  ));
  const beside = meta.match && make("label", { class: "line" }, "compare by seed, or picture, with ", make(
    "select", { onchange: (event) => { state.beside = Number(event.target.value); update(); } },
    make("option", { value: -1 }, "no other run"),
    ...meta.sources.map((source, number) => !source.hidden
      && make("option", { value: number, ".selected": number === state.beside }, source.name)),
  ));
  return group("runs", true, make("div", { class: "choices" }, ...lines), beside);
}

function classes() {
  const shown = meta.classes.filter((one) => one.id > 0 && one.id < meta.labels.classes.length);
  if (!shown.length) return "";
  const how = make("div", { class: "line", role: "group", "aria-label": "pairs that hold" }, "that hold ", ...["all", "any", "none"].map((one) => choice(
    "radio", "how", state.how === one, () => { state.how = one; if (state.classes.size) update(); }, one,
  )));
  const lines = shown.map(({ id, pairs }) => make("div", { class: "row" },
    choice("checkbox", "class", state.classes.has(id), () => { toggled(state.classes, id); update(); },
      swatch(id), make("span", { class: "name" }, className(id)), tally(pairs)),
    eye(id)));
  return group("classes", true, how, make("div", { class: "choices" }, ...lines));
}

// Whether a class is drawn over the pictures.
function eye(id) {
  const button = make("button", { type: "button", class: "eye", "data-class": id, onclick: () => showClass(id, state.off.has(id)) });
  paintEye(button, id);
  return button;
}

function paintEye(button, id) {
  button.textContent = state.off.has(id) ? "○" : "●";
  button.setAttribute("aria-pressed", !state.off.has(id));
  button.setAttribute("aria-label", `draw ${className(id)}`);
  button.title = state.off.has(id) ? "draw it over the pictures" : "do not draw it over the pictures";
}

function showClass(id, on) {
  if (on) state.off.delete(id); else state.off.add(id);
  for (const button of document.querySelectorAll(".eye")) paintEye(button, Number(button.dataset.class));
  redrawMasks();
  writeAddress();
}

function categories({ name, values, counts }) {
  if (values.length < 2) return null;
  const labels = told(values);
  const order = values.map((_, place) => place).sort((one, other) => counts[other] - counts[one]);
  const lines = order.map((place) => {
    return choice("checkbox", name, state.values.get(name)?.has(place) || false, () => {
      const places = state.values.get(name) || new Set();
      toggled(places, place);
      if (places.size) state.values.set(name, places); else state.values.delete(name);
      update();
    }, make("span", { class: "name", title: values[place] }, labels[place]), tally(counts[place]));
  });
  return group(name, state.values.has(name), make("div", { class: "choices" }, ...lines));
}

// Settings that are JSON: what differs between them.
function told(values) {
  const flat = (value, key, into) => {
    if (value && typeof value === "object") for (const [name, one] of Object.entries(value)) flat(one, name, into);
    else into[key] = value;
    return into;
  };
  try {
    const all = values.map((value) => flat(JSON.parse(value), "", {}));
    const keys = [...new Set(all.flatMap(Object.keys))].filter((key) => key && new Set(all.map((one) => one[key])).size > 1);
    if (keys.length && keys.length < 5) return all.map((one) => keys.map((key) => `${key} ${one[key]}`).join(", "));
  } catch { /* no JSON */ }
  return values;
}

const words = (name) => name.replaceAll("_", " ");
const WIDTH = 256, HEIGHT = 48;

function histogram(number) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("aria-hidden", "true");
  const bins = number.counts.length, step = (number.high - number.low) / bins;
  const bar = (className) => number.counts.map((_, place) => {
    const rect = document.createElementNS("http://www.w3.org/2000/svg", "rect");
    Object.entries({ class: className, x: (place * WIDTH) / bins + 0.5, width: WIDTH / bins - 1 }).forEach(([key, one]) => rect.setAttribute(key, one));
    svg.append(rect);
    return rect;
  });
  const all = bar("all"), some = bar("some");
  const said = make("output", {});
  const slider = (what, place) => make("input", {
    type: "range", min: 0, max: bins, step: 1, "aria-label": `${words(number.name)}, ${what}`, ".value": place,
    oninput: () => { const [from, to] = held(); show(from, to, null); }, onchange: () => { const [from, to] = held(); choosing(from, to); },
  });
  const least = slider("at least", 0), most = slider("at most", bins);
  const held = () => [Math.min(least.value, most.value), Math.max(least.value, most.value)];
  const edge = (place) => number.low + place * step;
  const between = (from, to) => [from === 0 ? -Infinity : edge(from), to === bins ? Infinity : edge(to)];
  function choosing(from, to) {
    if (from === to) to === bins ? from-- : to++;
    if (from === 0 && to === bins) state.ranges.delete(number.name); else state.ranges.set(number.name, between(from, to));
    update();
  }
  function show(from, to, counts) {
    least.value = from;
    most.value = to;
    const highest = Math.max(...number.counts), tall = (value) => (value ? Math.max(1.5, (value / highest) * HEIGHT) : 0);
    all.forEach((rect, place) => {
      rect.setAttribute("y", HEIGHT - tall(number.counts[place]));
      rect.setAttribute("height", tall(number.counts[place]));
      rect.classList.toggle("out", place < from || place >= to);
      if (!counts) return;
      some[place].setAttribute("y", HEIGHT - tall(counts[place]));
      some[place].setAttribute("height", tall(counts[place]));
    });
    const [low, high] = [Math.max(number.least, between(from, to)[0]), Math.min(number.most, between(from, to)[1])];
    const whole = (value, up) => (number.whole ? (up ? Math.ceil(value) : Math.floor(value)) : value);
    said.textContent = `${short(whole(low, true))} to ${short(whole(high, false))}`;
  }
  drawn.set(number.name, (keep) => {
    const [low, high] = state.ranges.get(number.name) || [-Infinity, Infinity];
    const place = (value) => Math.min(bins, Math.max(0, Math.round((value - number.low) / step)));
    show(place(low), place(high), keep ? spread(number, keep) : null);
  });
  svg.addEventListener("pointerdown", (event) => dragOver(event, svg, bins, show, choosing));
  drawn.get(number.name)(null);
  const sort = make("button", { type: "button", class: "quiet", onclick: () => sortBy(number.name, state.sort === number.name ? !state.descending : number.better >= 0) }, "sort");
  return make("details", { open: number.score || number.name === "confidence_mean" || state.ranges.has(number.name), class: "number" },
    make("summary", {}, words(number.name), " ", said),
    make("div", { class: "plot" }, svg, least, most), make("div", { class: "line" }, number.known < shownAtFirst() && make("span", { class: "soft" }, `known of ${count(number.known)}`), sort));
}

function dragOver(event, svg, bins, show, choosing) {
  event.preventDefault();
  svg.setPointerCapture(event.pointerId);
  const at = (one) => {
    const { left, width } = svg.getBoundingClientRect();
    return Math.min(bins - 1, Math.max(0, Math.floor(((one.clientX - left) / width) * bins)));
  };
  const from = at(event);
  const span = (one) => [Math.min(from, at(one)), Math.max(from, at(one)) + 1];
  const move = (one) => show(...span(one), null);
  move(event);
  svg.addEventListener("pointermove", move);
  svg.addEventListener("pointerup", (one) => { svg.removeEventListener("pointermove", move); choosing(...span(one)); }, { once: true });
}

function sortBy(name, descending) {
  state.sort = name;
  state.descending = descending;
  update();
}

function paintPanel(keep) {
  for (const redraw of drawn.values()) redraw(keep);
  by("sort").value = state.sort;
  by("direction").textContent = state.descending ? "↓" : "↑";
  by("direction").setAttribute("aria-label", state.descending ? "highest first" : "lowest first");
  by("direction").disabled = !state.sort;
  by("only-marked").checked = state.marked;
  by("clear").hidden = !(state.query || state.classes.size || state.ranges.size || state.values.size || state.sources.size || state.marked);
}
