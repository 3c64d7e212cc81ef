// Where the queries of a picture looked, drawn over the square that the model sees.

const VEIL = [10, 14, 18]; // red, green and blue over what it passed by
const GLOW = [255, 170, 50]; // over what it looked at
const DENSE = 0.74; // the veil's greatest alpha
const FAINT = 0.3; // the glow's
const SPREAD = 0.6; // below 1, for a few cells take most of the attention and would be all one sees

/** Return the answer of /v1/attention as `{rows, columns, values}`, query after query. */
export function readGrid({ shape, data }) {
  const bytes = Uint8Array.from(atob(data), (character) => character.charCodeAt(0));
  const view = new DataView(bytes.buffer);
  const values = Float32Array.from({ length: bytes.length / 4 }, (_, i) => view.getFloat32(4 * i, true));
  return { rows: shape[1], columns: shape[2], values };
}

/** Draw one query's map; the browser smooths it as it grows to the picture's size. */
export function drawHeat(canvas, { rows, columns, values }, query) {
  const size = rows * columns;
  const map = values.subarray(query * size, (query + 1) * size);
  const [least, most] = [Math.min(...map), Math.max(...map)];
  const pixels = new ImageData(columns, rows);
  map.forEach((value, i) => {
    const share = most > least ? ((value - least) / (most - least)) ** SPREAD : 0;
    const [veil, glow] = [DENSE * (1 - share), FAINT * share ** 3];
    const alpha = veil + glow;
    const mixed = VEIL.map((dark, channel) => (dark * veil + GLOW[channel] * glow) / alpha);
    pixels.data.set([...mixed, 255 * alpha], 4 * i);
  });
  canvas.width = columns;
  canvas.height = rows;
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  canvas.hidden = false;
}
