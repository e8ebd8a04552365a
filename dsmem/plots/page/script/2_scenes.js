// --- What a pass says -------------------------------------------------------------------------------------------------

const share = (ratio) => (ratio < 9.995 ? percent(ratio, 0) + " of" : thousands(fixed(ratio, 0)) + " times");

// {limit, free, hidden} of the knobs that choose what is shown, and of what
function view(m, at) {
  const { gpu, hide, overhead_bytes: free, every_instant: every } = m.knobs;
  const size = gpu && m.data.usable[at.gpu];
  const hidden = hide ? m.data.hides[at.hide] : [];
  return {
    limits: size ? [{ name: gpu.texts[at.gpu], size: BigInt(size) }] : [],
    free: free && m.data.free[at.overhead_bytes] !== null ? BigInt(m.data.free[at.overhead_bytes]) : null,
    hidden: new Set(hidden),
    every: every ? at.every_instant === 1 : ["pass", "training"].includes(m.data.kind),
  };
}

// The part of the sentence on capacities, by the kit's one rule of what fits; {answer} and {verdict}.
function verdicts(m, at, words, { limits, free }) {
  if (m.data.kind === "fit") return answer(m, at, words, limits[0], free);
  const kept = free ? `with ${formatBytes(free)} kept for` : "before";
  const each = limits.map(({ name, size }) =>
    `${words.peak <= size - (free ?? 0n) ? "fits" : "does not fit"} ${name} (${formatBytes(size)})`);
  return { verdict: each.length ? `; it ${each.join(", ")} ${kept} context and allocator` : "" };
}

// Whether it fits, what is spare or missing, and how far batch and length could go; {beside} its tensors, or kept free.
function answer(m, at, words, card, free) {
  const { none, fits, lacks, counted, kept, sequences, tokens, more } = m.data.say;
  if (!card) return { answer: fill(none, words), verdict: fill(none, words), beside: 0n };
  const besideOf = (b, s) => free ?? m.beside(at, b, s);
  const beside = besideOf(m.batches[at.batch], m.lengths[at.seq_len]);
  const spare = card.size - beside - words.peak;
  const all = { ...words, gpu: card.name, size: card.size, spare: spare < 0n ? -spare : spare, beside };
  const said = fill(spare >= 0n ? fits : lacks, all);
  const still = (peak, b, s) => peak + besideOf(b, s) <= card.size;
  const ends = [[sequences, m.mostSequences(at, still)], [tokens, m.mostTokens(at, still)]]
    .filter(([, most]) => most)
    .map(([text, { n, last }]) => fill(text, { ...all, most: n, more: n === last ? more : "" }));
  const about = free === null ? fill(counted, all) : free ? fill(kept, all) : "";
  const unlike = words[m.data.lacks[at.gpu]] ?? "";
  return { answer: said, verdict: said + about + (ends.length ? "; " + ends.join(", ") : "") + unlike, beside };
}

// What a picture shows: title, sentence, rows, capacities; or {error}.
function scene(m, at) {
  const found = m.rows(at);
  if (found.error !== undefined) return found;
  if (m.data.kind === "bars") return barScene(m, at, found.rows);
  return m.data.kind === "ranks" ? rankScene(m, at, found.rows) : passScene(m, at, found);
}

// Bars that stand side by side, each with its size.
function barScene(m, at, rows) {
  const { limits } = view(m, at);
  const main = rows.at(m.data.main);
  const words = {
    ...m.words(at),
    first: rows[0].total,
    second: (rows[1] ?? rows[0]).total,
    sizes: rows.map(({ name, total }) => `${name}, ${thousands(total)} bytes`).join("; "),
    ...speed(m, at, rows),
    of_memory: limits.map(({ name, size }) =>
      ` ${thousands(percent(Number(main.total) / Number(size), 0))} of the memory of ${name}.`).join(""),
  };
  return {
    title: m.data.say.title.map((text) => fill(text, words)),
    sentence: fill(m.data.say.sentence, words),
    rows: rows.map((row) => ({ ...row, end: formatBytes(row.total), marked: row === main })),
    named: true,
    hidden: [],
    peak: main,
    limits: limits.map(({ name, size }) => ({ name: `${name}, ${formatBytes(size)}`, size })),
    label: m.data.say.label,
    marks: rows.map(({ total }) => total),
  };
}

// An even share of the whole, and what the first and the last rank hold.
function rankScene(m, at, [whole, first, last]) {
  const how = view(m, at);
  const degree = (name) => BigInt(m.knobs[name]?.numbers[at[name]] ?? 1);
  const ranks = ["data", "context", "tensor", "pipeline"].reduce((n, name) => n * degree(name), 1n);
  const shares = whole.parts.map((n, k) => (m.data.copied[k] ? n * degree("data") : n));
  const all = shares.reduce((sum, n) => sum + n, 0n);
  const even = { parts: shares.map((n) => nearest(n, ranks)), total: nearest(all, ranks) };
  const peak = last.total > first.total ? last : first;
  const rows = [even, first, last].map((row, k) => ({ ...row, name: m.data.bars[k], marked: row === peak }));
  const exact = [shares.map((n) => Number(n) / Number(ranks)), first.parts.map(Number), last.parts.map(Number)];
  const totals = [Number(all) / Number(ranks), Number(first.total), Number(last.total)];
  const told = rows.map(({ name, total }, k) => {
    const parts = m.data.families.map((family, n) => ({ name: family.name, n: exact[k][n] }));
    const seen = parts.filter(({ n }) => n >= 0.001 * totals[k]);
    return `${name} ${thousands(total)} bytes (${seen.map(({ name, n }) => `${name} ${percent(n / totals[k], 1)}`).join(", ")})`;
  });
  const words = {
    ...m.words(at),
    about: `${m.knobs.model.texts[at.model]} ${m.knobs.use.texts[at.use] === "training" ? "trained" : "served"}, ${spread(m, at)}`,
    peak: peak.total,
    even: even.total,
    on: ranks > 1n ? `one of ${thousands(ranks)} ranks` : "it",
    of: how.limits.map(({ name, size }) => `, ${share(Number(peak.total) / Number(size))} ${name}`).join(""),
    bars: told.join("; "),
    times: fixed(Number(peak.total) / totals[0], 2),
  };
  Object.assign(words, verdicts(m, at, words, how));
  return {
    title: m.data.say.title.map((text) => fill(text, words)),
    sentence: fill(m.data.say.sentence, words),
    rows: rows.map((row) => ({ ...row, end: formatBytes(row.total) })),
    named: true,
    hidden: [],
    peak,
    limits: how.limits.map(({ name, size }) => ({ name: `${name}, ${formatBytes(size)}`, size })),
    label: m.data.say.label,
    marks: rows.map(({ total }) => total),
  };
}

