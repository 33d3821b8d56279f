"""examples/web: its parts in Node alone, and the whole with onnxruntime-web in Node and in headless Chromium."""

import functools
import http.server
import json
import shutil
import subprocess
import threading
from urllib.parse import urlsplit

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torchvision.ops import batched_nms

from detect import load
from export import export
from tests.paths import ROOT, SHARED_DATA, needs_shared_data
from utils.letterbox import Letterbox

WEB = ROOT / "examples" / "web"
NODE, NPM = shutil.which("node"), shutil.which("npm")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_node = pytest.mark.skipif(not NODE, reason="needs node")
QUIET = ["--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
QUIET += ["--disable-component-update", "--disable-sync"]
# Opens the page, waits for what it has found, and says which hosts it asked.
BROWSE = """
import puppeteer from "puppeteer-core";
const [executablePath, userDataDir, address, picture, ...args] = process.argv.slice(2);
const browser = await puppeteer.launch({ executablePath, userDataDir, args, headless: true });
const page = await browser.newPage();
const asked = new Set();
page.on("request", (request) => asked.add(new URL(request.url()).host));
await page.setViewport({ width: 1000, height: 1100 });
await page.goto(address);
await page.waitForFunction("window.detections || document.getElementById('said').textContent.startsWith('That')");
const [found, said] = await page.evaluate("[window.detections, document.getElementById('said').textContent]");
await page.screenshot({ path: picture });
await browser.close();
console.log(JSON.stringify({ found, said, asked: [...asked] }));
"""


def in_node(script, folder):
    """What a script, which has all of detect.js as `it`, gives as `answer`."""
    path = folder / "script.mjs"
    text = f"import * as it from {json.dumps(WEB.joinpath('detect.js').as_uri())};\n"
    text += 'import { readFileSync } from "node:fs";\n' + script + "\nconsole.log(JSON.stringify(answer));\n"
    path.write_text(text, "utf-8")
    done = subprocess.run([NODE, str(path)], capture_output=True, text=True, cwd=folder, check=False)
    assert not done.returncode, done.stderr
    return json.loads(done.stdout)


@needs_node
def test_metadata_and_names_are_read_from_the_file(tmp_path):
    names = dict(enumerate(["cat", "child's bed", 'say "a"', 'it\'s "b"', "back\\slash", "naïve 猫 🐈", "two\nlines"]))
    shape = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    given = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    model = helper.make_model(helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [shape], [given]))
    helper.set_model_props(model, {"names": str(names), "imgsz": "[64, 96]", "empty": ""})
    onnx.save(model, str(tmp_path / "a.onnx"))
    script = 'const read = it.readMetadata(readFileSync("a.onnx")); const answer = [read, it.readNames(read.names)];'
    found = in_node(script, tmp_path)
    assert found == [{"names": str(names), "imgsz": "[64, 96]", "empty": ""}, list(names.values())]


@needs_node
def test_what_it_cannot_run_is_an_error_that_says_so(tmp_path):
    script = """
    const text = (metadata) => Uint8Array.from(Object.entries(metadata).flatMap(([key, value]) => {
      const part = (field, text) => [field * 8 + 2, text.length, ...new TextEncoder().encode(text)];
      const pair = [...part(1, key), ...part(2, value)];
      return [14 * 8 + 2, pair.length, ...pair];
    }));
    const said = (bytes) => it.open({}, bytes).catch((error) => error.message);
    const answer = await Promise.all([
      said(text({})), said(text({ layout: "raw" })), said(text({ layout: "nms", batch: "2" })),
      said(new TextEncoder().encode("hello world")),
    ]);
    """
    of_others, raw, batch, damaged = in_node(script, tmp_path)
    assert "with --layout decoded or nms, not of others" in of_others
    assert raw.endswith("not raw")
    assert batch == "expected a file for one image at a time, not for 2"
    assert damaged == "not an ONNX file, or damaged"


@needs_node
@pytest.mark.parametrize(
    ("original", "size"),
    [((48, 64), (64, 64)), ((101, 67), (32, 64)), ((64, 96), (64, 96)), ((37, 5), (64, 96)), ((96, 128), (64, 64))],
)
def test_letterbox_is_that_of_detect(original, size, tmp_path):
    """To one level of 255: OpenCV computes with rounded shares where it enlarges."""
    image = np.random.default_rng(0).integers(0, 256, (*original, 3), np.uint8)
    np.dstack([image, np.full(original, 255, np.uint8)]).tofile(tmp_path / "rgba")
    (height, width), (to_height, to_width) = original, size
    script = f"""
    const image = {{ width: {width}, height: {height}, data: readFileSync("rgba") }};
    const answer = Array.from(it.letterbox(image, {to_height}, {to_width}).pixels);
    """
    found = np.array(in_node(script, tmp_path)).reshape(3, *size).transpose(1, 2, 0) * 255
    expected = Letterbox.fit(original, size).apply(image)
    assert np.abs(found - expected).max() <= 1 + 1e-3
    assert (np.abs(found - expected) < 1e-3).mean() > 0.9


