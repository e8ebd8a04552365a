// Pictures that are drawn in the page: numbers come from a table that Python made, and stay whole (BigInt) to the end.

// --- Numbers and words, as dsmem.units writes them --------------------------------------------------------------------

const UNITS = [["TiB", 40], ["GiB", 30], ["MiB", 20], ["KiB", 10]];
const big = (text) => (text === "" ? 0n : text[0] === "-" ? -BigInt("0x" + text.slice(1)) : BigInt("0x" + text));
const thousands = (n) => String(n).replace(/\B(?=(\d{3})+(?!\d))/g, ",");

// The whole number that is nearest to n / size, half to even, as Python rounds.
function nearest(n, size) {
  const [whole, rest] = [n / size, n % size];
  return whole + (2n * rest > size || (2n * rest === size && whole % 2n === 1n) ? 1n : 0n);
}

function formatBytes(n) {
  if (n < 0n) return "-" + formatBytes(-n);
  const unit = UNITS.find(([, power]) => n >= 1n << BigInt(power));
  if (!unit) return `${n} B`;
  const parts = nearest(100n * n, 1n << BigInt(unit[1]));
  return `${thousands(parts / 100n)}.${String(parts % 100n).padStart(2, "0")} ${unit[0]}`;
}

// toFixed, but a tie goes to the even digit.
function fixed(x, digits) {
  const exact = x.toFixed(80);
  const cut = exact.length - 80 + digits;
  const [kept, rest] = [exact.slice(0, cut), exact.slice(cut)];
  return /^50*$/.test(rest) && /[02468]\.?$/.test(kept) ? kept.replace(/\.$/, "") : x.toFixed(digits);
}

