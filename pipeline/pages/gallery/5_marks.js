// Marks: pairs that somebody picked. The browser keeps them; the file that is saved is what `jobs.curate --marks` reads.

const MOST_MARKS = 50_000; // what browsers keep for a page
const marks = new Map(); // pair -> its id
let strangers = []; // ids that are kept although this gallery has no such pair: another one of its name may
let lastKept = null; // what the browser kept when marks were last read or written
let queue = Promise.resolve(); // one reads or writes them at a time

const markKey = () => `jodiffusion-gallery:${meta.id}`;

function kept() {
  try {
    return localStorage.getItem(markKey());
  } catch { // storage is closed to this page
    return lastKept;
  }
}

function parsed(text) {
  let found;
  try {
    found = JSON.parse(text);
  } catch { /* it holds something else */ }
  return Array.isArray(found?.pairs) ? found : { pairs: [] };
}

// Makes marks what the browser keeps, which other tabs change too. Where that cannot be read, they stay as they are.
async function readMarks() {
  for (let text = kept(); text !== lastKept; text = kept()) {
    const { index, pairs } = parsed(text);
    const known = new Map([...marks].map(([pair, id]) => [id, pair]));
    const found = [], others = [];
    for (const [number, id] of pairs) {
      const pair = index === into ? number : known.get(id) ?? await pairOf(id); // the gallery was made anew since
      if (pair >= 0) found.push([pair, id]); else others.push(id);
    }
    marks.clear();
    for (const [pair, id] of found) marks.set(pair, id);
    if (others.length && index !== into) tell(new Error(`${count(others.length)} marked pairs are not in this gallery; the browser keeps them`));
    [strangers, lastKept] = [others, text];
  }
  paintMarks();
}

function inTurn(act) {
  const done = queue.then(act);
  queue = done.catch(() => {});
  return done;
}

// Changes what is kept now, and writes it: whatever other tabs, or an earlier gallery, have marked stays.
const changeMarks = (change) => inTurn(async () => {
  await readMarks();
  change();
  const text = JSON.stringify({ index: into, pairs: [...marks, ...strangers.map((id) => [-1, id])] });
  try {
    localStorage.setItem(markKey(), text);
    lastKept = text;
  } catch {
    tell(new Error("this browser keeps no marks: save them before you leave the page"));
  }
  paintMarks();
});

async function toggleMark(pair) {
  const on = !marks.has(pair);
  const id = (await row(pair)).pair_id;
  await changeMarks(() => { if (on) marks.set(pair, id); else marks.delete(pair); });
  say(on ? "marked" : "mark taken away");
  if (state.marked) update();
}

async function markShown() {
  if (chosen > MOST_MARKS) return tell(new Error(`${count(chosen)} pairs are too many to mark; filter down to ${count(MOST_MARKS)}, or give the same bounds to jobs.curate as rules`));
  const pairs = Array.from({ length: chosen }, (_, place) => pairAt(place));
  const ids = [];
  for (const pair of pairs) ids.push((await row(pair)).pair_id);
  await changeMarks(() => pairs.forEach((pair, place) => marks.set(pair, ids[place])));
  say(`${count(pairs.length)} pairs marked`);
}

async function clearMarks() {
  if (!confirm(`Take away all ${count(marks.size + strangers.length)} marks?`)) return;
  const pairs = [...marks.keys()];
  await changeMarks(() => { for (const pair of pairs) marks.delete(pair); strangers = []; });
  if (state.marked) update();
}

// Another tab has changed them.
async function marksChanged({ key }) {
  if (key !== null && key !== markKey()) return;
  await inTurn(readMarks);
  if (by("large").open) paintLargeMark();
  if (state.marked) update();
}

// What jobs.curate reads: the ids by run.
function marksFile() {
  const runs = meta.sources.map(({ name, given }) => ({ name, pairs: given, ids: [] }));
  for (const [pair, id] of [...marks].sort(([one], [other]) => one - other)) runs[sourceOf(pair)].ids.push(id);
  return { format: 1, gallery: meta.title, runs: runs.filter((one) => one.ids.length) };
}

function saveMarks() {
  const blob = new Blob([JSON.stringify(marksFile(), null, 1)], { type: "application/json" });
  const address = URL.createObjectURL(blob);
  make("a", { href: address, download: "marks.json" }).click();
  setTimeout(() => URL.revokeObjectURL(address), 1000);
}

function paintMarks() {
  by("marks").hidden = !marks.size && !strangers.length && !state.marked;
  by("num-marks").textContent = `${count(marks.size)} marked${strangers.length ? `, ${count(strangers.length)} not in this gallery` : ""}`;
  for (const element of tiles.values()) paintMark(element);
}
