// Which pairs are shown, in which order.

let order = null; // Uint32Array of pairs; null: all, as they come
let chosen = 0; // how many
const pairAt = (place) => (order ? order[place] : place);

// The pairs of the state, and how the numbers that were read are spread over them.
async function choose() {
  const keep = new Uint8Array(meta.num);
  for (const [number, source] of meta.sources.entries()) {
    const wanted = state.sources.size ? state.sources.has(number) : !source.hidden;
    if (wanted && number !== state.beside) keep.fill(1, starts.source[number], starts.source[number] + source.num);
  }
  if (state.classes.size) await keepClasses(keep);
  for (const [name, [least, most]] of state.ranges) {
    const values = await column(meta.numbers.find((one) => one.name === name).file, "number");
    for (let pair = 0; pair < keep.length; pair++) if (!(values[pair] >= least && values[pair] <= most)) keep[pair] = 0;
  }
  for (const [name, places] of state.values) {
    const { file } = meta.categories.find((one) => one.name === name);
    if (!file) continue; // all pairs have the one value
    const codes = await column(file, "code");
    for (let pair = 0; pair < keep.length; pair++) if (keep[pair] && !places.has(codes[pair])) keep[pair] = 0;
  }
  if (state.query.trim()) await keepWords(keep, state.query);
  if (state.beside >= 0) {
    const mate = await mates();
    for (let pair = 0; pair < keep.length; pair++) if (keep[pair] && mate(pair) < 0) keep[pair] = 0;
  }
  if (state.marked) for (let pair = 0; pair < keep.length; pair++) if (!marks.has(pair)) keep[pair] = 0;
  let num = 0;
  for (let pair = 0; pair < keep.length; pair++) num += keep[pair];
  if (num === meta.num && !state.sort) return { order: null, num, keep };
  let found = new Uint32Array(num);
  for (let pair = 0, place = 0; pair < keep.length; pair++) if (keep[pair]) found[place++] = pair;
  if (state.sort) found = sorted(found, await sortKeys());
  return { order: found, num, keep };
}

async function keepClasses(keep) {
  const bits = [];
  for (const id of state.classes) bits.push(await column(meta.classes.find((one) => one.id === id).file, "bit"));
  const wanted = { all: (has) => has === bits.length, any: (has) => has > 0, none: (has) => !has }[state.how];
  for (let pair = 0; pair < keep.length; pair++) {
    let has = 0;
    for (const one of bits) has += (one[pair >> 3] >> (pair & 7)) & 1;
    if (!wanted(has)) keep[pair] = 0;
  }
}

// Words of a query: `bag` finds words that begin so, `"bag"` the word itself, `-bag` prompts without it.
const SIGNS = "\\u3040-\\u30ff\\u3400-\\u9fff";
const WORD = new RegExp(`[${SIGNS}]|(?:(?![${SIGNS}])[\\p{L}\\p{N}_])+`, "gu");
function termsOf(query) {
  const terms = [];
  for (const [, without, exact, plain] of query.normalize("NFC").toLowerCase().matchAll(/(-?)(?:"([^"]*)"|([^\s"]+))/g)) {
    const words = (exact ?? plain).match(WORD) || [];
    for (const word of words) terms.push({ word, without: !!without, exact: exact !== undefined || /^[a-z0-9]$/.test(word) });
  }
  return terms;
}

