// Detects in one photo: node in_node.js best.onnx photo.jpg      a line of JSON for every object
import { readFile } from "node:fs/promises";
import * as ort from "onnxruntime-web";
import sharp from "sharp";
import { detect, open } from "./detect.js";

const [weights, photo] = process.argv.slice(2);
ort.env.wasm.numThreads = 1;
const model = await open(ort, new Uint8Array(await readFile(weights)));
// Turned as its EXIF block says: RGBA bytes, row by row.
const { data, info } = await sharp(photo).rotate().ensureAlpha().raw().toBuffer({ resolveWithObject: true });
for (const found of await detect(model, { ...info, data })) console.log(JSON.stringify(found));
