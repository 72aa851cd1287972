// Draws the graphs of a page with mermaid. Without it, or when a text is none, the text stays.
"use strict";
document.addEventListener("DOMContentLoaded", async () => {
  const mermaid = window.mermaid;
  if (!mermaid) return;
  const dark = window.matchMedia("(prefers-color-scheme: dark)").matches;
  mermaid.initialize({
    startOnLoad: false, securityLevel: "strict", theme: dark ? "dark" : "neutral",
    flowchart: { curve: "linear", htmlLabels: false, wrappingWidth: 600 }, maxTextSize: 50000, suppressErrorRendering: true,
  });
  let number = 0;
  for (const source of document.querySelectorAll("pre.mermaid-source")) {
    try {
      const drawn = await mermaid.render(`graph-${number++}`, source.textContent);
      const place = document.createElement("div");
      place.className = "diagram";
      place.setAttribute("role", "img");
      place.setAttribute("aria-label", source.getAttribute("aria-label"));
      place.innerHTML = drawn.svg;
      // The box says what it is; mermaid's own roles are none that readers of screens know.
      const svg = place.querySelector("svg");
      for (const name of ["role", "aria-roledescription"]) svg.removeAttribute(name);
      svg.setAttribute("aria-hidden", "true");
      source.replaceWith(place);
    } catch (error) {
      console.warn("a graph cannot be drawn", error);
    }
  }
});
