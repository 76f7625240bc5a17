// Shows the plan, which SegmentOverlapConfig and CSG2KSampler give as text, on the node itself.
//
// A DOM widget works in both renderers of the page. It belongs to the page alone: its text comes
// with each run, so that neither the saved workflow nor the prompt holds anything of it.

import { app } from "../../../scripts/app.js";

const NODES = ["SegmentOverlapConfig", "CSG2KSampler"];
const WIDGET = "plan_text";
const NODE_WIDTH = 400;
const LEAST_HEIGHT = 140;
const MARGIN = 10; // what the classic renderer leaves free around a DOM widget

const HINTS = {
  en: "The plan appears here with the run.",
  zh: "运行后，计划会显示在这里。",
  ja: "実行すると、ここに計画が表示されます。",
};

function hint() {
  const language = app.extensionManager.setting.get("Comfy.Locale") ?? "en";
  return HINTS[language.split("-")[0]] ?? HINTS.en;
}

function makePanel() {
  const panel = document.createElement("pre");
  panel.className = "swift-i2v-plan";
  panel.tabIndex = 0;
  Object.assign(panel.style, {
    margin: "0",
    padding: "6px 8px",
    boxSizing: "border-box",
    width: "100%",
    height: "100%",
    minHeight: `${LEAST_HEIGHT - 2 * MARGIN}px`,
    overflow: "auto",
    whiteSpace: "pre",
    font: "11px/1.35 ui-monospace, Menlo, Consolas, monospace",
    color: "var(--input-text, #ddd)",
    background: "var(--comfy-input-bg, #222)",
    borderRadius: "6px",
    userSelect: "text",
    cursor: "text",
  });
  // The canvas would drag the node, zoom, or answer keys where one selects, scrolls or copies text.
  for (const event of ["pointerdown", "pointermove", "wheel", "keydown", "copy"]) {
    panel.addEventListener(event, (raised) => raised.stopPropagation());
  }
  return panel;
}

// What the page remembers of a node's last run, also when one comes back from another workflow.
function remembered(node) {
  const { graph, id } = node;
  const isInside = graph && graph.rootGraph && graph !== graph.rootGraph;
  return app.nodeOutputs?.[isInside ? `${graph.id}:${id}` : id]?.text;
}

app.registerExtension({
  name: "SwiftI2V.Plan",

  nodeCreated(node) {
    if (!NODES.includes(node.comfyClass)) return;

    const panel = makePanel();
    const show = (lines) => {
      panel.textContent = lines?.join("\n") || hint();
      panel.style.opacity = lines ? "1" : "0.6";
    };
    show();
    new ResizeObserver(() => show(remembered(node))).observe(panel);

    const widget = node.addDOMWidget(WIDGET, "custom", panel, {
      serialize: false,
      getMinHeight: () => LEAST_HEIGHT,
    });
    widget.serialize = false;
    node.setSize([Math.max(node.size[0], NODE_WIDTH), node.size[1]]);

    const { onExecuted } = node;
    node.onExecuted = function (output, ...rest) {
      onExecuted?.call(this, output, ...rest);
      show(output?.text);
    };
  },
});
