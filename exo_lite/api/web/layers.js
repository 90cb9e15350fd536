// One strip of layers per model: whose they are by colour, how they are by pattern and word.

import { setHue } from "./colors.js";
import { byId, element, part, patchChildren, setAttribute, setProperty, setText } from "./dom.js";
import { bytes, layerCount, layerRange, milliseconds, rate } from "./format.js";
import { drawSparkline } from "./sparkline.js";
import { createTrace, updateTrace } from "./trace.js";
import { isServing, toneOf } from "./verdict.js";

export function showModels(models) {
  byId("models-section").hidden = models.length === 0;
  patchChildren(byId("models"), models, { key: (model) => model.id, create: createModel, update: updateModel });
}

/** Shards in layer order, with a `missing` one for every gap; overlaps are cut off the later one. */
export function segmentsOf(model) {
  const segments = [];
  let next = 0;
  const gap = (end) => segments.push({ node_id: "", node: "", state: "missing", start_layer: next, end_layer: end });
  for (const shard of [...model.shards].sort((one, other) => one.start_layer - other.start_layer)) {
    if (shard.end_layer < next) continue;
    if (shard.start_layer > next) gap(shard.start_layer - 1);
    segments.push({ ...shard, start_layer: Math.max(next, shard.start_layer) });
    next = shard.end_layer + 1;
  }
  if (next < model.n_layers) gap(model.n_layers - 1);
  return segments;
}

function createModel() {
  return element(
    "article",
    { class: "card model", "data-testid": "model" },
    element(
      "header",
      {},
      element("h3", { "data-part": "name" }),
      element("span", { class: "chip", "data-part": "state" }),
      element("p", { class: "options", "data-part": "options" }),
      element("div", { class: "speed", "data-part": "speed" }, sparkline(), element("span", { class: "number", "data-part": "rate" })),
    ),
    element("div", { class: "strip", role: "img", "data-part": "strip", "data-testid": "strip" }),
    element(
      "p",
      { class: "axis", "aria-hidden": "true" },
      element("span", { text: "layer 0" }),
      element("span", { "data-part": "last" }),
    ),
    element("ul", { class: "stages", "data-part": "stages" }),
    createTrace(),
  );
}

function sparkline() {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("class", "sparkline");
  svg.setAttribute("data-part", "sparkline");
  svg.setAttribute("aria-hidden", "true");
  return svg;
}

function updateModel(node, model) {
  const segments = segmentsOf(model);
  setAttribute(node, "data-model", model.id);
  setText(part(node, "name"), model.id);
  setText(part(node, "state"), model.state);
  setAttribute(part(node, "state"), "data-tone", toneOf(model.state));
  const quant = model.quant && model.quant !== "none" ? [model.quant] : [];
  setText(part(node, "options"), [model.dtype, ...quant, `context ${model.context_length}`, `epoch ${model.epoch}`].join(" · "));
  part(node, "speed").hidden = !isServing(model);
  setText(part(node, "rate"), rate(model.tokens_per_second));
  drawSparkline(part(node, "sparkline"), model.id, model.tokens_per_second);
  setText(part(node, "last"), String(model.n_layers - 1));
  setAttribute(part(node, "strip"), "aria-label", segments.map(spoken).join(", "));
  const keyed = { key: (segment) => `${segment.node_id} ${segment.start_layer} ${segment.state === "missing"}` };
  patchChildren(part(node, "strip"), segments, { ...keyed, create: createSegment, update: updateSegment });
  patchChildren(part(node, "stages"), segments, { ...keyed, create: createStage, update: updateStage });
  updateTrace(node, model);
}

const stateText = (segment) =>
  segment.state === "loading" ? `loading ${Math.floor(100 * segment.progress)} %` : segment.state;

/** Bytes for a shard that is there, else what keeps it from being there. */
const labelOf = (segment) =>
  `${layerRange(segment)} (${layerCount(segment)}) ` +
  (segment.state === "ready" ? bytes(segment.weight_bytes) : stateText(segment));

const spoken = (segment) => `${segment.node || "no node"} layers ${layerRange(segment)} ${stateText(segment)}`;

function createSegment() {
  return element(
    "div",
    { class: "segment", "data-testid": "shard" },
    element("span", { class: "fill" }),
    element("span", { class: "cells" }),
    element(
      "span",
      { class: "segment-label" },
      element("b", { "data-part": "node" }),
      " ",
      element("span", { "data-part": "label" }),
    ),
  );
}

function updateSegment(node, segment) {
  setAttribute(node, "data-state", segment.state);
  if (segment.node_id) setHue(node, segment.node_id);
  setProperty(node, "--layers", String(layerCount(segment)));
  setProperty(node, "--progress", segment.state === "loading" ? String(segment.progress) : "1");
  setAttribute(node, "title", `${spoken(segment)}`);
  setText(part(node, "node"), segment.node || "no node");
  setText(part(node, "label"), labelOf(segment));
}

function createStage() {
  const fields = ["node", "range", "weights", "state", "compute", "hop"];
  const cells = fields.map((name) => element("span", { class: `stage-${name}`, "data-part": name }));
  return element("li", { "data-testid": "stage" }, element("i", { class: "swatch", "aria-hidden": "true" }), ...cells);
}

function updateStage(node, segment) {
  const isThere = segment.state !== "missing";
  setAttribute(node, "data-state", segment.state);
  if (isThere) setHue(node, segment.node_id);
  setText(part(node, "node"), segment.node || "no node");
  setText(part(node, "range"), `${layerRange(segment)} (${layerCount(segment)})`);
  setText(part(node, "weights"), isThere ? bytes(segment.weight_bytes) : "");
  setText(part(node, "state"), stateText(segment));
  setText(part(node, "compute"), isThere ? `compute ${milliseconds(segment.compute_ms)}` : "");
  setText(part(node, "hop"), isThere ? `hop ${milliseconds(segment.hop_ms)}` : "");
}