@needs_node
def test_suppression_is_torchvisions(tmp_path):
    random = np.random.default_rng(1)
    corners = random.uniform(0, 60, (120, 2))
    boxes = np.concatenate([corners, corners + random.uniform(5, 40, (120, 2))], 1)
    scores, labels = random.permutation(120) / 120, random.integers(0, 3, 120)
    rows = zip(boxes.tolist(), scores.tolist(), labels.tolist(), strict=True)
    given = [{"box": box, "score": score, "label": label} for box, score, label in rows]
    found = in_node(f"const answer = it.suppress({json.dumps(given)}, 0.45).map(({{ score }}) => score);", tmp_path)
    kept = batched_nms(*map(torch.from_numpy, (boxes, scores, labels)), 0.45)
    assert found == scores[kept.numpy()].tolist()


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A copy of the example with its packages, real weights in both layouts that it takes, and a photo."""
    if not NPM:
        pytest.skip("needs npm")
    folder = tmp_path_factory.mktemp("web")
    for file in WEB.iterdir():
        if file.is_file():
            shutil.copy(file, folder)
    install = [NPM, "install", "--no-audit", "--no-fund", "--ignore-scripts", "puppeteer-core@24.10.0"]
    done = subprocess.run(install, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"npm install: {done.stderr.strip().splitlines()[-1]}")
    weights = SHARED_DATA / "checkpoints" / "ultralytics-yolov3-tiny-bccd.pt"
    for layout in ("decoded", "nms"):
        export(weights=str(weights), imgsz=[320], layout=layout, output=str(folder / f"{layout}.onnx"))
    shutil.copy(SHARED_DATA / "bccd" / "JPEGImages" / "BloodImage_00007.jpg", folder / "photo.jpg")
    (folder / "browse.mjs").write_text(BROWSE)
    return folder


@pytest.fixture(scope="module")
def expected(site):
    """What detect.py finds with the same file."""
    (found,) = load(site / "decoded.onnx")(str(site / "photo.jpg"))
    assert len(found) > 5
    return found


def check(found, expected):
    assert [each["name"] for each in found] == [expected.names[int(label)] for label in expected.boxes.cls]
    np.testing.assert_allclose([each["box"] for each in found], expected.boxes.xyxy.numpy(), atol=1)
    np.testing.assert_allclose([each["score"] for each in found], expected.boxes.conf.numpy(), atol=0.01)


@needs_node
@needs_shared_data
@pytest.mark.slow
@pytest.mark.parametrize("layout", ["decoded", "nms"])
def test_node_finds_what_detect_finds(layout, site, expected):
    done = subprocess.run(
        [NODE, "in_node.js", f"{layout}.onnx", "photo.jpg"], cwd=site, capture_output=True, text=True, check=False
    )
    assert not done.returncode, done.stderr
    check([json.loads(line) for line in done.stdout.splitlines()], expected)


@needs_node
@needs_shared_data
@pytest.mark.slow
@pytest.mark.skipif(not CHROMIUM, reason="needs chromium")
@pytest.mark.parametrize("layout", ["decoded", "nms"])
def test_the_page_finds_what_detect_finds(layout, site, expected, tmp_path):
    handler = functools.partial(Silent, directory=str(site))
    with http.server.ThreadingHTTPServer(("localhost", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://localhost:{server.server_port}/index.html?weights={layout}.onnx&photo=photo.jpg"
        given = [CHROMIUM, str(tmp_path / "profile"), address, str(tmp_path / "page.png"), "--no-sandbox", *QUIET]
        done = subprocess.run(
            [NODE, "browse.mjs", *given], cwd=site, capture_output=True, text=True, check=False, timeout=120
        )
        server.shutdown()
    assert not done.returncode, done.stderr
    answer = json.loads(done.stdout)
    check(answer["found"], expected)
    assert answer["said"].startswith(f"{len(expected)} objects in ")
    assert answer["asked"] == [urlsplit(address).netloc]  # no other host was asked for anything
    assert (tmp_path / "page.png").stat().st_size > 10_000


class Silent(http.server.SimpleHTTPRequestHandler):
    """A static server that prints nothing."""

    def log_message(self, *_):
        """Leave the line out."""
