// The table of nodes.

import { setHue } from "./colors.js";
import { byId, element, part, patchChildren, setAttribute, setProperty, setText } from "./dom.js";
import { bytes, layerRange, milliseconds, plural, seconds } from "./format.js";

const TONES = { alive: "good", suspect: "warn", dead: "bad" };

export function showNodes(state) {
  const alive = state.nodes.filter((node) => node.state === "alive").length;
  setText(byId("node-count"), `${alive} of ${state.nodes.length} alive`);
  const largest = Math.max(1, ...state.nodes.map((node) => node.memory.limit_bytes));
  const version = state.nodes.find((node) => node.self)?.version;
  const rows = state.nodes.map((node) => ({ node, largest, version, leader: state.leader, shards: shardsOf(state, node) }));
  patchChildren(byId("nodes"), rows, { key: (row) => row.node.id, create, update });
  patchChildren(byId("notes"), state.notes ?? [], { key: (note) => note.text, create: () => createNote(), update: updateNote });
}

function createNote(testId = "note") {
  return element("li", { "data-testid": testId, "data-tone": "warn" }, line("text", "major"), line("fix", "minor"));
}

function updateNote(row, { text, fix }) {
  setText(part(row, "text"), text);
  setText(part(row, "fix"), `Fix: ${fix}`);
}

/** Peers that were asked for, or are seen on the network, and are no members. */
export function showUnreached(peers) {
  byId("unreached").hidden = peers.length === 0;
  const notes = peers.map((peer) => ({ key: peer.node_id ?? peer.address, text: unreachedText(peer), fix: peer.fix }));
  patchChildren(byId("unreached"), notes, { key: (note) => note.key, create: () => createNote("unreached"), update: updateNote });
}

function unreachedText({ name, address, since_s, reason }) {
  return `Not reached for ${seconds(since_s)}: ${name ? `${name} (${address})` : address}: ${reason}`;
}

/** The shards that a node holds, over all models. */
function shardsOf(state, node) {
  return state.models.flatMap((model) =>
    model.shards.filter((shard) => shard.node_id === node.id).map((shard) => ({ model: model.id, ...shard })),
  );
}

function cell(label, attributes, ...children) {
  return element("td", { role: "cell", "data-label": label, ...attributes }, ...children);
}

const line = (name, className) => element("span", { "data-part": name, class: className });

function create() {
  const bar = element(
    "span",
    { class: "memory", "data-part": "memory", role: "img" },
    ...["weights", "kv", "other"].map((kind) => element("i", { class: kind })),
  );
  const name = element("span", { class: "node-name" }, element("i", { class: "swatch", "aria-hidden": "true" }), line("name", "name"), line("tags", "tags"));
  return element(
    "tr",
    { role: "row", "data-testid": "node-row" },
    cell("Node", { class: "node-cell" }, name, line("address", "minor mono")),
    cell("State", {}, element("span", { class: "state", "data-part": "state" })),
    cell("Device", {}, line("device", "major"), line("device-name", "minor")),
    cell("Memory", { class: "wide" }, bar, line("memory-text", "minor")),
    cell("Layers", {}, line("layers", "")),
    cell("Compute", { class: "number" }, line("compute", "")),
    cell("RTT", { class: "number" }, line("rtt", "")),
    cell("Heartbeat", { class: "number" }, line("heartbeat", "")),
    cell("Version", {}, line("version", "")),
  );
}

function update(row, { node, largest, version, leader, shards }) {
  setAttribute(row, "data-state", node.state);
  setHue(row, node.id);
  setText(part(row, "name"), node.name);
  const tags = [...(node.self ? ["this node"] : []), ...(node.id === leader ? ["leader"] : [])];
  setText(part(row, "tags"), tags.join(" · "));
  setText(part(row, "address"), node.address);
  setText(part(row, "state"), node.state);
  setAttribute(part(row, "state"), "data-tone", TONES[node.state] ?? "idle");
  setText(part(row, "device"), `${node.device.kind} · ${plural(node.device.threads, "thread")}`);
  setText(part(row, "device-name"), node.device.name);
  updateMemory(row, node.memory, largest);
  const isOne = new Set(shards.map((shard) => shard.model)).size < 2;
  const held = shards.map((shard) => (isOne ? layerRange(shard) : `${shard.model} ${layerRange(shard)}`));
  setText(part(row, "layers"), held.join(", ") || "–");
  setText(part(row, "compute"), shards.map((shard) => milliseconds(shard.compute_ms)).join(", ") || "–");
  setText(part(row, "rtt"), node.self ? "–" : milliseconds(node.rtt_ms));
  setText(part(row, "heartbeat"), node.self ? "–" : seconds(node.heartbeat_age_s));
  setText(part(row, "version"), node.version);
  setAttribute(part(row, "version"), "data-tone", version && node.version !== version ? "warn" : null);
}

/** Bars are drawn to one scale, so that a large node looks large; what is neither free nor named is working space. */
function updateMemory(row, memory, largest) {
  const bar = part(row, "memory");
  const limit = Math.max(1, memory.limit_bytes);
  const other = Math.max(0, memory.limit_bytes - memory.weights_bytes - memory.kv_cache_bytes - memory.free_bytes);
  setProperty(bar, "--scale", String(Math.max(0.15, limit / largest)));
  setProperty(bar, "--weights", String(memory.weights_bytes / limit));
  setProperty(bar, "--kv", String(memory.kv_cache_bytes / limit));
  setProperty(bar, "--other", String(other / limit));
  const used = memory.limit_bytes - memory.free_bytes;
  setText(part(row, "memory-text"), `${bytes(used)} of ${bytes(memory.limit_bytes)}`);
  const parts = [`${bytes(memory.weights_bytes)} weights`, `${bytes(memory.kv_cache_bytes)} KV cache`, `${bytes(other)} working`];
  const all = [...parts, `${bytes(memory.free_bytes)} free`, `limit ${bytes(memory.limit_bytes)}`].join(", ");
  setAttribute(bar, "aria-label", all);
  setAttribute(bar, "title", all);
}
