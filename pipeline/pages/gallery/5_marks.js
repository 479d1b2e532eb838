// Marks: pairs that somebody picked. The browser keeps them; the file that is saved is what `jobs.curate --marks` reads.

const MOST_MARKS = 50_000; // what browsers keep for a page
const marks = new Map(); // pair -> its id

const markKey = () => `jodiffusion-gallery:${meta.id}`;

async function readMarks() {
  let kept;
  try {
    kept = JSON.parse(localStorage.getItem(markKey()) || "null");
  } catch { /* storage is closed to this page, or holds something else */ }
  if (!Array.isArray(kept?.pairs)) return;
  const same = kept.index === into;
  let gone = 0;
  for (const [pair, id] of kept.pairs) {
    const found = same ? pair : await pairOf(id); // the gallery was made anew since
    if (found >= 0) marks.set(found, id); else gone++;
  }
  if (gone) tell(new Error(`${count(gone)} marked pairs are not in this gallery any more`));
  paintMarks();
}

function keepMarks() {
  paintMarks();
  try {
    localStorage.setItem(markKey(), JSON.stringify({ index: into, pairs: [...marks] }));
  } catch {
    tell(new Error("this browser keeps no marks: save them before you leave the page"));
  }
}

async function toggleMark(pair) {
  if (marks.has(pair)) marks.delete(pair);
  else marks.set(pair, (await row(pair)).pair_id);
  keepMarks();
  say(marks.has(pair) ? "marked" : "mark taken away");
  if (state.marked) update();
}

async function markShown() {
  if (chosen > MOST_MARKS) return tell(new Error(`${count(chosen)} pairs are too many to mark; filter down to ${count(MOST_MARKS)}, or give the same bounds to jobs.curate as rules`));
  const pairs = Array.from({ length: chosen }, (_, place) => pairAt(place));
  for (const pair of pairs) marks.set(pair, (await row(pair)).pair_id);
  keepMarks();
  say(`${count(pairs.length)} pairs marked`);
}

function clearMarks() {
  if (!confirm(`Take away all ${count(marks.size)} marks?`)) return;
  marks.clear();
  keepMarks();
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
  by("marks").hidden = !marks.size && !state.marked;
  by("num-marks").textContent = `${count(marks.size)} marked`;
  for (const element of tiles.values()) paintMark(element);
}
