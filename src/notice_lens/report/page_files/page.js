// The report's behaviour: a head that is chosen in any heat map shows where it looks, over the pairs.
// `start(root, data)` is all there is: the page calls it once, the notebook's widget once for each widget. The page has its
// address to itself, so there `linked` is true: each head has a link, such as `#states-image/L2.H2`.
// Text from data only ever goes through textContent; colours are set through classes and canvases.

const FIRST = 6; // pairs that are shown before "all"
const FIRST_TOKENS = ["[CLS]", "[ENC]", "[DEC]"]; // roles that stand in front of the text

function start(root, data, linked = false) {
  const find = (selector) => root.querySelector(selector);
  const all = (selector) => [...root.querySelectorAll(selector)];
  const form = find("form.choices");
  const { draw, lineOf, looked, picture, regionNames, rolesOf } = overlays(data);
  const state = { condition: 0, layer: data.conditions[0].layers[0], head: data.conditions[0].heads[0], every: false };
  let turn = 0;

  const at = (condition) => condition.layers.indexOf(state.layer) * condition.heads.length + condition.heads.indexOf(state.head);

  // Links

  const named = data.conditions.map((condition) =>
    condition.name.toLowerCase().replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-+|-+$/g, ""));
  const slugs = named.map((name, place) => name && named.indexOf(name) === place ? name : `${name}-${place + 1}`);

  const link = () => `#${encodeURIComponent(slugs[state.condition])}/L${state.layer}.H${state.head}`;

  function followed() {
    const match = /^#(.+)\/L(\d+)\.H(\d+)$/.exec(window.location.hash);
    if (!match) return false;
    let slug = match[1];
    try { slug = decodeURIComponent(slug); } catch { return false; }
    const condition = slugs.indexOf(slug), known = data.conditions[condition];
    if (!known || !known.layers.includes(+match[2]) || !known.heads.includes(+match[3])) return false;
    choose(condition, +match[2], +match[3], false);
    find(".browser").scrollIntoView({ block: "start", behavior: "auto" });
    return true;
  }

  function address() {
    if (!linked) return;
    // A page inside of another one may have no address to change.
    try { window.history.replaceState(null, "", link()); } catch { return; }
  }

  // Heat maps

  function recolour(name, title) {
    for (const map of all("[data-map]")) {
      const condition = data.conditions[+map.dataset.map];
      // A condition without donors has one kind of effect, which is matched; it has no other number to show in its place.
      const values = condition.values[name === "map" ? condition.inMap : name] ||
        (name === "effect_mismatched" ? [] : condition.values.effect);
      map.querySelector(".ranked").textContent = name === "map" ? condition.ranked : title;
      map.querySelectorAll("button[data-head]").forEach((button, place) => {
        const value = values[place];
        button.className = button.className.replace(/\b(z|none|[pn]\d)\b/, shade(value, data.limit));
        button.textContent = value == null ? "" : String(Math.round(100 * value)).replace("-", "\u2212");
        button.dataset.label = button.dataset.label || button.getAttribute("aria-label");
        const label = name === "map" ? button.dataset.label
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
      const here = same && +button.dataset.condition === state.condition;
      button.setAttribute("aria-pressed", String(here));
      button.classList.toggle("same", same && !here);
      if (map && here) focusable(map, button);
    }
  }

  // Pairs

  function question(pair, side, role, asked) {
    const line = make("p", "question");
    const spans = pair.spans[side] || {};
    // Spans count characters as Python does, where one beyond U+FFFF is one; a JavaScript string has two units for it.
    const text = Array.from(pair.prompts[side]);
    const part = (first, last) => text.slice(first, last).join("");
    const marked = side === "clean" ? [spans[role]].filter(Boolean)
      : Object.values(spans).sort((a, b) => a[0] - b[0]);
    let from = 0;
    for (const [first, last] of marked) {
      line.append(part(from, first), make("mark", "", part(first, last)));
      from = last;
    }
    line.append(part(from));
    // A role of the tokenizer's, such as [CLS], is no word of the text: it stands in front of it or behind it.
    if (side === "clean" && role != null && role !== "all" && asked.includes(role) && !spans[role]) {
      const mark = make("mark", "", role);
      if (FIRST_TOKENS.includes(role)) line.prepend(mark, " ");
      else if (role === "?" && text.at(-1) === "?") line.lastChild.replaceWith(part(from, -1), make("mark", "", "?"));
      else line.append(" ", mark);
    }
    return line;
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
      const said = [...parts, `${data.attention.beside} ${share(look.token)}`];
      said.forEach((text) => caption.append(make("span", "", text)));
      alt += `: L${state.layer}.H${state.head} looks most at row ${Math.floor(best / columns) + 1}, column ` +
        `${best % columns + 1} (${share(look.raw[best])}); ${said.join("; ")}`;
    } else if (data.attention) caption.append(make("span", "", "no attention map: the question has no such word"));
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", alt);
    figure.append(canvas, caption);
    const drawn = picture(pair.pictures[side]).then((image) =>
      draw(canvas, image, look, limit, relative, outlines ? regions : {}));
    return { figure, drawn };
  }

  function card(condition, place, settings) {
    const number = condition.shown[place], pair = data.pairs[number];
    const effect = condition.byPair[place][at(condition)];
    const article = make("article", "pair");
    const header = make("header");
    header.append(make("span", "what", pair.group === pair.task ? pair.task : `${pair.task} \u00b7 ${pair.group}`),
      make("span", "effect", `this head: ${percent(effect, 0)}`));
    header.title = pair.id;
    article.append(header, question(pair, "clean", settings.name, rolesOf(number)));
    if (condition.runs.includes("text") && pair.prompts.corrupt) article.append(question(pair, "corrupt", settings.name));
    const looks = condition.runs.map((run) => looked(state, number, run, settings.role, settings.relative));
    const limit = Math.max(...looks.flatMap((look) => look ? [...look.shown].map(Math.abs) : [0])) || 1;
    const views = make("div", "views");
    const found = condition.runs.map((run, i) => view(pair, number, run, looks[i], limit, settings.relative, settings.outlines));
    found.forEach((each) => views.append(each.figure));
    article.append(views);
    return { article, drawn: Promise.all(found.map((each) => each.drawn)) };
  }

  // The browser

  function order(condition) {
    const places = condition.shown.map((_, place) => place);
    if (form.elements.order.value !== "effect") return places;
    const size = (place) => condition.byPair[place][at(condition)] ?? -Infinity;
    return places.sort((a, b) => size(b) - size(a));
  }

  function facts(condition) {
    const place = at(condition), values = condition.values, list = find(".facts");
    list.replaceChildren();
    const say = (name, text) => {
      const group = make("div");
      group.append(make("dt", "", name), make("dd", "", text));
      list.append(group);
    };
    const shown = (name, low = `${name}_low`, high = `${name}_high`) => percent(values[name][place]) +
      (values[low] && values[low][place] != null ? ` [${signed(values[low][place])}, ${signed(values[high][place])}]` : "");
    const ranked = shown("effect", "low", "high"), carried = condition.of !== "the gap";
    const inMap = condition.inMap === "effect" ? ranked : shown(condition.inMap);
    say(condition.ranked, inMap);
    if (values.effect_matched && condition.ranked !== "matched") say("matched", shown("effect_matched"));
    if (values.effect_mismatched) say("mismatched", shown("effect_mismatched"));
    if (carried && inMap !== ranked) say("of what the donor leaves", ranked);
    const tested = values.p && values.p[place] != null;
    if (values.p) {
      const numbers = [values.p, values.q].filter(Boolean).map((each) => small(each[place]));
      say(values.q ? "p, q" : "p", tested ? numbers.join(", ") : "not tested");
    }
    const rules = [["significant", "significant"], ["two_sigma", "two-sigma rule"]].filter(([key]) => values[key]);
    const verdict = ([key, text]) => key === "significant" && values.p && !tested ? "significance not tested,"
      : (values[key][place] ? "\u2713 " : "\u2717 ") + text;
    if (rules.length) say("rules", rules.map(verdict).join(" "));
    const labels = data.labels.filter((row) =>
      row.layer === state.layer && row.head === state.head && row.conditions.includes(state.condition));
    if (labels.length) say("function", [...new Set(labels.map((row) => row.label))].join(", "));
  }

  function scores(role) {
    const table = find(".scores");
    table.replaceChildren();
    for (const found of data.functions.filter((each) => each.conditions.includes(state.condition))) {
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
    const mine = ++turn, condition = data.conditions[state.condition];
    const name = form.elements.role ? form.elements.role.value : null;
    const role = data.attention ? data.attention.roles.indexOf(name) : -1;
    const settings = { name, role, relative: form.elements.scale.value === "relative", outlines: form.elements.regions.checked };
    mark();
    const title = `L${state.layer}.H${state.head} \u2014 ${condition.name}`, chosen = find(".chosen");
    chosen.replaceChildren(linked ? Object.assign(make("a", "", title), { href: link(), title: "a link to this head" }) : title);
    facts(condition);
    scores(name);
    const places = order(condition), visible = state.every ? places : places.slice(0, FIRST);
    const cards = visible.map((place) => card(condition, place, settings));
    find(".pairs").replaceChildren(...cards.map((each) => each.article));
    const more = find(".more");
    more.hidden = visible.length === places.length;
    more.textContent = `Show all ${places.length} pairs`;
    find(".scale-note").hidden = !settings.relative;
    find(".region-note").hidden = !(settings.outlines && regionNames.length);
    find(".region-note").textContent = regionNames.map((each) => `${each}: ${lineOf(each)[2]}`).join(", ");
    await Promise.all(cards.map((each) => each.drawn));
    if (mine === turn) {
      find(".said").textContent = `Layer ${state.layer}, head ${state.head} in ${condition.name}: ` +
        `${percent(condition.values[condition.inMap][at(condition)])} of ${condition.inMap === "effect" ? condition.of : "the gap"}; ${visible.length} pairs shown.`;
      root.dataset.shown = `${state.condition}/${state.layer}/${state.head}`;
      root.dataset.turn = String(mine);
    }
  }

  // Asks at the word at which a condition's effects are read, where its attention was kept; of all positions at a word of
  // the questions, not at [CLS].
  function readAt(role) {
    const roles = form.elements.role ? [...form.elements.role.options].map((option) => option.value) : [];
    const word = roles.find((name) => data.pairs.some((pair) => name in pair.spans.clean));
    const found = [role, "correct", word].find((name) => roles.includes(name));
    if (found != null) form.elements.role.value = found;
  }

  function choose(condition, layer, head, far) {
    const known = data.conditions[condition];
    // Conditions may have other layers and heads: where one lacks the chosen head, what was shown stays.
    if (known.layers.includes(layer) && known.heads.includes(head)) {
      if (condition !== state.condition) readAt(known.role);
      Object.assign(state, { condition, layer, head });
    }
    ({ condition, layer, head } = state);
    form.elements.condition.value = String(condition);
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
      choose(+button.dataset.condition, +button.dataset.layer, +button.dataset.head, true);
      address();
    } else if (button.classList.contains("more")) {
      state.every = true;
      show();
    } else if (button.classList.contains("back")) {
      const map = all("[data-map]").find((each) => +each.dataset.map === state.condition);
      map.scrollIntoView({ block: "center" });
      map.querySelector("button[aria-pressed=true]").focus({ preventScroll: true });
    }
  });
  root.addEventListener("keydown", walk);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("change", () => {
    choose(+form.elements.condition.value, +form.elements.layer.value, +form.elements.head.value, false);
    address();
  });
  for (const radio of all("input[data-values]")) {
    radio.addEventListener("change", () => recolour(radio.dataset.values, radio.parentElement.textContent.trim()));
  }

  // The strongest head of all is shown first: the one that the headline names, in a condition that was tested if any was.
  const tested = data.conditions.some((condition) => condition.tested);
  const largest = (condition) => tested && !condition.tested ? -1
    : Math.max(...condition.values.effect.map((value) => Math.abs(value || 0)));
  const sizes = data.conditions.map(largest);
  const strongest = sizes.indexOf(Math.max(...sizes)), first = data.conditions[strongest];
  const best = first.values.effect.findIndex((value) => Math.abs(value || 0) === sizes[strongest]);
  readAt(first.role);
  if (linked) window.addEventListener("hashchange", followed);
  if (linked && followed()) return;
  choose(strongest, first.layers[Math.floor(best / first.heads.length)], first.heads[best % first.heads.length], false);
}
