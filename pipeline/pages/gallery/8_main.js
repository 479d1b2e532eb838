// Beginning, keys, and what stands above the tiles.

let asked = 0; // updates so far: only the last one counts

async function update() {
  const mine = ++asked;
  writeAddress();
  document.body.setAttribute("aria-busy", "true");
  by("trouble").hidden = true;
  try {
    const found = await choose();
    if (mine !== asked) return;
    [order, chosen] = [found.order, found.num];
    for (const element of tiles.values()) element.remove();
    tiles.clear();
    focused = topmost = 0;
    moveTo(0);
    const all = shownAtFirst();
    by("status").textContent = chosen === all ? `${count(all)} pairs` : `${count(chosen)} of ${count(all)} pairs`;
    by("empty").hidden = chosen > 0;
    paintPanel(found.keep);
    paintMarks();
  } catch (error) {
    tell(error);
  } finally {
    if (mine === asked) document.body.removeAttribute("aria-busy");
  }
}

const shownAtFirst = () => meta.sources.reduce((sum, one) => sum + (one.hidden ? 0 : one.num), 0);

// Says something that went wrong, until the next thing.
function tell(error) {
  by("trouble").textContent = error.message;
  by("trouble").hidden = false;
}
const say = (words) => { by("said").textContent = words; };

// Of an address that was kept for, or sent from, another gallery.
function sayUnknown() {
  if (state.unknown.length) tell(new Error(`the address asks for what this gallery does not have: ${state.unknown.join(", ")}`));
}

function setMask(strength) {
  state.mask = strength;
  document.documentElement.style.setProperty("--mask", strength);
  for (const one of document.querySelectorAll("input.strength")) one.value = Math.round(100 * strength);
  writeAddress();
}

function fromState() {
  by("query").value = state.query;
  by("size").value = state.tile;
  setMask(state.mask);
  buildPanel();
}

function clearFilters() {
  Object.assign(state, { query: "", marked: false });
  for (const one of [state.classes, state.ranges, state.values, state.sources]) one.clear();
  fromState();
  update();
}

function showFilters(on = !document.body.classList.contains("filtering")) {
  document.body.classList.toggle("filtering", on);
  by("toggle").setAttribute("aria-expanded", on);
  arrange();
}

const KEYS = {
  m: () => { const pair = by("large").open ? opened : document.activeElement?.closest("#tiles li")?.pair; if (pair >= 0) toggleMark(pair).then(paintLargeMark); },
  o: () => setMask(state.mask ? 0 : setMask.before || DEFAULTS.mask),
  f: () => showFilters(),
  "/": () => by("query").focus(),
  "?": () => by("help").showModal(),
};

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const typing = event.target.matches("select, textarea, input:not([type=checkbox]):not([type=radio])");
  if (by("help").open) return;
  const is_open = by("large").open;
  if (is_open && !typing && ["ArrowLeft", "ArrowRight"].includes(event.key)) {
    event.preventDefault();
    turn(event.key === "ArrowLeft" ? -1 : 1);
  } else if (!typing && Object.hasOwn(KEYS, event.key) && !(is_open && "/f".includes(event.key))) {
    event.preventDefault();
    if (event.key === "o" && state.mask) setMask.before = state.mask;
    KEYS[event.key]();
  } else if (!is_open && event.target.closest("#grid")) {
    const { columns, high, seen } = layout();
    const page = Math.max(1, Math.floor(seen / (high + GAP))) * columns;
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns, PageUp: -page, PageDown: page, Home: -chosen, End: chosen };
    if (!(event.key in steps)) return;
    event.preventDefault();
    focusTile(focused + steps[event.key]);
  }
}

function listen() {
  const on = (id, event, what) => by(id).addEventListener(event, what);
  on("grid", "scroll", onScroll);
  on("query", "input", () => { clearTimeout(listen.later); listen.later = setTimeout(() => { state.query = by("query").value; update(); }, 200); });
  on("sort", "change", () => {
    const number = meta.numbers.find((one) => one.name === by("sort").value);
    sortBy(by("sort").value, number ? number.better > 0 : false);
  });
  on("direction", "click", () => sortBy(state.sort, !state.descending));
  on("size", "input", () => { state.tile = Number(by("size").value); writeAddress(); arrange(); });
  for (const one of document.querySelectorAll("input.strength")) one.addEventListener("input", () => setMask(one.value / 100));
  on("toggle", "click", () => showFilters());
  on("clear", "click", clearFilters);
  on("only-marked", "change", () => { state.marked = by("only-marked").checked; update(); });
  on("mark-shown", "click", () => markShown().catch(tell));
  on("save-marks", "click", saveMarks);
  on("clear-marks", "click", clearMarks);
  on("before", "click", () => turn(-1));
  on("after", "click", () => turn(1));
  on("mark", "click", () => toggleMark(opened).then(paintLargeMark));
  on("large", "close", closed);
  for (const one of document.querySelectorAll("[data-closes]")) one.addEventListener("click", () => one.closest("dialog").close());
  on("ask", "click", () => by("help").showModal());
  document.addEventListener("keydown", onKey);
  addEventListener("resize", arrange);
  addEventListener("storage", marksChanged);
  addEventListener("hashchange", () => { readAddress(); fromState(); update().then(openAsked).then(sayUnknown); });
  addEventListener("unhandledrejection", (event) => tell(event.reason));
}

async function openAsked() {
  if (!state.open) return by("large").close();
  const pair = await pairOf(state.open);
  if (pair < 0) return tell(new Error(`this gallery has no pair ${state.open}`));
  if (pair === opened) return;
  const where = order ? order.indexOf(pair) : pair;
  if (where >= 0) focusTile(where);
  await openLarge(where, pair);
}

(async () => {
  if (typeof DecompressionStream === "undefined") return tell(new Error("this browser is too old: it needs DecompressionStream (2023)"));
  try {
    await begin();
    by("sort").append(...sortable().map((name) => make("option", { value: name }, words(name))));
    readAddress();
    fromState();
    listen();
    showFilters(innerWidth > 800);
    await Promise.all([update(), inTurn(readMarks).catch(tell)]);
    if (state.marked) await update();
    await openAsked();
    sayUnknown();
  } catch (error) {
    tell(error);
  }
})();
