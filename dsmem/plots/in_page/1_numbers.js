// Pictures that are drawn in the page: numbers come from a table that Python made, and stay whole (BigInt) to the end.

// --- Numbers and words, as dsmem.units writes them --------------------------------------------------------------------

const UNITS = [["TiB", 40], ["GiB", 30], ["MiB", 20], ["KiB", 10]];
const big = (text) => (text === "" ? 0n : text[0] === "-" ? -BigInt("0x" + text.slice(1)) : BigInt("0x" + text));
const thousands = (n) => String(n).replace(/\B(?=(\d{3})+(?!\d))/g, ",");

// A whole number of hundredths of `size`, half to even, as Python rounds.
function hundredths(n, size) {
  const [whole, rest] = [(n * 100n) / size, (n * 100n) % size];
  return whole + (2n * rest > size || (2n * rest === size && whole % 2n === 1n) ? 1n : 0n);
}

function formatBytes(n) {
  if (n < 0n) return "-" + formatBytes(-n);
  const unit = UNITS.find(([, power]) => n >= 1n << BigInt(power));
  if (!unit) return `${n} B`;
  const parts = hundredths(n, 1n << BigInt(unit[1]));
  return `${thousands(parts / 100n)}.${String(parts % 100n).padStart(2, "0")} ${unit[0]}`;
}

// toFixed, but a tie goes to the even digit.
function fixed(x, digits) {
  const exact = x.toFixed(80);
  const cut = exact.length - 80 + digits;
  const [kept, rest] = [exact.slice(0, cut), exact.slice(cut)];
  return /^50*$/.test(rest) && /[02468]\.?$/.test(kept) ? kept.replace(/\.$/, "") : x.toFixed(digits);
}

const percent = (ratio, digits) => fixed(ratio * 100, digits) + "%";

// "{name}" a word, "{name:n}" with commas, "{name:b}" bytes in words.
const WRITE = { n: thousands, b: formatBytes };
const fill = (text, words) =>
  text.replace(/\{(\w+)(?::(\w))?\}/g, (_, name, how) => (how ? WRITE[how](words[name]) : words[name]));

const escape = (text) =>
  String(text).replace(/[&<>"']/g, (c) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;" })[c]);

// --- The table --------------------------------------------------------------------------------------------------------

// What every state of the knobs says; `at` is {name of a knob: place of its value}.
function machine(data) {
  const knobs = Object.fromEntries(data.knobs.map((knob) => [knob.name, knob]));
  const texts = data.functions.split(";");
  const parsed = [];
  const batches = knobs.batch.numbers.map(BigInt);
  const lengths = knobs.seq_len.numbers.map(BigInt);

  function read(place) {
    return (parsed[place] ??= { form: texts[place][0], terms: texts[place].slice(1).split(",").map(big) });
  }

  function value(place, at) {
    const { form, terms } = read(place);
    const term = (k) => terms[k] ?? 0n;
    if (form === "#") return term(at.seq_len * batches.length + at.batch);
    const b = batches[at.batch];
    if (form === "/") return term(2 * at.seq_len) + b * term(2 * at.seq_len + 1);
    if (terms.length === 1) return terms[0];
    const s = lengths[at.seq_len];
    return term(0) + b * term(1) + s * (term(2) + b * term(3) + s * (term(4) + b * term(5)));
  }

  const placeOf = (at) => data.order.reduce((n, name) => n * knobs[name].texts.length + at[name], 0);
  const stateOf = (at) => data.index[placeOf(at)];

  // {error} or {rows: [{name, parts, total}], peak: the place of the largest}, in the order of the pass
  function rows(at) {
    const state = stateOf(at);
    if (state < 0) return { error: data.errors[-1 - state] };
    const [common, instants, , lacking = [], errors] = data.states[state];
    const out = lacking.indexOf(at.seq_len);
    if (out >= 0) return { error: data.errors[errors[out]] };
    const shared = common.map((place) => (place < 0 ? 0n : value(place, at)));
    const found = instants.map((number) => {
      const [name, ...pairs] = data.instants[number];
      const parts = shared.slice();
      for (let k = 0; k < pairs.length; k += 2) parts[pairs[k]] = value(pairs[k + 1], at);
      return { name: data.names[name], parts, total: parts.reduce((a, n) => a + n, 0n) };
    });
    let peak = 0;
    found.forEach((row, k) => { if (row.total > found[peak].total) peak = k; });
    return { rows: found, peak };
  }

  // The terms of every instant's total; at a length of its own, a function has terms of its own.
  function sums(at) {
    const [common, instants] = data.states[stateOf(at)];
    const shared = common.filter((place) => place >= 0);
    const term = ({ form, terms }, k) =>
      (form !== "/" ? terms[k] : k < 2 ? terms[2 * at.seq_len + k] : 0n) ?? 0n;
    return instants.map((number) => {
      const places = [...shared, ...data.instants[number].slice(1).filter((_, k) => k % 2)].map(read);
      return [0, 1, 2, 3, 4, 5].map((k) => places.reduce((sum, place) => sum + term(place, k), 0n));
    });
  }

  // The largest batch of the slider's range that leaves no instant above `room`; null where none does, or
  // where it is not known.
  function mostSequences(at, room) {
    if (data.states[stateOf(at)][2] < 1) return null;
    const [s, last] = [lengths[at.seq_len], batches.at(-1)];
    const most = sums(at).map((t) => {
      const [rest, each] = [0, 1].map((k) => t[k] + s * (t[k + 2] + s * t[k + 4]));
      return rest > room ? 0n : each > 0n ? (room - rest) / each : last;
    });
    const n = most.reduce((a, each) => (each < a ? each : a), last);
    return n > 0n ? { n, last } : null;
  }

  // The same for the length; it is looked for by halves, since no total falls as the length grows.
  function mostTokens(at, room) {
    const [, , known, lacking = []] = data.states[stateOf(at)];
    if (known < 2) return null;
    const [found, b] = [sums(at), batches[at.batch]];
    const fits = (s) => found.every((t) => t[0] + b * t[1] + s * (t[2] + b * t[3] + s * (t[4] + b * t[5])) <= room);
    const last = lengths.filter((_, k) => !lacking.includes(k)).at(-1);
    let [low, high] = [0n, last + 1n];
    while (high - low > 1n) {
      const middle = (low + high) / 2n;
      if (fits(middle)) low = middle;
      else high = middle;
    }
    return low > 0n ? { n: low, last } : null;
  }

  const words = (at) => ({
    ...Object.fromEntries(data.knobs.map(({ name, texts }) => [name, texts[at[name]]])),
    ...data.words[data.said[placeOf(at)]],
  });
  return { data, knobs, rows, words, mostSequences, mostTokens, batches, lengths };
}
