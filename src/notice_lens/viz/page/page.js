// The report's behaviour: a head that is chosen in any heat map shows where it looks, over the pairs.
// `start(root, data)` is all there is: the page calls it once, the notebook's widget once for each widget.
// Text from data only ever goes through textContent; colours are set through classes and canvases.

"use strict";

const STEPS = 8; // shades of a heat map, each way; page.css has a class for each
const FIRST = 6; // pairs that are shown before "all"
const HEAT = [[0, 12, 8, 38, .52], [.35, 120, 28, 109, .6], [.65, 237, 105, 37, .68], [1, 252, 250, 150, .8]];
const MORE = [[0, 250, 250, 250, .08], [1, 214, 90, 10, .85]];
const LESS = [[0, 250, 250, 250, .08], [1, 31, 78, 158, .85]];
const LINES = [["#ffffff", [], "solid"], ["#ffe08a", [6, 4], "dashed"], ["#9be7ff", [2, 3], "dotted"], ["#ffb3c7", [9, 3, 2, 3], "dash-dotted"]];

function start(root, data) {
  const find = (selector) => root.querySelector(selector);
  const all = (selector) => [...root.querySelectorAll(selector)];
  const form = find("form.choices");
  const state = { cell: 0, layer: 0, head: 0, every: false };
  const regionNames = [...new Set(data.pairs.flatMap((pair) => Object.values(pair.regions).flatMap(Object.keys)))]
    .filter((name) => name !== "background");
  const lineOf = (name) => LINES[regionNames.indexOf(name) % LINES.length];
  const pictures = new Map();
  const decoded = new Map();
  let turn = 0;

  // Words and numbers

  const signed = (value, digits = 1) => {
    const text = (100 * value).toFixed(digits);
    return Number(text) === 0 ? text.replace("-", "") : (value > 0 ? "+" : "") + text.replace("-", "\u2212");
  };
  const percent = (value, digits = 1) => value == null ? "none" : signed(value, digits) + " %";
  const share = (value) => (100 * value).toFixed(value < .0995 ? 1 : 0) + " %";
  const small = (value) => value == null ? "none" : value < .001 ? "< .001" : value.toFixed(3).replace(/^0/, "");
  const at = (cell) => cell.layers.indexOf(state.layer) * cell.heads.length + cell.heads.indexOf(state.head);

  function make(tag, className, text) {
    const element = document.createElement(tag);
    if (className) element.className = className;
    if (text != null) element.textContent = text;
    return element;
  }

  // Heat maps

  function shade(value, limit) {
    if (value == null) return "none";
    const step = Math.round(STEPS * Math.min(1, Math.abs(value) / limit));
    return step === 0 ? "z" : (value > 0 ? "p" : "n") + step;
  }

  function recolour(name, title) {
    const every = data.cells.flatMap((cell) => Object.keys(cell.values).filter((key) => key.startsWith("effect"))
      .flatMap((key) => cell.values[key]));
    const limit = every.reduce((most, value) => Math.max(most, Math.abs(value || 0)), 0) || 1;
    for (const map of all("[data-map]")) {
      const cell = data.cells[+map.dataset.map];
      const values = cell.values[name] || cell.values.effect;
      map.querySelectorAll("button[data-head]").forEach((button, place) => {
        const value = values[place];
        button.className = button.className.replace(/\b(z|none|[pn]\d)\b/, shade(value, limit));
        button.textContent = value == null ? "" : String(Math.round(100 * value)).replace("-", "\u2212");
        button.dataset.label = button.dataset.label || button.getAttribute("aria-label");
        const label = name === "effect" ? button.dataset.label
          : `L${button.dataset.layer}.H${button.dataset.head}: ${title} ${percent(value)}`;
        button.setAttribute("aria-label", label);
        button.title = label;
      });
    }
  }

  function walk(event) {
    const button = event.target.closest("button[data-head]");
    const map = button && button.closest("[data-map]");
    const step = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] }[event.key];
    if (!map || !(step || event.key === "Home" || event.key === "End")) return;
    event.preventDefault();
    const rows = [...map.querySelectorAll("tbody tr")].map((row) => [...row.querySelectorAll("button")]);
    const row = rows.findIndex((each) => each.includes(button));
    const column = rows[row].indexOf(button);
    const clamp = (value, count) => Math.max(0, Math.min(count - 1, value));
    const next = step ? rows[clamp(row + step[0], rows.length)][clamp(column + step[1], rows[row].length)]
      : rows[row][event.key === "Home" ? 0 : rows[row].length - 1];
    focusable(map, next);
    next.focus();
  }

  function focusable(map, button) {
    map.querySelectorAll("button[data-head]").forEach((each) => { each.tabIndex = each === button ? 0 : -1; });
  }

  function mark() {
    for (const button of all("button[data-head]")) {
      const same = +button.dataset.layer === state.layer && +button.dataset.head === state.head;
      const map = button.closest("[data-map]");
      const here = same && (!map || +map.dataset.map === state.cell);
      button.setAttribute("aria-pressed", String(here));
      button.classList.toggle("same", same && !here);
      if (map && here) focusable(map, button);
    }
  }

  // Attention maps

  function bytes(text) {
    return Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  }

  function mapsOf(pair, run) {
    const key = pair + "/" + run;
    if (!decoded.has(key)) {
      const packed = data.attention && (data.attention.maps[pair] || {})[run];
      decoded.set(key, packed ? { roles: packed.roles, patches: bytes(packed.patches),
        sizes: new DataView(bytes(packed.sizes).buffer) } : null);
    }
    return decoded.get(key);
  }

  // The map of the chosen head, or null: what each patch gets, and the class token.
  function looked(pair, run, role, relative) {
    const maps = mapsOf(pair, run);
    const row = maps ? maps.roles.indexOf(role) : -1;
    if (row < 0) return null;
    const { layers, heads, grid } = data.attention;
    const count = layers.length * heads.length, patches = grid[0] * grid[1];
    const number = layers.indexOf(state.layer) * heads.length + heads.indexOf(state.head);
    const size = (which, head) => maps.sizes.getUint16(2 * ((which * maps.roles.length + row) * count + head), true) / 65535;
    const value = (head, patch) => maps.patches[(row * count + head) * patches + patch] / 255 * size(0, head);
    const raw = Float32Array.from({ length: patches }, (_, patch) => value(number, patch));
    if (!relative) return { raw, shown: raw, token: size(1, number) };
    const shown = raw.map((own, patch) => {
      let sum = 0;
      for (let head = 0; head < count; head++) sum += value(head, patch);
      return own - sum / count;
    });
    return { raw, shown, token: size(1, number) };
  }

  function colour(stops, share) {
    const next = Math.max(1, stops.findIndex((stop) => stop[0] >= share));
    const [a, b] = [stops[next - 1], stops[next]];
    const t = (share - a[0]) / (b[0] - a[0]);
    const mixed = a.map((value, place) => value + t * (b[place] - value));
    return `rgba(${mixed.slice(1, 4).map(Math.round).join(",")},${mixed[4].toFixed(3)})`;
  }

  async function picture(address) {
    if (!pictures.has(address)) {
      const image = new Image();
      image.src = address;
      pictures.set(address, image.decode().then(() => image));
    }
    return pictures.get(address);
  }

  function draw(canvas, image, look, limit, relative, regions) {
    const scale = 3 * 96 / Math.max(image.width, image.height);
    canvas.width = Math.round(image.width * scale);
    canvas.height = Math.round(image.height * scale);
    const pen = canvas.getContext("2d");
    pen.imageSmoothingEnabled = Math.max(image.width, image.height) > 128;
    pen.drawImage(image, 0, 0, canvas.width, canvas.height);
    if (!look) return;
    const [rows, columns] = data.attention.grid;
    const wide = canvas.width / columns, high = canvas.height / rows;
    look.shown.forEach((value, patch) => {
      const x = (patch % columns) * wide, y = Math.floor(patch / columns) * high;
      const part = Math.min(1, Math.abs(value) / limit);
      pen.fillStyle = colour(relative ? (value < 0 ? LESS : MORE) : HEAT, part);
      pen.fillRect(x, y, wide, high);
      if (relative && value < 0 && part > .15) stripe(pen, x, y, wide, high);
    });
    Object.entries(regions).forEach(([name, bits]) => outline(pen, bits, columns, wide, high, lineOf(name)));
  }

  // Less than the mean has a stroke, so that it can be told without colour.
  function stripe(pen, x, y, wide, high) {
    pen.strokeStyle = "rgba(255,255,255,.7)";
    pen.lineWidth = 1.5;
    pen.beginPath();
    pen.moveTo(x + wide * .25, y + high / 2);
    pen.lineTo(x + wide * .75, y + high / 2);
    pen.stroke();
  }

  function outline(pen, bits, columns, wide, high, [ink, dash]) {
    const inside = (row, column) => column >= 0 && column < columns && bits[row * columns + column] === "1";
    pen.beginPath();
    for (let place = 0; place < bits.length; place++) {
      if (bits[place] !== "1") continue;
      const row = Math.floor(place / columns), column = place % columns, x = column * wide, y = row * high;
      const side = (open, x0, y0, x1, y1) => { if (open) { pen.moveTo(x0, y0); pen.lineTo(x1, y1); } };
      side(!inside(row - 1, column), x, y, x + wide, y);
      side(!inside(row + 1, column), x, y + high, x + wide, y + high);
      side(!inside(row, column - 1), x, y, x, y + high);
      side(!inside(row, column + 1), x + wide, y, x + wide, y + high);
    }
    pen.setLineDash([]);
    pen.strokeStyle = "#10141a";
    pen.lineWidth = 5;
    pen.stroke();
    pen.setLineDash(dash);
    pen.strokeStyle = ink;
    pen.lineWidth = 2.5;
    pen.stroke();
    pen.setLineDash([]);
  }

  // Pairs

  function question(pair, side, role) {
    const line = make("p", "question");
    const text = pair.prompts[side];
    const spans = Object.entries(pair.spans[side] || {}).sort((a, b) => a[1][0] - b[1][0]);
    let from = 0;
    for (const [name, [first, last]] of spans) {
      line.append(text.slice(from, first));
      const chosen = side === "clean" ? name === role : true;
      line.append(chosen ? make("mark", "", text.slice(first, last)) : text.slice(first, last));
      from = last;
    }
    line.append(text.slice(from));
    if (side === "clean" && role != null && !(role in pair.spans.clean)) line.append(" ", make("mark", "", role));
    return line;
  }

  function inRegion(look, bits) {
    let sum = 0;
    look.raw.forEach((value, patch) => { if (bits[patch] === "1") sum += value; });
    return sum;
  }

  function view(pair, number, run, look, limit, relative, outlines) {
    const side = run === "image" ? "corrupt" : "clean";
    const name = { clean: "clean", image: "corrupted image", text: "corrupted prompt" }[run];
    const figure = make("figure");
    const canvas = make("canvas");
    const caption = make("figcaption");
    const answer = pair.answers[run];
    caption.append(make("strong", "", answer ? `${name}: ${answer}` : name));
    const regions = Object.fromEntries(Object.entries(pair.regions[side] || {}).filter(([key]) => key !== "background"));
    let alt = `${name} of pair ${pair.id}`;
    if (look) {
      const best = look.raw.indexOf(Math.max(...look.raw)), columns = data.attention.grid[1];
      const parts = Object.entries(regions).filter(([, bits]) => bits.includes("1"))
        .map(([key, bits]) => `${key} ${share(inRegion(look, bits))} (${share((bits.split("1").length - 1) / bits.length)})`);
      const said = [...parts, `class token ${share(look.token)}`];
      said.forEach((text) => caption.append(make("span", "", text)));
      alt += `: L${state.layer}.H${state.head} looks most at row ${Math.floor(best / columns) + 1}, column ` +
        `${best % columns + 1} (${share(look.raw[best])}); ${said.join("; ")}`;
    }
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", alt);
    figure.append(canvas, caption);
    const drawn = picture(pair.pictures[side]).then((image) =>
      draw(canvas, image, look, limit, relative, outlines ? regions : {}));
    return { figure, drawn };
  }

  function card(cell, place, settings) {
    const number = cell.shown[place], pair = data.pairs[number];
    const effect = cell.byPair[place][at(cell)];
    const article = make("article", "pair");
    const header = make("header");
    header.append(make("span", "what", pair.group === pair.task ? pair.task : `${pair.task} \u00b7 ${pair.group}`),
      make("span", "effect", `this head: ${percent(effect, 0)}`));
    header.title = pair.id;
    article.append(header, question(pair, "clean", settings.name));
    if (cell.runs.includes("text") && pair.prompts.corrupt) article.append(question(pair, "corrupt", settings.name));
    const looks = cell.runs.map((run) => looked(number, run, settings.role, settings.relative));
    const limit = Math.max(...looks.flatMap((look) => look ? [...look.shown].map(Math.abs) : [0])) || 1;
    const views = make("div", "views");
    const found = cell.runs.map((run, i) => view(pair, number, run, looks[i], limit, settings.relative, settings.outlines));
    found.forEach((each) => views.append(each.figure));
    article.append(views);
    return { article, drawn: Promise.all(found.map((each) => each.drawn)) };
  }

  // The browser

  function order(cell) {
    const places = cell.shown.map((_, place) => place);
    if (form.elements.order.value !== "effect") return places;
    const size = (place) => cell.byPair[place][at(cell)] ?? -Infinity;
    return places.sort((a, b) => size(b) - size(a));
  }

  function facts(cell) {
    const place = at(cell), values = cell.values, list = find(".facts");
    list.replaceChildren();
    const say = (name, text) => {
      const group = make("div");
      group.append(make("dt", "", name), make("dd", "", text));
      list.append(group);
    };
    const interval = values.low && values.low[place] != null
      ? ` [${signed(values.low[place])}, ${signed(values.high[place])}]` : "";
    say(values.effect_mismatched ? "matched minus mismatched" : "effect", percent(values.effect[place]) + interval);
    if (values.effect_matched) say("matched", percent(values.effect_matched[place]));
    if (values.effect_mismatched) say("mismatched", percent(values.effect_mismatched[place]));
    if (values.p) say("p, q", `${small(values.p[place])}, ${small((values.q || values.p)[place])}`);
    const rules = [["significant", "significant"], ["two_sigma", "two-sigma rule"]].filter(([key]) => values[key]);
    if (rules.length) say("rules", rules.map(([key, text]) => (values[key][place] ? "\u2713 " : "\u2717 ") + text).join(" "));
    const labels = data.labels.filter((row) => row.layer === state.layer && row.head === state.head && row.label);
    if (labels.length) say("function", [...new Set(labels.map((row) => row.label))].join(", "));
  }

  function scores(role) {
    const table = find(".scores");
    table.replaceChildren();
    for (const found of data.functions) {
      const r = found.roles.indexOf(role), l = found.layers.indexOf(state.layer), h = found.heads.indexOf(state.head);
      if (Math.min(r, l, h) < 0 || !found.scores.auroc) continue;
      found.regions.forEach((region, g) => {
        const place = ((r * found.regions.length + g) * found.layers.length + l) * found.heads.length + h;
        const get = (name) => found.scores[name] && found.scores[name][place] != null ? found.scores[name][place].toFixed(2) : "none";
        const row = make("tr");
        row.append(make("th", "", data.functions.length > 1 ? `${found.name}: ${region}` : region));
        ["auroc", "auroc_null", "pointing", "iou"].forEach((name) => row.append(make("td", "number", get(name))));
        table.append(row);
      });
    }
    find(".looks").hidden = !table.children.length;
  }

  async function show() {
    const mine = ++turn, cell = data.cells[state.cell];
    const name = form.elements.role ? form.elements.role.value : null;
    const role = data.attention ? data.attention.roles.indexOf(name) : -1;
    const settings = { name, role, relative: form.elements.scale.value === "relative", outlines: form.elements.regions.checked };
    mark();
    find(".chosen").textContent = `L${state.layer}.H${state.head} \u2014 ${cell.name}`;
    facts(cell);
    scores(name);
    const places = order(cell), visible = state.every ? places : places.slice(0, FIRST);
    const cards = visible.map((place) => card(cell, place, settings));
    find(".pairs").replaceChildren(...cards.map((each) => each.article));
    const more = find(".more");
    more.hidden = visible.length === places.length;
    more.textContent = `Show all ${places.length} pairs`;
    find(".scale-note").hidden = !settings.relative;
    find(".region-note").hidden = !(settings.outlines && regionNames.length);
    find(".region-note").textContent = regionNames.map((each) => `${each}: ${lineOf(each)[2]}`).join(", ");
    await Promise.all(cards.map((each) => each.drawn));
    if (mine === turn) {
      find(".said").textContent = `Layer ${state.layer}, head ${state.head} in ${cell.name}: ` +
        `${percent(cell.values.effect[at(cell)])} of the gap; ${visible.length} pairs shown.`;
      root.dataset.shown = `${state.cell}/${state.layer}/${state.head}`;
      root.dataset.turn = String(mine);
    }
  }

  function choose(cell, layer, head, far) {
    const known = data.cells[cell];
    if (!known.layers.includes(layer) || !known.heads.includes(head)) return;
    if (cell !== state.cell && form.elements.role && known.role != null) form.elements.role.value = known.role;
    Object.assign(state, { cell, layer, head });
    form.elements.cell.value = String(cell);
    form.elements.layer.value = String(layer);
    form.elements.head.value = String(head);
    show();
    const panel = find(".browser").getBoundingClientRect();
    if (far && (panel.top > window.innerHeight * .6 || panel.bottom < 80)) {
      find(".browser").scrollIntoView({ block: "start", behavior: "auto" });
    }
  }

  root.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    if ("head" in button.dataset) {
      const map = button.closest("[data-map]");
      choose(map ? +map.dataset.map : state.cell, +button.dataset.layer, +button.dataset.head, true);
    } else if (button.classList.contains("more")) {
      state.every = true;
      show();
    } else if (button.classList.contains("back")) {
      const map = all("[data-map]").find((each) => +each.dataset.map === state.cell);
      map.scrollIntoView({ block: "center" });
      map.querySelector("button[aria-pressed=true]").focus({ preventScroll: true });
    }
  });
  root.addEventListener("keydown", walk);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("change", () =>
    choose(+form.elements.cell.value, +form.elements.layer.value, +form.elements.head.value, false));
  for (const radio of all("input[data-values]")) {
    radio.addEventListener("change", () => recolour(radio.dataset.values, radio.parentElement.textContent.trim()));
  }

  const first = data.cells[0];
  const sizes = first.values.effect.map((value) => Math.abs(value || 0));
  const best = sizes.indexOf(Math.max(...sizes));
  if (form.elements.role && first.role != null) form.elements.role.value = first.role;
  choose(0, first.layers[Math.floor(best / first.heads.length)], first.heads[best % first.heads.length], false);
}
