// Builds elements from the tree that the server made of Markdown. What is not listed here cannot come onto the page.

import { h } from "./dom.js";

const AS_IS = new Set(["p", "ul", "li", "em", "strong", "s", "code", "thead", "tbody", "tr", "blockquote", "br", "hr"]);
const BLOCKS = new Set(["p", "li", "blockquote"]);
const HEADINGS = { h1: "h3", h2: "h4", h3: "h5", h4: "h6", h5: "h6", h6: "h6" };

/** Text as people see it: rendered when there is a tree, otherwise exactly as written. Directions come from the text. */
export function prose(text, tree) {
  if (!tree) return h("div", { className: "prose plain", dir: "auto" }, text);
  return h("div", { className: "prose" }, tree.map(build));
}

function build(node) {
  if (typeof node === "string") return document.createTextNode(node);
  const { tag } = node;
  const children = node.children.map(build);
  if (AS_IS.has(tag)) return h(tag, { dir: BLOCKS.has(tag) ? "auto" : null }, children);
  if (tag in HEADINGS) return h(HEADINGS[tag], { className: tag, dir: "auto" }, children);
  if (tag === "ol") return h("ol", { start: node.start === 1 ? null : node.start, dir: "auto" }, children);
  if (tag === "th" || tag === "td") {
    return h(tag, { className: ["center", "right"].includes(node.align) ? node.align : null, dir: "auto" }, children);
  }
  if (tag === "table") {
    return h("div", { className: "scroll", tabindex: "0", role: "region", "aria-label": "Table" }, h("table", {}, children));
  }
  if (tag === "pre") {
    const label = node.language ? `Code in ${node.language}` : "Code";
    return h("pre", { dir: "ltr", tabindex: "0", role: "region", "aria-label": label }, children);
  }
  if (tag === "image") {
    // Nothing is fetched from elsewhere: an image would tell its owner who reads this, and when.
    return h("span", { className: "image", title: node.href }, "Image: ", children.length ? children : "without a text");
  }
  if (tag === "a") return link(node.href, children);
  return h("span", {}, children);
}

/** A link to another site, with the site's name beside it: words may say one place and lead to another. */
function link(href, children) {
  let address;
  try {
    address = new URL(href);
  } catch {
    return h("span", {}, children);
  }
  if (!["http:", "https:", "mailto:"].includes(address.protocol)) return h("span", {}, children);
  const anchor = h("a", { href: address.href, title: address.href, target: "_blank", rel: "noopener noreferrer nofollow" }, children);
  const host = address.host || address.pathname;
  if (anchor.textContent.includes(host)) return anchor;
  return h("span", {}, anchor, h("span", { className: "host" }, ` (${host})`));
}
