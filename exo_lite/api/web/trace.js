// Where a token's time goes: the medians of a model's last steps, to scale, asked for when an answer has ended.

import { setHue } from "./colors.js";
import { element, part, patchChildren, setAttribute, setProperty, setText } from "./dom.js";
import { milliseconds } from "./format.js";
import { authorization } from "./key.js";
import { isServing } from "./verdict.js";

const LEAST_MS_BETWEEN = 2000;
const KINDS = { queue_ms: "waiting", compute_ms: "computing", serialize_ms: "serializing" };

/** By model: the newest summary, and what is known of when to ask for another. */
const known = new Map();

export function createTrace() {
  return element(
    "div",
    { class: "trace", "data-part": "trace", "data-testid": "trace" },
    element("div", { class: "trace-bar", role: "img", "data-part": "trace-bar" }),
    element("p", { class: "trace-text", "data-part": "trace-text" }),
  );
}

/** `node` is the model's card. */
export function updateTrace(node, model) {
  const trace = traceOf(model);
  trace.isWanted ||= model.requests.running < trace.running;
  trace.running = model.requests.running;
  if (isDue(trace, model)) ask(trace, model);
  const parts = trace.summary === null ? [] : partsOf(trace.summary, model);
  const text = [trace.summary?.slowest, ...saved(model)].filter(Boolean).join(" · ");
  part(node, "trace").hidden = text === "";
  part(node, "trace-bar").hidden = parts.length === 0;
  setText(part(node, "trace-text"), text);
  setAttribute(part(node, "trace-bar"), "aria-label", parts.map(spoken).join(", "));
  patchChildren(part(node, "trace-bar"), parts, {
    key: (one) => one.key,
    create: () => element("i", { "data-testid": "trace-part" }),
    update: updatePart,
  });
}

/** What is known of this placement: what an earlier one measured says nothing of it. */
function traceOf(model) {
  if (known.get(model.id)?.epoch !== model.epoch) {
    known.set(model.id, { epoch: model.epoch, isWanted: true, running: 0, askedAtMs: -Infinity, summary: null });
  }
  return known.get(model.id);
}

const isDue = (trace, model) =>
  trace.isWanted &&
  isServing(model) &&
  document.visibilityState === "visible" &&
  performance.now() - trace.askedAtMs >= LEAST_MS_BETWEEN;

async function ask(trace, model) {
  Object.assign(trace, { isWanted: false, askedAtMs: performance.now() });
  try {
    const reply = await fetch(`api/v1/models/${encodeURIComponent(model.id)}/traces`, { headers: authorization() });
    if (!reply.ok) return;
    const report = await reply.json();
    trace.summary = report.summary; // shown with the next state, a second away at most
    trace.isWanted ||= report.reason !== null; // its driver cannot tell yet
  } catch {
    trace.isWanted = true; // the daemon is away: asked again when it is back
  }
}

/** Each stage's parts in the order of the pipeline, then the wire, which no stage's clock can tell apart. */
function partsOf(summary, model) {
  const stages = summary.stages.flatMap((stage, index) =>
    Object.keys(KINDS).map((kind) => ({
      key: `${index} ${kind}`,
      kind,
      ms: stage[kind],
      nodeId: model.shards[index]?.node_id ?? "",
      name: `${KINDS[kind]} on ${model.shards[index]?.node ?? "a node"}`,
    })),
  );
  return [...stages, { key: "wire", kind: "wire_ms", ms: summary.wire_ms, nodeId: "", name: "on the wire" }];
}

const spoken = (one) => `${one.name} ${milliseconds(one.ms)}`;

function updatePart(node, one) {
  setAttribute(node, "data-kind", one.kind);
  setAttribute(node, "title", spoken(one));
  if (one.nodeId) setHue(node, one.nodeId);
  setProperty(node, "--ms", String(one.ms));
}

/** Work that was not done: prompt tokens found in the cache, guessed tokens that were right. */
function saved(model) {
  const lines = [];
  const { prefix_cache: cache, speculation } = model;
  if (cache?.cached_tokens) lines.push(`${cache.cached_tokens} of ${cache.prompt_tokens} prompt tokens were cached`);
  if (speculation?.proposed_tokens)
    lines.push(`${speculation.accepted_tokens} of ${speculation.proposed_tokens} guessed tokens were right`);
  return lines;
}
