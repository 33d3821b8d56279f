// Detects in one image with onnxruntime-web, in a browser or in Node: no server, and nothing of this project.
//
//   const model = await open(ort, bytes);                  // bytes: Uint8Array of best.onnx, as export.py writes it
//   const found = await detect(model, image);              // image: {width, height, data} with RGBA bytes
//   // [{label, name, score, box: [x1, y1, x2, y2]}], pixels of the image, best first
//
// Class names, size and layout are read from the file's metadata. Files with --layout nms find their boxes themselves.

export const CONFIDENCE = 0.25, NMS_IOU = 0.45, MOST = 300;
const GREY = 114;

export async function open(ort, bytes) {
  const metadata = readMetadata(bytes);
  if (!["decoded", "nms"].includes(metadata.layout)) {
    throw new Error(`expected a file of export.py with --layout decoded or nms, not ${metadata.layout ?? "of others"}`);
  }
  if (metadata.batch !== "1" && metadata.any_size !== "True") {
    throw new Error(`expected a file for one image at a time, not for ${metadata.batch}`);
  }
  const [height, width] = JSON.parse(metadata.imgsz);
  const session = await ort.InferenceSession.create(bytes);
  return { ort, session, height, width, names: readNames(metadata.names), layout: metadata.layout };
}

export async function detect(model, image, confidence = CONFIDENCE, nmsIou = NMS_IOU, most = MOST) {
  const { ort, session, height, width } = model;
  const place = letterbox(image, height, width);
  const given = new ort.Tensor("float32", place.pixels, [1, 3, height, width]);
  const outputs = await session.run({ [session.inputNames[0]]: given });
  const found = model.layout === "nms" ? finished(outputs, confidence) : candidates(outputs.output0, confidence);
  const kept = model.layout === "nms" ? found : suppress(found, nmsIou);
  return kept.slice(0, most).map(({ box, score, label }) => ({
    label,
    name: model.names[label],
    score,
    box: box.map((value, side) => {
      const [offset, ratio, end] = side % 2
        ? [place.top, place.innerHeight / image.height, image.height]
        : [place.left, place.innerWidth / image.width, image.width];
      return Math.min(Math.max((value - offset) / ratio, 0), end);
    }),
  }));
}

// The photo at the largest scale that fits, centred on grey: channels, rows, columns of RGB from 0 to 1.
export function letterbox(image, height, width) {
  const scale = Math.min(height / image.height, width / image.width);
  const innerHeight = Math.max(roundHalfToEven(image.height * scale), 1);
  const innerWidth = Math.max(roundHalfToEven(image.width * scale), 1);
  const left = Math.floor((width - innerWidth) / 2), top = Math.floor((height - innerHeight) / 2);
  const columns = weights(image.width, innerWidth, scale), rows = weights(image.height, innerHeight, scale);
  const pixels = new Float32Array(3 * height * width).fill(GREY / 255);
  const line = new Float64Array(3 * image.width);
  for (let y = 0; y < innerHeight; y++) {
    line.fill(0);
    for (const [row, weight] of rows[y]) {
      for (let x = 0, from = row * image.width * 4; x < image.width; x++, from += 4) {
        for (let channel = 0; channel < 3; channel++) line[3 * x + channel] += weight * image.data[from + channel];
      }
    }
    for (let x = 0; x < innerWidth; x++) {
      for (let channel = 0; channel < 3; channel++) {
        let sum = 0;
        for (const [column, weight] of columns[x]) sum += weight * line[3 * column + channel];
        pixels[(channel * height + top + y) * width + left + x] = Math.round(sum) / 255; // half up, as OpenCV halves a photo
      }
    }
  }
  return { pixels, left, top, innerHeight, innerWidth };
}

// For every pixel of a line of `to`: the pixels of the line of `from` that it is made of, with their shares. Shrunk, it
// is the mean of what it covers; enlarged, it lies between the two nearest. A canvas would do neither.
function weights(from, to, scale) {
  const step = from / to;
  return Array.from({ length: to }, (_, place) => {
    if (from === to) return [[place, 1]];
    if (scale >= 1) {
      const center = Math.min(Math.max((place + 0.5) * step - 0.5, 0), from - 1);
      const low = Math.floor(center), share = center - low;
      return share ? [[low, 1 - share], [low + 1, share]] : [[low, 1]];
    }
    const start = place * step, end = Math.min(start + step, from), parts = [];
    for (let pixel = Math.floor(start); pixel < end; pixel++) {
      const share = (Math.min(pixel + 1, end) - Math.max(pixel, start)) / (end - start);
      if (share > 1e-9) parts.push([pixel, share]);
    }
    return parts;
  });
}

