// --- Drawing ----------------------------------------------------------------------------------------------------------

const SVG = "http://www.w3.org/2000/svg";
const FONT = "12px system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif";
const canvas = typeof document === "undefined" ? null : document.createElement("canvas").getContext("2d");
const widths = new Map();
const BOLD = 1.15; // how much wider a bold text may be

function widthOf(text) {
  if (!widths.has(text)) {
    canvas.font = FONT;
    widths.set(text, canvas.measureText(text).width);
  }
  return widths.get(text);
}

// The text, or its beginning, as wide as there is room.
function shorten(text, room) {
  if (widthOf(text) <= room) return text;
  let n = text.length;
  while (n > 1 && widthOf(text.slice(0, n) + "…") > room) n--;
  return text.slice(0, n) + "…";
}

// One hatch as a tile that repeats: Matplotlib's letters, closer together the more of them.
function tile(id, { face, edge, hatch }) {
  const t = [8, 11, 8, 7][Math.min(hatch.length, 3)];
  const lines = { "/": `M0,${t}L${t},0M-1,1L1,-1M${t - 1},${t + 1}L${t + 1},${t - 1}`, "-": `M0,${t / 2}H${t}` };
  lines["\\"] = `M0,0L${t},${t}M-1,${t - 1}L1,${t + 1}M${t - 1},-1L${t + 1},1`;
  lines["|"] = `M${t / 2},0V${t}`;
  lines["+"] = lines["-"] + lines["|"];
  lines.x = lines["/"] + lines["\\"];
  const dots = { ".": 1.2, "*": 1.8, o: 2.2, O: 3 };
  const drawn = [...new Set(hatch)].map((c) => lines[c]
    ? `<path d="${lines[c]}" stroke="${edge}" fill="none"/>`
    : `<circle cx="${t / 2}" cy="${t / 2}" r="${dots[c]}" stroke="${edge}" fill="${c === "." || c === "*" ? edge : "none"}"/>`);
  return `<pattern id="${id}" width="${t}" height="${t}" patternUnits="userSpaceOnUse">` +
    `<rect width="${t}" height="${t}" fill="${face}"/>${drawn.join("")}</pattern>`;
}

const unitOf = (reach) => UNITS.find(([, power]) => reach >= 2 ** power) ?? ["bytes", 0];

// A length for the axis that seldom changes: a power of two or three quarters of one.
function reachFor(needed) {
  const power = 2 ** Math.max(Math.ceil(Math.log2(Math.max(needed, 1)) - 1e-9), 0);
  return needed <= 0.75 * power ? 0.75 * power : power;
}

function ticks(reach, most) {
  const size = 2 ** unitOf(reach)[1];
  const rough = reach / size / most;
  const ten = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((n) => n * ten).find((n) => n >= rough - 1e-12);
  return Array.from({ length: Math.floor(reach / size / step + 1e-9) + 1 }, (_, k) => ({
    at: k * step * size, text: thousands(Number((k * step).toPrecision(6))),
  }));
}

const text = (x, y, words, more = "") => `<text x="${x.toFixed(1)}" y="${y.toFixed(1)}" ${more}>${escape(words)}</text>`;
const line = (x1, y1, x2, y2, kind) =>
  `<line x1="${x1.toFixed(1)}" y1="${y1.toFixed(1)}" x2="${x2.toFixed(1)}" y2="${y2.toFixed(1)}" class="${kind}"/>`;

// Stacked bars against capacities; returns the inside of the <svg>.
function drawBars(shown, width, height, left, looks) {
  const [top, bottom, right] = [22, 40, shown.named ? 84 : 12];
  const across = width - left - right;
  const most = Math.max(...shown.marks.map(Number), 1);
  // where parts are left out so that the rest can be seen, a capacity far beyond is only named
  const near = ({ size }) => !shown.hidden.includes(true) || Number(size) <= 3 * most;
  const reach = reachFor(1.02 * Math.max(most, ...shown.limits.filter(near).map(({ size }) => Number(size))));
  const x = (n) => left + (across * Number(n)) / reach;
  const down = height - top - bottom;
  const step = Math.min(down / shown.rows.length, 96);
  const out = [];
  for (const { at, text: words } of ticks(reach, Math.max(across / 64, 2))) {
    out.push(line(x(at), top, x(at), height - bottom, "grid"));
    out.push(text(x(at), height - bottom + 15, words, 'text-anchor="middle"'));
  }
  shown.rows.forEach((row, number) => {
    const [y, tall] = [top + step * (number + 0.13), step * 0.74];
    let end = 0n;
    [...row.parts, row.beside ?? 0n].forEach((n, k) => {
      if (shown.hidden[k] || !n) return;
      const start = x(end);
      end += n;
      if (x(end) - start > 0.3) {
        out.push(`<rect x="${start.toFixed(2)}" y="${y.toFixed(1)}" width="${(x(end) - start).toFixed(2)}" ` +
          `height="${tall.toFixed(1)}" fill="${looks[k]}" class="bar"/>`);
      }
    });
    const middle = y + tall / 2 + 4;
    const weight = row.marked ? "marked" : "";
    if (shown.named) out.push(text(left - 7, middle, shorten(row.name, (left - 9) / BOLD), `text-anchor="end" class="${weight}"`));
    if (row.end ?? (row.marked && shown.named)) {
      out.push(text(x(end) + 6, middle, row.end ?? `← ${formatBytes(end)}`, `class="end ${weight}"`));
    }
  });
  for (const limit of shown.limits) {
    const { name, size } = limit;
    if (!near(limit)) {
      out.push(text(width - 4, top - 8, shorten(`${name}, beyond →`, width - 20), 'text-anchor="end"'));
      continue;
    }
    const anchor = x(size) > left + across / 2 ? "end" : "start";
    out.push(line(x(size), top - 4, x(size), height - bottom, "limit"));
    out.push(text(x(size), top - 8, shorten(name, width - 20), `text-anchor="${anchor}"`));
  }
  out.push(line(left, top, left, height - bottom, "axis"));
  const label = shorten(`${shown.label} (${unitOf(reach)[0]})`, width - 8);
  out.push(text(Math.min(left, width - 4 - widthOf(label)), height - 6, label));
  return out.join("");
}

