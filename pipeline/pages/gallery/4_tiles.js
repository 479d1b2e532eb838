// The tiles: as many as are seen, and no more, however many pairs there are.

const GAP = 8, CAPTION = 22, FRAME = 4;
const MOST_HEIGHT = 8e6; // pixels; browsers cannot make an element of more than 17 to 33 million
const tiles = new Map(); // place in the order -> its element
let above = 0; // what is seen begins so many pixels below the first row
let lastScroll = 0;
let focused = 0; // the place that Tab comes to
let topmost = 0; // the place at the upper left, as it was scrolled to: tiles of another size begin there as well

// Tiles of about the size that is asked for, as many as fill the width.
function layout() {
  const width = by("grid").clientWidth - 2 * GAP;
  const per = state.beside >= 0 ? 2 : 1;
  const between = 2 * (per - 1) + 2 * FRAME;
  const columns = Math.max(1, Math.floor((width + GAP) / (state.tile * per + between + GAP)));
  const wide = Math.floor((width + GAP) / columns - GAP);
  const tile = (wide - between) / per;
  const high = tile + 2 * FRAME + (tile >= 96 ? CAPTION : 0);
  const full = Math.ceil(chosen / columns) * (high + GAP) + GAP;
  return { columns, tile, wide, high, full, seen: by("grid").clientHeight };
}

// One pixel of the scroll bar is many of a long list, but a turn of the wheel is not: small moves count as they are.
function onScroll() {
  const { full, seen } = layout();
  const bar = by("grid").scrollTop, most = Math.max(0, full - seen);
  const moved = bar - lastScroll;
  lastScroll = bar;
  if (full <= MOST_HEIGHT) above = bar;
  else if (Math.abs(moved) < 2 * seen) above = Math.min(most, Math.max(0, above + moved));
  else above = (bar / (MOST_HEIGHT - seen)) * most;
  if (moved) topmost = placeAbove();
  render();
  clearTimeout(onScroll.later);
  if (full > MOST_HEIGHT) onScroll.later = setTimeout(() => moveTo(above), 250);
}

function placeAbove() {
  const { columns, high } = layout();
  return Math.max(0, Math.floor(above / (high + GAP))) * columns;
}

// Draws all anew where the size of tiles, or of the window, has changed, from the same place on.
function arrange() {
  for (const one of tiles.values()) one.remove();
  tiles.clear();
  const { columns, high } = layout();
  moveTo(Math.floor(topmost / columns) * (high + GAP));
}

function moveTo(pixels) {
  const { full, seen } = layout();
  const most = Math.max(0, full - seen);
  above = Math.min(most, Math.max(0, pixels));
  by("spacer").style.height = `${Math.min(full, MOST_HEIGHT)}px`;
  lastScroll = full <= MOST_HEIGHT ? above : most && (above / most) * (MOST_HEIGHT - seen);
  by("grid").scrollTop = lastScroll;
  lastScroll = by("grid").scrollTop;
  render();
}

function render() {
  const { columns, tile, wide, high, seen } = layout();
  const row = high + GAP;
  const first = Math.max(0, Math.floor((above - GAP) / row) - 1) * columns;
  const last = Math.min(chosen, Math.ceil((above + seen) / row + 1) * columns);
  const wanted = new Set();
  for (let place = first; place < last; place++) wanted.add(place);
  for (const [place, element] of tiles) {
    if (wanted.has(place) && element.pair === pairAt(place)) continue;
    if (element.contains(document.activeElement)) by("grid").focus({ preventScroll: true });
    element.remove();
    tiles.delete(place);
  }
  const offset = lastScroll - above;
  by("tiles").style.setProperty("--tile", `${tile}px`);
  by("tiles").classList.toggle("bare", tile < 96);
  const made = [];
  for (const place of wanted) {
    let element = tiles.get(place);
    if (!element) {
      element = tileOf(place);
      tiles.set(place, element);
      made.push(element);
    }
    const x = GAP + (place % columns) * (wide + GAP), y = GAP + Math.floor(place / columns) * row + offset;
    element.style.transform = `translate(${x}px, ${y}px)`;
    element.setAttribute("aria-setsize", chosen);
    element.firstChild.tabIndex = place === Math.min(focused, chosen - 1) ? 0 : -1;
  }
  by("tiles").append(...made);
  if (![...tiles.keys()].includes(focused) && tiles.size) tiles.values().next().value.firstChild.tabIndex = 0;
}

