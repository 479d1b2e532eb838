// One pair, large: picture and mask, what is known of it, what it is like, and the command that makes it again.

let place = -1; // in the order; -1: none is open, or one that the filters leave out
let opened = -1; // the pair

async function openLarge(where, pair = pairAt(where)) {
  [place, opened] = [where, pair];
  const dialog = by("large");
  if (!dialog.open) dialog.showModal();
  const found = await row(pair);
  if (opened !== pair) return; // another one was asked for meanwhile
  state.open = found.pair_id;
  writeAddress();
  const views = make("div", { class: "views" });
  by("pair").replaceChildren(views, await facts(pair, found));
  by("before").disabled = place <= 0;
  by("after").disabled = place < 0 || place >= chosen - 1;
  paintLargeMark();
  const others = await beside(pair, found);
  if (opened !== pair) return;
  views.append(await view(pair, found, meta.sources.length > 1 ? meta.sources[sourceOf(pair)].name : ""));
  for (const [other, title] of others) if (opened === pair) views.append(await view(other, await row(other), title, true));
}

// Pairs to compare with: the one of its seed, or picture, in another run, and the real one that it is most like.
async function beside(pair, found) {
  const others = [];
  if (meta.match && state.beside >= 0) {
    const mate = (await mates())(pair);
    if (mate >= 0) others.push([mate, `${meta.sources[state.beside].name}, the same ${(found.seed ?? null) === null ? "picture" : "seed"}`]);
  }
  if (found._nearest !== null && found._nearest !== undefined) {
    const ratio = found.nearest_ratio === undefined || found.nearest_ratio === null ? "" : `, ratio ${short(found.nearest_ratio)}`;
    others.push([found._nearest, `the real pair that it is most like${ratio}`]);
  }
  return others;
}

async function view(pair, found, title, opens = false) {
  const holder = canvases();
  const [little, whole] = [await small(pair), await large(pair)];
  draw(holder, whole || little);
  holder.style.setProperty("--aspect", found.width / found.height);
  const lossy = little && !whole && Math.max(found.width, found.height) > Math.max(little.width, little.height);
  return make("figure", {}, holder, make("figcaption", {}, title,
    opens && make("span", { class: "soft" }, ` ${found.prompt || ""}`),
    opens && make("button", { type: "button", class: "quiet", onclick: () => openLarge(-1, pair) }, "open it"),
    lossy && make("span", { class: "soft" }, ` Shown at ${little.width} × ${little.height} of ${found.width} × ${found.height} pixels: this gallery keeps ${count(meta.num_large)} of its pairs large.`)));
}

async function facts(pair, found) {
  const source = meta.sources[sourceOf(pair)];
  const total = (found.class_pixels || []).reduce((sum, one) => sum + one, 0);
  const chips = (found.class_ids || []).map((id, number) => [id, found.class_pixels[number]]).filter(([id]) => id !== 0).map(([id, pixels]) => make("div", { class: "row" },
    make("span", { class: "choice" }, swatch(id), make("span", { class: "name" }, className(id)), make("span", { class: "tally" }, `${short((100 * pixels) / total)} %`)), eye(id)));
  const columns = Object.entries(found).filter(([name, value]) => !name.startsWith("_") && value !== null && value !== undefined);
  const shown = (value) => (typeof value === "number" ? String(value) : typeof value === "string" ? value : JSON.stringify(value));
  return make("div", { class: "facts" },
    make("h2", { id: "prompt", tabindex: -1 }, found.prompt || "no prompt"),
    make("div", { class: "choices" }, ...(chips.length ? chips : [make("span", { class: "soft" }, total ? "background only" : "no mask")])),
    found.sampler && found.origin === "synthetic" ? again(source, found.pair_id) : null,
    make("details", { open: innerWidth > 800 }, make("summary", {}, "all columns"),
      make("table", {}, make("tbody", {}, ...[["run", source.name], ...columns].map(([name, value]) => make("tr", {}, make("th", { scope: "row" }, name), make("td", {}, shown(value))))))));
}

const quoted = (word) => (/^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", `'"'"'`)}'`);
const command = (source, id) => `python -m jobs.regenerate --pairs ${quoted(source.given)} --pair-id ${quoted(id)} --bundle ${quoted(source.bundle || "BUNDLE")}`;

function again(source, id) {
  const code = make("code", { tabindex: 0 }, command(source, id));
  const copy = make("button", { type: "button", class: "quiet", onclick: async () => {
    try {
      await navigator.clipboard.writeText(code.textContent);
      say("copied");
    } catch { // not allowed from disk in every browser: marked, so that it can be copied by hand
      getSelection().selectAllChildren(code);
    }
  } }, "copy");
  return make("div", { class: "again" }, make("span", { class: "soft" }, "makes it again "), copy, code);
}

function paintLargeMark() {
  by("mark").setAttribute("aria-pressed", marks.has(opened));
  by("mark").textContent = marks.has(opened) ? "★ marked" : "☆ mark";
}

const turn = (by) => place >= 0 && place + by >= 0 && place + by < chosen && openLarge(place + by);

function closed() {
  state.open = "";
  opened = -1;
  writeAddress();
  if (place >= 0) focusTile(place);
}