const postings = cached(64, async (number) => new Uint32Array((await load(`${into}/words/${number}`)).buffer));
let vocabulary;
async function keepWords(keep, query) {
  vocabulary ??= json(meta.prompts.words);
  const codes = await column(meta.prompts.file, "id");
  const { words, counts, starts: firsts } = await vocabulary;
  const terms = termsOf(query);
  const good = new Uint8Array(meta.prompts.num).fill(terms.length || !/[^\s"-]/.test(query) ? 1 : 0); // signs alone are in no index
  for (const { word, without, exact } of terms) {
    const has = new Uint8Array(good.length);
    for (let number = words.length && lowest(words, word); number < words.length; number++) {
      if (exact ? words[number] !== word : !words[number].startsWith(word)) break;
      const file = within(firsts, number);
      let offset = 0;
      for (let before = firsts[file]; before < number; before++) offset += counts[before];
      const steps = await postings(file);
      for (let place = offset, code = 0; place < offset + counts[number]; place++) has[(code += steps[place])] = 1;
    }
    for (let code = 0; code < good.length; code++) if (has[code] === Number(without)) good[code] = 0;
  }
  for (let pair = 0; pair < keep.length; pair++) if (keep[pair] && !good[codes[pair]]) keep[pair] = 0;
}

// The first place of ascending words that is not below a word; by code points, as Python sorts.
function lowest(words, word) {
  let low = 0, high = words.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (comesBefore(words[middle], word)) low = middle + 1; else high = middle;
  }
  return low;
}
function comesBefore(one, other) {
  const [a, b] = [[...one], [...other]];
  for (let place = 0; place < Math.min(a.length, b.length); place++) {
    if (a[place] !== b[place]) return a[place].codePointAt(0) < b[place].codePointAt(0);
  }
  return a.length < b.length;
}

// Of a pair, the one of the run beside that has its seed, or shows the same picture, or -1.
let mateTable = { beside: -1 };
async function mates() {
  const keys = await column(meta.match, "id");
  if (mateTable.beside !== state.beside) {
    const first = starts.source[state.beside];
    const found = new Map();
    for (let pair = first; pair < first + meta.sources[state.beside].num; pair++) found.set(keys[pair], pair);
    found.delete(0xffffffff);
    mateTable = { beside: state.beside, found };
  }
  const { found } = mateTable;
  return (pair) => found.get(keys[pair]) ?? -1;
}

// Numbers that sort as the state says, each pair's; what is not known comes last.
async function sortKeys() {
  if (state.sort === "prompt") {
    const codes = await column(meta.prompts.file, "id");
    const key = state.descending ? (one) => ~one : (one) => one;
    return codes.map((one) => (meta.prompts.blank && one === 0 ? 0xffffffff : key(one)));
  }
  const values = await column(meta.numbers.find((one) => one.name === state.sort).file, "number");
  const bits = new Uint32Array(values.buffer);
  const keys = new Uint32Array(bits.length);
  for (let pair = 0; pair < keys.length; pair++) {
    const bit = bits[pair] === 0x80000000 ? 0 : bits[pair]; // minus nought
    const ascending = bit >>> 31 ? ~bit : bit | 0x80000000;
    keys[pair] = Number.isNaN(values[pair]) ? 0xffffffff : state.descending ? ~ascending : ascending;
  }
  return keys;
}

// Pairs by their keys, those of equal ones as they come: two passes over 16 bits each.
function sorted(pairs, keys) {
  let from = pairs, to = new Uint32Array(pairs.length);
  for (const shift of [0, 16]) {
    const ends = new Uint32Array(65537);
    for (const pair of from) ends[((keys[pair] >>> shift) & 0xffff) + 1]++;
    for (let digit = 0; digit < 65536; digit++) ends[digit + 1] += ends[digit];
    for (const pair of from) to[ends[(keys[pair] >>> shift) & 0xffff]++] = pair;
    [from, to] = [to, from];
  }
  return from;
}

// How a number that was read is spread over the pairs that are kept, in the bins of its histogram; null where unread.
function spread(number, keep) {
  const values = columns.get(number.file);
  if (!values) return null;
  const counts = new Array(number.counts.length).fill(0);
  const scale = counts.length / (number.high - number.low);
  for (let pair = 0; pair < keep.length; pair++) {
    const value = values[pair];
    if (keep[pair] && value === value) {
      counts[Math.min(counts.length - 1, Math.max(0, Math.floor((value - number.low) * scale)))]++;
    }
  }
  return counts;
}
