// What the page reads: files of bytes (pipeline/pages/gallery_files.py), loaded as scripts so that this also works from
// disk, and the columns, rows and pictures in them.

const into = document.documentElement.dataset.into;
const files = new Map(); // key -> { promise, resolve, reject } of what is being loaded

window.gallery = {
  put(key, text) {
    const file = expected(key);
    bytesOf(text).then(file.resolve, file.reject);
  },
};

function expected(key) {
  if (!files.has(key)) files.set(key, Promise.withResolvers ? Promise.withResolvers() : withResolvers());
  return files.get(key);
}

function withResolvers() {
  const made = {};
  made.promise = new Promise((resolve, reject) => Object.assign(made, { resolve, reject }));
  return made;
}

async function bytesOf(text) {
  const packed = atob(text);
  const bytes = new Uint8Array(packed.length);
  for (let place = 0; place < packed.length; place++) bytes[place] = packed.charCodeAt(place);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

// The content of `<key>.js`, Uint8Array.
async function load(key) {
  const file = expected(key);
  const script = document.createElement("script");
  script.src = `${key}.js`;
  script.onerror = () => file.reject(new Error(`${key}.js cannot be read: reload the page; the gallery may have been made anew`));
  document.head.append(script);
  try {
    return await file.promise;
  } finally {
    files.delete(key);
    script.remove();
  }
}

// What `make(key)` promises, kept for the `limit` keys that were asked for last.
function cached(limit, make) {
  const kept = new Map();
  return (key) => {
    let found = kept.get(key);
    if (found) kept.delete(key);
    else {
      found = make(key);
      found.catch(() => kept.delete(key));
    }
    kept.set(key, found);
    if (kept.size > limit) kept.delete(kept.keys().next().value);
    return found;
  };
}

const text = (bytes) => new TextDecoder().decode(bytes);
const json = async (key) => JSON.parse(text(await load(`${into}/${key}`)));

// A header, and where the bytes behind it begin.
function unpacked(bytes) {
  const length = new DataView(bytes.buffer).getUint32(0, true);
  return [JSON.parse(text(bytes.subarray(4, 4 + length))), 4 + length];
}

// Columns: a value for each pair, kept for as long as the page is open.
const KINDS = { number: Float32Array, code: Uint16Array, id: Uint32Array, bit: Uint8Array };
const columns = new Map(); // file -> the values
async function column(file, kind) {
  if (!columns.has(file)) columns.set(file, new KINDS[kind]((await load(`${into}/${file}`)).buffer));
  return columns.get(file);
}

let meta;
const starts = { part: [], source: [] }; // the first pair of each

async function begin() {
  meta = await json("meta");
  let first = 0;
  for (const [, num] of meta.parts) { starts.part.push(first); first += num; }
  first = 0;
  for (const source of meta.sources) { starts.source.push(first); first += source.num; }
}

// The last of ascending `firsts` that is not above a number.
function within(firsts, number) {
  let low = 0, high = firsts.length;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (firsts[middle] <= number) low = middle; else high = middle;
  }
  return low;
}
const sourceOf = (pair) => within(starts.source, pair);

const block = cached(400, (number) => json(`rows/${number}`));
// All columns of a pair, but for those that are null everywhere.
async function row(pair) {
  const found = await block(Math.floor(pair / meta.block));
  const place = pair % meta.block;
  const columns = Object.entries(found).map(([name, values]) => [name, values[place]]);
  return { ...Object.fromEntries(columns), ...meta.constants };
}

// Of a pair: the sheet that it is in, and its place there.
function seat(pair) {
  const part = within(starts.part, pair);
  const place = pair - starts.part[part];
  return { folder: `pictures/${meta.parts[part][0]}`, place };
}

const picture = (address) => new Promise((resolve, reject) => {
  const image = new Image();
  image.onload = () => resolve(image);
  image.onerror = () => reject(new Error(`${address} cannot be read`));
  image.src = address;
});
const sheet = cached(48, async (key) => {
  const [image, bytes] = await Promise.all([picture(`${key}.webp`), load(key)]);
  const [header, from] = unpacked(bytes);
  let offset = from;
  const masks = header.sizes.map(([width, height, masked]) => {
    if (!masked) return null;
    const size = (width * height * header.bits) / 8;
    offset += size;
    return ids(bytes.slice(offset - size, offset), header.bits);
  });
  return { image, masks, cell: header.cell, sizes: header.sizes };
});
const ids = (bytes, bits) => (bits === 8 ? bytes : new Uint16Array(bytes.buffer));

// A pair as small as it is on the page: a part of an image and its mask's class ids; null where it is damaged.
async function small(pair) {
  const { folder, place } = seat(pair);
  const found = await sheet(`${folder}/${Math.floor(place / meta.sheet)}`);
  const number = place % meta.sheet;
  const [width, height, , isLarge] = found.sizes[number];
  if (!width) return null;
  const x = (number % meta.columns) * found.cell, y = Math.floor(number / meta.columns) * found.cell;
  return { image: found.image, x, y, width, height, mask: found.masks[number], maskSize: [width, height], isLarge: !!isLarge };
}

const larges = cached(12, async (key) => {
  const bytes = await load(key);
  const [header, from] = unpacked(bytes);
  let offset = from;
  const found = new Map();
  for (const [place, one] of Object.entries(header.pairs)) {
    const image = new Blob([bytes.subarray(offset, offset + one.bytes)], { type: one.type });
    offset += one.bytes;
    const size = (one.width * one.height * header.bits) / 8;
    const mask = size ? ids(bytes.slice(offset, offset + size), header.bits) : null;
    offset += size;
    found.set(Number(place), { image, mask, maskSize: [one.width, one.height] });
  }
  return found;
});
// A pair as it is in its shard, as of `small`, or null where the gallery does not keep it.
async function large(pair) {
  if (!(await small(pair))?.isLarge) return null;
  const { folder, place } = seat(pair);
  const found = (await larges(`${folder}/large-${Math.floor(place / meta.per_large)}`)).get(place);
  const address = URL.createObjectURL(found.image);
  try {
    const image = await picture(address);
    return { image, x: 0, y: 0, width: image.naturalWidth, height: image.naturalHeight, mask: found.mask, maskSize: found.maskSize };
  } finally {
    URL.revokeObjectURL(address);
  }
}

// The number of the pair of an id, or -1.
async function pairOf(id) {
  const hashes = await column(meta.ids, "id");
  let hash = 2166136261;
  for (const byte of new TextEncoder().encode(id)) hash = Math.imul(hash ^ byte, 16777619);
  hash >>>= 0;
  for (let pair = hashes.indexOf(hash); pair >= 0; pair = hashes.indexOf(hash, pair + 1)) {
    if ((await row(pair)).pair_id === id) return pair;
  }
  return -1;
}
