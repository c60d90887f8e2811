// Where heads look: attention maps out of the page's data, painted over their images.
// Each stop of a scale is a share of the largest value, red, green, blue and opacity.

const HEAT = [[0, 12, 8, 38, .52], [.35, 120, 28, 109, .6], [.65, 237, 105, 37, .68], [1, 252, 250, 150, .8]];
const MORE = [[0, 250, 250, 250, .08], [1, 214, 90, 10, .85]];
const LESS = [[0, 250, 250, 250, .08], [1, 31, 78, 158, .85]];
const LINES = [["#ffffff", [], "solid"], ["#ffe08a", [6, 4], "dashed"], ["#9be7ff", [2, 3], "dotted"],
  ["#ffb3c7", [9, 3, 2, 3], "dash-dotted"]];

function bytes(text) {
  return Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
}

function colour(stops, share) {
  const next = Math.max(1, stops.findIndex((stop) => stop[0] >= share));
  const [a, b] = [stops[next - 1], stops[next]];
  const t = (share - a[0]) / (b[0] - a[0]);
  const mixed = a.map((value, place) => value + t * (b[place] - value));
  return `rgba(${mixed.slice(1, 4).map(Math.round).join(",")},${mixed[4].toFixed(3)})`;
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

function inRegion(look, bits) {
  let sum = 0;
  look.raw.forEach((value, patch) => { if (bits[patch] === "1") sum += value; });
  return sum;
}

// What the pairs' browser needs of attention: maps of a head, pictures, and both on a canvas.
function overlays(data) {
  const regionNames = [...new Set(data.pairs.flatMap((pair) => Object.values(pair.regions).flatMap(Object.keys)))]
    .filter((name) => name !== "background");
  const lineOf = (name) => LINES[regionNames.indexOf(name) % LINES.length];
  const pictures = new Map();
  const decoded = new Map();

  function mapsOf(pair, run) {
    const key = pair + "/" + run;
    if (!decoded.has(key)) {
      const packed = data.attention && (data.attention.maps[pair] || {})[run];
      decoded.set(key, packed ? { roles: packed.roles, patches: bytes(packed.patches),
        sizes: new DataView(bytes(packed.sizes).buffer) } : null);
    }
    return decoded.get(key);
  }

  // The map of the chosen head, or null: what each patch gets, and what lies on none.
  function looked(chosen, pair, run, role, relative) {
    const maps = mapsOf(pair, run);
    const row = maps ? maps.roles.indexOf(role) : -1;
    if (row < 0) return null;
    const { layers, heads, grid } = data.attention;
    const count = layers.length * heads.length, patches = grid[0] * grid[1];
    const number = layers.indexOf(chosen.layer) * heads.length + heads.indexOf(chosen.head);
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

  // The roles at which a pair has maps.
  function rolesOf(pair) {
    const runs = data.attention ? Object.values(data.attention.maps[pair] || {}) : [];
    return runs.flatMap((run) => run.roles.map((role) => data.attention.roles[role]));
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

  return { draw, lineOf, looked, picture, regionNames, rolesOf };
}