function tileOf(place) {
  const pair = pairAt(place);
  const pictures = make("span", { class: "pictures" }, canvases());
  const caption = make("span", { class: "caption" });
  const button = make("button", {
    class: "tile", type: "button", tabindex: -1, "aria-label": `pair ${place + 1}`,
    onclick: () => openLarge(place),
    onfocus: () => { focused = place; },
  }, pictures, make("span", { class: "star", "aria-hidden": "true" }, "★"), caption);
  const element = make("li", { "aria-posinset": place + 1 }, button);
  Object.assign(element, { pair, place });
  fill(element, pictures, caption).catch(tell);
  return element;
}

const canvases = () => make("span", { class: "picture" }, make("canvas", { class: "image" }), make("canvas", { class: "mask" }));

async function fill(element, pictures, caption) {
  const { pair } = element;
  paintMark(element);
  const drawn = small(pair).then((one) => draw(pictures.firstChild, one));
  const beside = state.beside >= 0 && mates().then(async (mate) => {
    const other = canvases();
    pictures.append(other);
    draw(other, await small(mate(pair)));
  });
  const found = await row(pair);
  caption.textContent = caption.title = found.prompt || "";
  const value = found[state.sort];
  if (typeof value === "number") pictures.after(make("span", { class: "value" }, short(value)));
  element.told = `${typeof value === "number" ? `${words(state.sort)} ${short(value)}. ` : ""}${found.prompt || "no prompt"}. ${classesOf(found).map(([id]) => className(id)).join(", ") || "no mask"}`;
  paintMark(element);
  await Promise.all([drawn, beside]);
  element.dataset.drawn = "";
  if (tiles.size && [...tiles.values()].every((one) => "drawn" in one.dataset)) firstView();
}

function firstView() {
  if (firstView.done) return;
  firstView.done = true;
  requestAnimationFrame(() => setTimeout(() => performance.mark("tiles"))); // they are painted now
}

const classesOf = (found) => (found.class_ids || []).map((id, place) => [id, found.class_pixels[place]]).filter(([id]) => id > 0 && id < meta.labels.classes.length);

// An image and its mask into two canvases that lie on each other; a damaged pair says so.
function draw(holder, one) {
  holder.classList.toggle("damaged", !one);
  if (!one) return holder.append("damaged");
  const [image, mask] = holder.children;
  Object.assign(image, { width: one.width, height: one.height });
  image.getContext("2d").drawImage(one.image, one.x, one.y, one.width, one.height, 0, 0, one.width, one.height);
  holder.classList.toggle("crisp", Math.max(one.width, one.height) <= 192);
  holder.shown = one;
  drawMask(mask, one);
}

function drawMask(canvas, one) {
  if (!one.mask) return;
  const [width, height] = one.maskSize;
  Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(width, height);
  const words = new Uint32Array(pixels.data.buffer);
  const table = new Map();
  for (let place = 0; place < words.length; place++) {
    const id = one.mask[place];
    let word = table.get(id);
    if (word === undefined) {
      const [red, green, blue] = colour(id);
      word = id && !state.off.has(id) ? ((255 << 24) | (blue << 16) | (green << 8) | red) >>> 0 : 0;
      table.set(id, word);
    }
    words[place] = word;
  }
  context.putImageData(pixels, 0, 0);
}

function redrawMasks() {
  for (const holder of document.querySelectorAll(".picture")) if (holder.shown) drawMask(holder.children[1], holder.shown);
}

function paintMark(element) {
  const marked = marks.has(element.pair);
  element.classList.toggle("marked", marked);
  if (element.told) element.firstChild.setAttribute("aria-label", `${element.told}${marked ? ". Marked" : ""}`);
}

// Moves the focus to a place of the order, which is brought into view.
function focusTile(place) {
  if (!chosen) return;
  focused = Math.min(chosen - 1, Math.max(0, place));
  const { columns, high, seen } = layout();
  const y = Math.floor(focused / columns) * (high + GAP);
  const before = above;
  if (y < above) moveTo(y);
  else if (y + high + 2 * GAP > above + seen) moveTo(y + high + 2 * GAP - seen);
  else render();
  if (above !== before) topmost = placeAbove();
  tiles.get(focused)?.firstChild.focus({ preventScroll: true });
}