// The ranks in words, with the field's short names.
function spread(m, at) {
  const number = (name) => m.knobs[name]?.numbers[at[name]] ?? 1;
  const said = Object.entries(m.data.short).filter(([, name]) => number(name) > 1)
    .map(([short, name]) => `${short} ${number(name)}`);
  const zero = m.knobs.zero?.numbers[at.zero] ?? 0;
  if (zero && number("data") > 1) said.splice(1, 0, `ZeRO ${zero}`);
  if (m.knobs.attention?.texts[at.attention] === "data") said.push("DPA");
  return said.join(", ") || "one rank";
}

// How long the second bar takes to read, and its share of the first; where the memory's speed is known.
function speed(m, at, rows) {
  if (!m.data.speeds) return {};
  const [first, second] = rows.map(({ total }) => Number(total));
  const seconds = second / m.data.speeds[at.memory];
  return {
    share: percent(second / first, 1),
    first_gb: thousands(fixed(first / 1e9, 1)),
    second_gb: thousands(fixed(second / 1e9, 1)),
    ms: milliseconds(seconds),
    per_second: thousands(fixed(Number(m.batches[at.batch]) / seconds, 0)),
  };
}

function passScene(m, at, found) {
  if (m.data.kind === "training") found = largestOfEach(found);
  const how = view(m, at);
  const peak = found.rows[found.peak];
  const families = m.data.families.map(({ name }, k) => ({ name, k, n: peak.parts[k] }));
  const seen = families.slice().sort((a, b) => (a.n === b.n ? a.k - b.k : a.n < b.n ? 1 : -1))
    .filter(({ n }) => Number(n) >= 0.001 * Number(peak.total));
  const hidden = m.data.families.map(({ name }) => how.hidden.has(name));
  const without = families.filter(({ k }) => hidden[k]);
  const left = without.reduce((sum, { n }) => sum + n, 0n);
  const known = m.words(at);
  const words = {
    ...known,
    peak: peak.total,
    instant: peak.name,
    shares: seen.map(({ name, n }) => `${name} ${percent(Number(n) / Number(peak.total), 1)}`).join(", "),
    of: how.limits.map(({ name, size }) => `, ${share(Number(peak.total) / Number(size))} ${known.one ?? ""}${name}`).join(""),
    in: m.data.in?.[peak.name] ?? peak.name,
    others: found.rows.filter((row) => row !== peak).map(({ name, total }) => `${name} ${formatBytes(total)}`).join(", "),
    shown: without.length ? `; shown without ${without.map(({ name }) => name).join(", ")}` : "",
  };
  Object.assign(words, verdicts(m, at, words, how));
  return {
    title: m.data.say.title.map((text) => fill(text, words)),
    sentence: fill(m.data.say.sentence, words),
    rows: (m.data.kind === "training" ? found.rows.map((row) => ({ ...row, marked: row === peak })) : how.every ? byName(found) : [{ ...peak, marked: true }]).map((row) => ({ ...row, beside: words.beside })),
    named: how.every,
    hidden,
    peak,
    limits: how.limits.map(({ name, size }) => ({
      name: `${name}, ${formatBytes(size - left)}${known.each ?? ""}${left ? " left" : ""}`, size: size - left,
    })).filter(({ size }) => size > 0n),
    label: "memory" + (without.length ? ` without ${without.map(({ name }) => name).join(", ")}` : ""),
    marks: [peak.total - left + (words.beside ?? 0n)],
    beside: words.beside,
    curve: m.data.kind === "curves" ? m.curve(at) : undefined,
    length: m.knobs.seq_len.numbers[at.seq_len],
  };
}

// Of each phase the largest instant, the first of equals.
function largestOfEach({ rows }) {
  const found = new Map();
  for (const row of rows) if (!found.has(row.name) || row.total > found.get(row.name).total) found.set(row.name, row);
  const left = [...found.values()];
  return { rows: left, peak: left.reduce((most, { total }, k) => (total > left[most].total ? k : most), 0) };
}

// Instants of one operator share a row, which shows the largest.
function byName({ rows, peak }) {
  const found = new Map();
  rows.forEach((row, k) => {
    const name = row.name.split(" ")[0];
    if (!found.has(name) || row.total > rows[found.get(name)].total) found.set(name, k);
  });
  return [...found].map(([name, k]) => ({ ...rows[k], name, marked: name === rows[peak].name.split(" ")[0] }));
}
