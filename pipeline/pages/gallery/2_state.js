// What is shown, which the address says too: a view can be kept and sent on.

const DEFAULTS = { mask: 0.5, tile: 144 };
const state = {
  query: "", sort: "", descending: false,
  classes: new Set(), how: "all", // "all", "any" or "none" of them
  ranges: new Map(), // name of a number -> [least, most]
  values: new Map(), // name of a category -> Set of places in its values
  sources: new Set(), // numbers; none: all that are not hidden
  beside: -1, marked: false, off: new Set(), open: "", ...DEFAULTS,
  unknown: [], // what the address asks for in vain
};

function readAddress() {
  const given = new URLSearchParams(location.hash.slice(1));
  const list = (name) => (given.get(name) || "").split(",").filter((one) => /^\d+$/.test(one)).map(Number);
  const known = new Set(meta.classes.map((one) => one.id));
  state.query = given.get("q") || "";
  const sort = given.get("sort") || "";
  state.descending = sort.startsWith("-");
  state.sort = sortable().includes(sort.replace(/^-/, "")) ? sort.replace(/^-/, "") : "";
  const unknown = state.sort || !sort ? [] : [`sort=${sort}`];
  state.how = ["any", "none"].find((one) => one === given.get("how")) || "all";
  state.classes = new Set(list("class").filter((one) => known.has(one)));
  unknown.push(...list("class").filter((one) => !known.has(one)).map((one) => `class=${one}`));
  state.off = new Set(list("off"));
  state.ranges.clear();
  state.values.clear();
  const columns = new Set([...meta.numbers.map((one) => `n.${one.name}`), ...meta.categories.map((one) => `c.${one.name}`)]);
  unknown.push(...new Set([...given.keys()].filter((name) => /^[nc]\./.test(name) && !columns.has(name))));
  for (const { name } of meta.numbers) {
    const [least, most] = (given.get(`n.${name}`) || "").split("~").map((one) => (one === "" ? NaN : Number(one)));
    if (least <= most) state.ranges.set(name, [least, most]);
  }
  for (const { name, values } of meta.categories) {
    const places = given.getAll(`c.${name}`).map((one) => values.indexOf(one)).filter((one) => one >= 0);
    if (places.length < given.getAll(`c.${name}`).length) unknown.push(`c.${name}`);
    if (places.length) state.values.set(name, new Set(places));
  }
  const named = (name) => meta.sources.findIndex((one) => one.name === name);
  state.sources = new Set(given.getAll("run").map(named).filter((one) => one >= 0));
  state.beside = meta.match ? named(given.get("beside")) : -1;
  unknown.push(...given.getAll("run").filter((one) => named(one) < 0).map((one) => `run=${one}`));
  if (given.get("beside") && state.beside < 0) unknown.push(`beside=${given.get("beside")}`);
  state.unknown = unknown;
  state.marked = given.get("marked") === "1";
  state.mask = within01(given.get("mask"), DEFAULTS.mask);
  state.tile = Math.min(320, Math.max(48, Number(given.get("tile")) || DEFAULTS.tile));
  state.open = given.get("open") || "";
}
const within01 = (given, other) => (given !== null && given >= 0 && given <= 1 ? Number(given) : other);
const sortable = () => ["prompt", ...meta.numbers.map((one) => one.name)];

function writeAddress() {
  const said = new URLSearchParams();
  const say = (name, value) => value && said.append(name, value);
  say("q", state.query);
  say("sort", state.sort && (state.descending ? "-" : "") + state.sort);
  say("class", [...state.classes].join(","));
  say("how", state.classes.size && state.how !== "all" ? state.how : "");
  for (const [name, [least, most]] of state.ranges) say(`n.${name}`, `${least}~${most}`);
  for (const [name, places] of state.values) {
    const { values } = meta.categories.find((one) => one.name === name);
    for (const place of places) say(`c.${name}`, values[place]);
  }
  for (const number of state.sources) say("run", meta.sources[number].name);
  say("beside", state.beside >= 0 ? meta.sources[state.beside].name : "");
  say("marked", state.marked ? "1" : "");
  say("off", [...state.off].join(","));
  for (const name of ["mask", "tile"]) if (state[name] !== DEFAULTS[name]) said.append(name, state[name]);
  say("open", state.open);
  const hash = said.toString();
  if (hash !== location.hash.slice(1)) history.replaceState(null, "", hash ? `#${hash}` : location.pathname + location.search);
}

const count = (number) => number.toLocaleString("en");
function short(number) {
  if (Number.isInteger(number)) return count(number);
  return Math.abs(number) >= 1000 ? count(Math.round(number)) : String(Number(number.toPrecision(3)));
}
const colour = (id) => meta.labels.palette[id] || [255, 255, 255];
const className = (id) => meta.labels.classes[id] ?? (id === meta.labels.ignore_index ? "unknown" : `class ${id}`);

// An element with attributes, properties (".name"), listeners ("onclick") and children; text stays text.
function make(tag, given = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(given)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name.startsWith(".")) element[name.slice(1)] = value;
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.filter((one) => one !== null && one !== undefined && one !== false));
  return element;
}
const swatch = (id) => {
  const made = make("i", { class: "swatch", "aria-hidden": "true" });
  made.style.background = `rgb(${colour(id).join(",")})`;
  return made;
};
const by = (id) => document.getElementById(id);