export function roundHalfToEven(value) {
  const low = Math.floor(value), rest = value - low;
  return rest < 0.5 || (rest === 0.5 && low % 2 === 0) ? low : low + 1;
}

// Boxes whose best class scores more than `confidence`, of decoded outputs (1, 4 + C, A): cx, cy, w, h, class scores.
function candidates({ data, dims: [, rows, anchors] }, confidence) {
  const found = [];
  for (let anchor = 0; anchor < anchors; anchor++) {
    let label = 0;
    for (let row = 1; row < rows - 4; row++) {
      if (data[(4 + row) * anchors + anchor] > data[(4 + label) * anchors + anchor]) label = row;
    }
    const score = data[(4 + label) * anchors + anchor];
    if (score > confidence) {
      const [x, y, w, h] = [0, 1, 2, 3].map((row) => data[row * anchors + anchor]);
      found.push({ label, score, box: [x - w / 2, y - h / 2, x + w / 2, y + h / 2] });
    }
  }
  return found;
}

// The best box first, without those of its class that overlap it by more than `limit`; then the next.
export function suppress(found, limit) {
  const kept = [];
  for (const each of [...found].sort((one, other) => other.score - one.score)) {
    if (!kept.some((best) => best.label === each.label && iou(best.box, each.box) > limit)) kept.push(each);
  }
  return kept;
}

function iou(one, other) {
  const width = Math.min(one[2], other[2]) - Math.max(one[0], other[0]);
  const height = Math.min(one[3], other[3]) - Math.max(one[1], other[1]);
  if (width <= 0 || height <= 0) return 0;
  const area = (box) => (box[2] - box[0]) * (box[3] - box[1]);
  return (width * height) / (area(one) + area(other) - width * height);
}

// Outputs of a file with NMS, whose own limits were set by export.py.
function finished({ boxes, scores, labels, count }, confidence) {
  const rows = Array.from({ length: Number(count.data[0]) }, (_, row) => row);
  return rows
    .map((row) => ({
      label: Number(labels.data[row]),
      score: scores.data[row],
      box: Array.from(boxes.data.slice(4 * row, 4 * row + 4)),
    }))
    .filter(({ score }) => score >= confidence);
}

// What an ONNX file says about itself: field 14 of the protobuf message, pairs of key (1) and value (2).
// onnxruntime-web reads it too, but tells nobody.
export function readMetadata(bytes) {
  const found = {};
  for (const [field, part] of fields(bytes)) {
    if (field === 14) {
      const pair = Object.fromEntries(fields(part));
      const [key, value] = [pair[1], pair[2]].map((text) => new TextDecoder().decode(text ?? new Uint8Array()));
      found[key] = value;
    }
  }
  return found;
}

function* fields(bytes) {
  const SKIPPED = { 1: 8, 5: 4 }; // fixed widths
  let place = 0;
  const number = () => {
    let value = 0;
    for (let power = 1; ; power *= 128) {
      if (place >= bytes.length) throw new Error("not an ONNX file, or damaged");
      const byte = bytes[place++];
      value += (byte & 127) * power;
      if (byte < 128) return value;
    }
  };
  while (place < bytes.length) {
    const tag = number(), field = Math.floor(tag / 8), kind = tag % 8;
    if (kind === 0) number();
    else if (kind === 2) {
      const length = number();
      if (place + length > bytes.length) throw new Error("not an ONNX file, or damaged");
      yield [field, bytes.subarray(place, place + length)];
      place += length;
    } else if (kind in SKIPPED) place += SKIPPED[kind];
    else throw new Error("not an ONNX file, or damaged");
  }
}

// Class names as Python writes a dictionary: {0: 'cat', 1: "child's bed"}.
export function readNames(text) {
  const names = [];
  for (const [, number, quoted] of text.matchAll(/(\d+): ('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")/g)) {
    names[Number(number)] = quoted
      .slice(1, -1)
      .replace(/\\(?:x([0-9a-f]{2})|u([0-9a-f]{4})|U([0-9a-f]{8})|(.))/g, (_, x, u, long, other) =>
        other ? { n: "\n", r: "\r", t: "\t" }[other] ?? other : String.fromCodePoint(parseInt(x ?? u ?? long, 16)));
  }
  return names;
}
