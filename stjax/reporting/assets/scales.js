// Colour scales that people who confuse colours can read, and the values of a section unpacked.

// Matplotlib's viridis (public domain, CC0) at every sixteenth of its length.
const VIRIDIS = ["440154", "481a6c", "472f7d", "414487", "39568c", "31688e", "2a788e", "23888e", "1f988b", "22a884", "35b779", "54c568", "7ad151", "a5db36", "d2e21b", "fde725"];
// Blue to orange through a light grey: told apart with every kind of colour blindness, and as dark on one side as on the other.
const DIVERGING = ["0b3a6f", "1f5f9f", "4a8bc2", "8db8dc", "c9dcec", "f1f0ed", "f0d5ba", "dea975", "ba7733", "8c4d12", "5c2e06"];

/** 256 colours through some, in linear steps of sRGB, as [r, g, b] and as CSS. */
function colours(stops) {
  const parsed = stops.map((stop) => [0, 2, 4].map((place) => parseInt(stop.slice(place, place + 2), 16)));
  return Array.from({ length: 256 }, (_, i) => {
    const place = i / 255 * (parsed.length - 1), from = Math.min(parsed.length - 2, Math.floor(place)), share = place - from;
    return `rgb(${parsed[from].map((value, channel) => Math.round(value + share * (parsed[from + 1][channel] - value))).join(" ")})`;
  });
}

const SCALES = { values: colours(VIRIDIS), difference: colours(DIVERGING) };

function bytesOf(key) {
  return Uint8Array.from(atob(document.getElementById(`blob-${key}`).textContent), (letter) => letter.charCodeAt(0));
}

const unpacked = new Map();

/** The codes of a layer, gene after gene; each is inflated once. */
async function codesOf(key) {
  if (!unpacked.has(key)) {
    const stream = new Blob([bytesOf(key)]).stream().pipeThrough(new DecompressionStream("deflate"));
    const buffer = await new Response(stream).arrayBuffer();
    unpacked.set(key, page.bits === 16 ? new Uint16Array(buffer) : new Uint8Array(buffer));
  }
  return unpacked.get(key);
}

/** The values of one gene in a layer, NaN where there is none. `place` counts the genes that have maps. */
async function valuesOf(layer, place, spots) {
  const codes = await codesOf(layer.codes);
  const [low, high] = [layer.low[place], layer.high[place]];
  const steps = 2 ** page.bits - 2;
  return Float64Array.from({ length: spots }, (_, spot) => {
    const code = codes[place * spots + spot];
    return code ? low + (code - 1) / steps * (high - low) : NaN;
  });
}

/** The value below which a share of them lies. */
function quantile(values, share) {
  const sorted = [...values].filter(Number.isFinite).sort((a, b) => a - b);
  if (!sorted.length) return NaN;
  const place = share * (sorted.length - 1), from = Math.floor(place);
  return sorted[from] + (place - from) * ((sorted[from + 1] ?? sorted[from]) - sorted[from]);
}

const images = new Map();

/** A section's picture, and the same in grey. */
async function pictureOf(section) {
  if (!images.has(section.image)) {
    const image = new Image();
    image.src = `data:image/jpeg;base64,${document.getElementById(`blob-${section.image}`).textContent}`;
    await image.decode();
    const grey = element("canvas", { width: image.naturalWidth, height: image.naturalHeight });
    const context = grey.getContext("2d", { willReadFrequently: true });
    context.drawImage(image, 0, 0);
    const pixels = context.getImageData(0, 0, grey.width, grey.height);
    for (let i = 0; i < pixels.data.length; i += 4) {
      const light = 0.3 * pixels.data[i] + 0.59 * pixels.data[i + 1] + 0.11 * pixels.data[i + 2];
      pixels.data[i] = pixels.data[i + 1] = pixels.data[i + 2] = light;
    }
    context.putImageData(pixels, 0, 0);
    images.set(section.image, { colour: image, grey });
  }
  return images.get(section.image);
}
