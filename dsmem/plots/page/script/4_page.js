// --- The page ---------------------------------------------------------------------------------------------------------

function start(root) {
  if (root.dataset.started) return;
  root.dataset.started = "yes";
  const m = machine(JSON.parse(root.querySelector("script[type='application/json']").textContent));
  const own = `dsmem${(window.dsmemPages = (window.dsmemPages ?? 0) + 1)}`; // no two on one page have the same ids
  const at = Object.fromEntries(m.data.knobs.map(({ name, at }) => [name, at]));
  const parts = build(root, m, own);
  const looks = m.data.families.map((_, k) => `url(#${own}-${k})`);
  const show = () => {
    const began = performance.now();
    const shown = scene(m, at);
    parts.problem.textContent = shown.error === undefined ? "" : `Not drawn, the picture is the one before: ${shown.error}`;
    if (shown.error === undefined) paint(parts, m, shown, looks);
    root.dsmem.shown = shown;
    root.dsmem.milliseconds = performance.now() - began;
  };
  const set = (values) => {
    for (const [name, value] of Object.entries(values)) {
      at[name] = value;
      parts.inputs[name].set(value);
    }
    show();
  };
  root.dsmem = { machine: m, at, set, show };
  parts.turned = (name, value) => { at[name] = value; show(); };
  new ResizeObserver(() => { if (parts.width !== parts.picture.clientWidth) show(); }).observe(parts.picture);
  show();
}

function build(root, m, own) {
  const parts = { inputs: {}, width: 0 };
  const live = root.querySelector(".dsmem-live");
  live.dataset.kind = m.data.kind;
  const panel = live.appendChild(element("div", { class: "dsmem-knobs", role: "group", "aria-label": "controls" }));
  for (const knob of m.data.knobs) if (knob.kind !== "fixed") panel.append(control(knob, parts));
  parts.title = live.appendChild(element("p", { class: "dsmem-title" }));
  parts.picture = live.appendChild(element("div", { class: "dsmem-picture" }));
  const patterns = m.data.families.map((look, k) => tile(`${own}-${k}`, look)).join("");
  parts.picture.innerHTML = `<svg xmlns="${SVG}" role="img" focusable="false"><defs>${patterns}</defs><g></g></svg>`;
  parts.svg = parts.picture.firstChild;
  parts.drawn = parts.svg.lastChild;
  parts.legend = live.appendChild(element("ul", { class: "dsmem-legend" }));
  parts.amounts = m.data.families.map((look, k) => {
    const item = parts.legend.appendChild(element("li"));
    const swatch = m.data.kind === "curves"
      ? `<path d="M0,7H26" class="curve" stroke="${look.face}" stroke-dasharray="${look.dash}"/>`
      : `<rect x=".5" y=".5" width="25" height="13" fill="url(#${own}-${k})" class="bar"/>`;
    item.innerHTML = `<svg width="26" height="14" aria-hidden="true">${swatch}</svg><span>${escape(look.name)}</span><b></b>`;
    return item.lastChild;
  });
  parts.words = live.appendChild(element("p", { class: "dsmem-words", role: "status", "aria-live": "polite" }));
  parts.problem = live.appendChild(element("p", { class: "dsmem-problem", role: "alert" }));
  // JupyterLab and others listen for keys, too
  live.addEventListener("keydown", (event) => event.stopPropagation());
  root.querySelector(".dsmem-still").remove();
  live.hidden = false;
  return parts;
}

function element(kind, attributes = {}) {
  const made = document.createElement(kind);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

// A label with its control; `parts.inputs[name].set(place)` moves it from outside.
function control(knob, parts) {
  const { name, label, kind, texts, at } = knob;
  const unit = /\((\w+)\)$/.exec(label)?.[1];
  const row = element("label", { class: `dsmem-${kind}` });
  const shown = element("output", { "aria-hidden": "true" });
  const quiet = { "data-lm-suppress-shortcuts": "true", "aria-label": label, "data-knob": name };
  let input;
  if (kind === "menu") {
    input = element("select", quiet);
    texts.forEach((words, value) => input.add(new Option(words, value)));
  } else {
    const more = kind === "box" ? { type: "checkbox" } : { type: "range", min: 0, max: texts.length - 1, step: 1 };
    input = element("input", { ...quiet, ...more });
  }
  const set = (value) => {
    if (kind === "box") input.checked = value === 1;
    else input.value = value;
    shown.textContent = kind === "range" ? texts[value] : "";
    if (kind === "range") input.setAttribute("aria-valuetext", unit ? `${texts[value]} ${unit}` : texts[value]);
  };
  const moved = () => {
    const value = kind === "box" ? Number(input.checked) : Number(input.value);
    set(value);
    parts.turned(name, value);
  };
  input.addEventListener(kind === "range" ? "input" : "change", moved);
  set(at);
  parts.inputs[name] = { set };
  const words = element("span");
  words.textContent = label;
  row.append(...(kind === "box" ? [input, words] : [words, input, shown]));
  return row;
}

function paint(parts, m, shown, looks) {
  parts.width = parts.picture.clientWidth;
  const width = Math.max(parts.width, 240);
  const height = m.data.heights[shown.named ? 1 : 0];
  const instants = m.data.kind === "pass" || m.data.kind === "fit"; // which are known by their first word
  const widest = Math.max(...m.data.names.map((name) => widthOf(instants ? name.split(" ")[0] : name)));
  const names = shown.named ? widest * BOLD + 10 : 8;
  const left = Math.min(names, 0.4 * width);
  parts.svg.setAttribute("width", width);
  parts.svg.setAttribute("height", height);
  parts.svg.setAttribute("aria-label", shown.sentence);
  parts.drawn.innerHTML = shown.curve
    ? drawCurves(shown, width, height, m.data.families)
    : drawBars(shown, width, height, left, looks);
  parts.title.replaceChildren(...shown.title.flatMap((words, k) => (k ? [element("br"), words] : [words])));
  parts.words.textContent = shown.sentence;
  parts.amounts.forEach((amount, k) => {
    const n = k < shown.peak.parts.length ? shown.peak.parts[k] : shown.beside;
    if (k === shown.peak.parts.length) {
      amount.textContent = n ? `≤ ${formatBytes(n)}` : "–";
      return;
    }
    const words = shown.hidden[k] ? "left out" : `${formatBytes(n)} · ${percent(Number(n) / Number(shown.peak.total), 1)}`;
    amount.textContent = n ? words : "–";
  });
}