const DOUBLINGS = (low, high, step) => Array.from({ length: Math.floor((high - low) / step) + 1 }, (_, k) => low + k * step);

// The peak and its parts against the length, both logarithmic; a line breaks where another instant wins.
function drawCurves(shown, width, height, families) {
  const [top, bottom, left, right] = [12, 40, 64, shown.limits.length ? 92 : 16];
  const [first, last] = [shown.curve[0].length, shown.curve.at(-1).length].map(Math.log2);
  const highest = Math.max(...shown.curve.map(({ total }) => total), ...shown.limits.map(({ size }) => Number(size)));
  const power = 4 * Math.ceil((Math.log2(highest) + 0.3) / 4); // it seldom changes
  const x = (n) => left + ((width - left - right) * (Math.log2(n) - first)) / Math.max(last - first, 1e-9);
  const y = (n) => height - bottom - ((height - top - bottom) * (Math.log2(n) - 24)) / (power - 24);
  const out = [];
  for (const k of DOUBLINGS(Math.ceil(first), last, 1)) {
    out.push(line(x(2 ** k), top, x(2 ** k), height - bottom, "grid"));
    if ((k - Math.ceil(first)) % 3 === 0) {
      out.push(text(x(2 ** k), height - bottom + 15, thousands(2 ** k), 'text-anchor="middle"'));
    }
  }
  for (const k of DOUBLINGS(24, power, 4)) {
    out.push(line(left, y(2 ** k), width - right, y(2 ** k), "grid"));
    const [unit, base] = k >= 50 ? ["PiB", 50] : UNITS.find(([, each]) => k >= each);
    out.push(text(left - 6, y(2 ** k) + 4, `${2 ** (k - base)} ${unit}`, 'text-anchor="end"'));
  }
  const path = (heights) => {
    let drawn = "";
    heights.forEach((n, k) => {
      if (!(n >= 2 ** 24)) return;
      const joined = k && heights[k - 1] >= 2 ** 24 && shown.curve[k].peak === shown.curve[k - 1].peak;
      drawn += `${joined ? "L" : "M"}${x(shown.curve[k].length).toFixed(1)},${y(n).toFixed(1)}`;
    });
    return drawn;
  };
  families.forEach(({ face, dash }, k) => {
    const drawn = path(shown.curve.map(({ parts }) => parts[k]));
    if (drawn) out.push(`<path d="${drawn}" class="curve" stroke="${face}" stroke-dasharray="${dash}"/>`);
  });
  out.push(`<path d="${shown.curve.map(({ length, total }, k) =>
    `${k ? "L" : "M"}${x(length).toFixed(1)},${y(total).toFixed(1)}`).join("")}" class="curve total"/>`);
  out.push(line(x(shown.length), top, x(shown.length), height - bottom, "moment"));
  for (const n of [...shown.peak.parts, shown.peak.total].map(Number).filter((n) => n >= 2 ** 24)) {
    out.push(`<circle cx="${x(shown.length).toFixed(1)}" cy="${y(n).toFixed(1)}" r="3.5" class="dot"/>`);
  }
  for (const { name, size } of shown.limits) {
    out.push(line(left, y(Number(size)), width - right, y(Number(size)), "limit"));
    name.split(", ").forEach((words, k) => out.push(text(width - right + 5, y(Number(size)) + 14 * k - 2, words)));
  }
  out.push(line(left, top, left, height - bottom, "axis"));
  out.push(text(left, height - 6, "sequence length (tokens); thick: in all"));
  return out.join("");
}
