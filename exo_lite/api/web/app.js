// The status page: follows the state document and shows each part of it in place.

import { assignHues } from "./colors.js";
import { byId, setAttribute, setText } from "./dom.js";
import { showEvents } from "./events.js";
import { askForKey } from "./key.js";
import { showModels } from "./layers.js";
import { showNodes, showUnreached } from "./nodes.js";
import { showModelChoices, startPromptBox } from "./prompt.js";
import { follow } from "./stream.js";
import { showVerdicts } from "./verdict.js";

const link = { isUp: false, heardAtMs: null };

function show(state) {
  assignHues(state.nodes.map((node) => node.id));
  setText(byId("where"), `cluster ${state.cluster} · seen from ${state.node.name}`);
  showVerdicts(state);
  showModels(state.models);
  showNodes(state);
  showUnreached(state.unreached ?? []);
  showEvents(state.events);
  showModelChoices(state.models);
}

function showLink() {
  const isStale = !link.isUp && link.heardAtMs !== null;
  const ageS = (performance.now() - link.heardAtMs) / 1000;
  const state = link.isUp ? "live" : isStale ? "stale" : "connecting";
  setAttribute(byId("connection"), "data-state", state);
  setText(byId("connection-text"), isStale ? `stale · ${Math.floor(ageS)} s old · reconnecting` : state);
  setText(byId("connection-announcement"), isStale ? "The connection is lost: what you see is old." : "");
  setAttribute(document.body, "data-stale", isStale ? "true" : null);
}

startPromptBox();
setInterval(showLink, 500);
follow({
  onDocument: show,
  onAlive: () => {
    Object.assign(link, { isUp: true, heardAtMs: performance.now() });
    showLink();
  },
  onDown: () => {
    link.isUp = false;
    showLink();
  },
  onUnauthorized: askForKey,
});