// Three figures, or all before the point.
const milliseconds = (seconds) =>
  thousands(fixed(1000 * seconds, 1000 * seconds < 10 ? 2 : 1000 * seconds < 100 ? 1 : 0));

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
  const along = data.along ?? "seq_len"; // the knob of the length
  const stops = data.lengths ?? knobs[along].numbers; // of the table; the slider may have fewer
  const lengths = stops.map(BigInt);
  const stopOf = knobs[along].numbers.map((length) => stops.indexOf(length));
  const floats = [batches.map(Number), lengths.map(Number)];

  function read(place) {
    if (!parsed[place]) {
      const terms = texts[place].slice(1).split(",").map(big);
      parsed[place] = { form: texts[place][0], terms, floats: terms.map(Number) };
    }
    return parsed[place];
  }

  // The value of a function at a batch and a length, each by its place.
  function value(place, i, k) {
    const { form, terms } = read(place);
    const term = (k) => terms[k] ?? 0n;
    if (form === "#") return term(k * batches.length + i);
    const [b, s] = [batches[i], lengths[k]];
    if (form === "/") return term(2 * k) + b * term(2 * k + 1);
    if (form === "|") return term(2 * i) + s * term(2 * i + 1);
    if (terms.length === 1) return terms[0];
    return term(0) + b * term(1) + s * (term(2) + b * term(3) + s * (term(4) + b * term(5)));
  }

  // The same in floating point, for a curve of many points.
  function near(place, i, k) {
    const { form, floats: t } = read(place);
    if (form === "#") return t[k * batches.length + i] ?? 0;
    const [b, s] = [floats[0][i], floats[1][k]];
    if (form === "/") return (t[2 * k] ?? 0) + b * (t[2 * k + 1] ?? 0);
    if (form === "|") return (t[2 * i] ?? 0) + s * (t[2 * i + 1] ?? 0);
    if (t.length === 1) return t[0];
    return t[0] + b * t[1] + s * ((t[2] ?? 0) + b * (t[3] ?? 0) + s * ((t[4] ?? 0) + b * (t[5] ?? 0)));
  }

  // The parts at the peak for every length that can be: [{length, parts, total, peak}].
  function curve(at) {
    const [common, instants, , lacking = []] = data.states[stateOf(at)];
    const split = instants.map((number) => data.instants[number].slice(1));
    return stops.flatMap((length, k) => {
      if (lacking.includes(k)) return [];
      const shared = common.map((place) => (place < 0 ? 0 : near(place, at.batch, k)));
      const most = { length, total: -1 };
      split.forEach((pairs, peak) => {
        const parts = shared.slice();
        for (let n = 0; n < pairs.length; n += 2) parts[pairs[n]] = near(pairs[n + 1], at.batch, k);
        const total = parts.reduce((a, n) => a + n, 0);
        if (total > most.total) Object.assign(most, { parts, total, peak });
      });
      return [most];
    });
  }

  const added = data.added && machine({ ...data.added, knobs: data.knobs }); // what is there beside, by row

  // Rows of one phase are numbered; each has what is added to its phase, and one without any is not there.
  function withAdded(found, { rows: more }) {
    const of = Object.fromEntries(more.map(({ name, parts }) => [name, parts]));
    return found.map((row) => ({ ...row, name: row.name.replace(/ \d+$/, "") })).filter(({ name }) => of[name])
      .map(({ name, parts }) => ({ name, parts: parts.map((n, k) => n + of[name][k]) }))
      .map((row) => ({ ...row, total: row.parts.reduce((a, n) => a + n, 0n) }));
  }

  const placeOf = (at) => data.order.reduce((n, name) => n * knobs[name].texts.length + at[name], 0);
  const stateOf = (at) => data.index[placeOf(at)];

  // {error} or {rows: [{name, parts, total}], peak: the place of the largest}, in the order of the pass
  function rows(at) {
    const more = added?.rows(at);
    if (more?.error !== undefined) return more;
    const state = stateOf(at);
    if (state < 0) return { error: data.errors[-1 - state] };
    const [common, instants, , lacking = [], errors] = data.states[state];
    const k = stopOf[at[along]];
    const out = lacking.indexOf(k);
    if (out >= 0) return { error: data.errors[errors[out]] };
    const shared = common.map((place) => (place < 0 ? 0n : value(place, at.batch, k)));
    let found = instants.map((number) => {
      const [name, ...pairs] = data.instants[number];
      const parts = shared.slice();
      for (let n = 0; n < pairs.length; n += 2) parts[pairs[n]] = value(pairs[n + 1], at.batch, k);
      return { name: data.names[name], parts, total: parts.reduce((a, n) => a + n, 0n) };
    });
    if (more) found = withAdded(found, more);
    let peak = 0;
    found.forEach((row, n) => { if (row.total > found[peak].total) peak = n; });
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

  // The largest number up to `last` for which `fits` holds, by halves; null where it holds for none.
  function largest(last, fits) {
    let [low, high] = [0n, last + 1n];
    while (high - low > 1n) {
      const middle = (low + high) / 2n;
      if (fits(middle)) low = middle;
      else high = middle;
    }
    return low > 0n ? { n: low, last } : null;
  }

  const peakOf = (found, b, s) => found
    .map((t) => t[0] + b * t[1] + s * (t[2] + b * t[3] + s * (t[4] + b * t[5])))
    .reduce((a, n) => (n > a ? n : a));

  // The largest batch of the slider's range at this length with which `fits(peak, batch, length)`; null where none does,
  // or where it is not known.
  function mostSequences(at, fits) {
    const [, , known, lacking = []] = data.states[stateOf(at)];
    if (known < 1 || lacking.includes(at.seq_len)) return null;
    const [found, s] = [sums(at), lengths[at.seq_len]];
    return largest(batches.at(-1), (b) => fits(peakOf(found, b, s), b, s));
  }

  // The same for the length at this batch.
  function mostTokens(at, fits) {
    const [, , known, lacking = []] = data.states[stateOf(at)];
    if (known < 2) return null;
    const [found, b] = [sums(at), batches[at.batch]];
    return largest(lengths.filter((_, k) => !lacking.includes(k)).at(-1), (s) => fits(peakOf(found, b, s), b, s));
  }

  // Bytes of one of many equal tensors in the allocator's segments: `footprint.segments.shared_bytes`.
  function sharedBytes(nbytes) {
    const [block, small, alone, shared, unit] = data.segments.map(BigInt);
    const up = (n, size) => ((n + size - 1n) / size) * size;
    const whole = up(nbytes, block);
    if (whole >= alone || whole === 0n) return up(whole, unit);
    const [room, together] = whole <= small ? [unit, unit / whole] : [shared, shared / whole];
    return (room + together - 1n) / together;
  }

  // What a GPU holds beside its tensors, at most: `config.overhead` with `footprint.segments`.
  function beside(at, b, s) {
    const [kept, counts] = data.beside[at.gpu];
    if (!counts) return BigInt(kept);
    const [fixed, plus, least, page, rows] = words(at).segments;
    let tokens = s + BigInt(plus);
    if (tokens < BigInt(least)) tokens = BigInt(least);
    return rows.reduce((sum, [unit, layers, most]) => {
      const seen = most && tokens > BigInt(most) ? BigInt(most) : tokens;
      const pages = ((seen + BigInt(page) - 1n) / BigInt(page)) * BigInt(page);
      const size = (b * pages * BigInt(unit) + 7n) / 8n;
      return sum + BigInt(layers) * (sharedBytes(size) - size);
    }, BigInt(kept) + BigInt(fixed));
  }

  const words = (at) => ({
    ...Object.fromEntries(data.knobs.map(({ name, texts }) => [name, texts[at[name]]])),
    ...added?.words(at),
    ...data.words[data.said?.[placeOf(at)] ?? 0],
  });
  return { data, knobs, rows, curve, words, mostSequences, mostTokens, beside, batches, lengths };
}
