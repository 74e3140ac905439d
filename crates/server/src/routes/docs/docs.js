// Shows /openapi.json. Every string of it goes into the page as text, never as markup.
"use strict";

const METHODS = ["get", "head", "post", "put", "patch", "delete"];

function element(name, attributes, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) made.setAttribute(key, value);
  for (const child of children) if (child !== null && child !== undefined) made.append(child);
  return made;
}

function resolve(api, node) {
  for (let steps = 0; node && node.$ref && steps < 16; steps++) {
    node = node.$ref.split("/").slice(1).reduce((at, key) => at && at[key.replace(/~1/g, "/").replace(/~0/g, "~")], api);
  }
  return node || {};
}

// A schema in a few words: its name, or its type.
function brief(api, schema) {
  if (!schema) return "";
  if (schema.$ref) return schema.$ref.split("/").pop();
  if (schema.oneOf || schema.anyOf) return (schema.oneOf || schema.anyOf).map((one) => brief(api, one)).join(" or ");
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" | ");
  const types = [].concat(schema.type || "any");
  const words = types.map((type) => (type === "array" ? "list of " + brief(api, schema.items) : type));
  return words.join(" or ") + (schema.format ? " (" + schema.format + ")" : "");
}

function fields(api, schema, depth) {
  const own = resolve(api, schema);
  if (own.type === "array" || (Array.isArray(own.type) && own.type.includes("array"))) return fields(api, own.items, depth);
  const parts = [own, ...(own.allOf || []).map((one) => resolve(api, one))];
  const rows = [];
  for (const part of parts) {
    for (const [name, field] of Object.entries(part.properties || {})) {
      const known = resolve(api, field);
      const required = (part.required || []).includes(name);
      rows.push(element("tr", {},
        element("td", {}, element("code", {}, name), required ? "" : " (optional)"),
        element("td", {}, brief(api, field)),
        element("td", {}, field.description || known.description || "", nested(api, field, depth))));
    }
  }
  return rows.length ? element("table", {}, element("tbody", {}, ...rows)) : null;
}

function nested(api, field, depth) {
  if (depth >= 3) return null;
  const inner = fields(api, field, depth + 1);
  return inner && element("details", {}, element("summary", {}, brief(api, field)), inner);
}

function content(api, body) {
  return Object.entries((body && body.content) || {}).map(([type, { schema }]) =>
    element("div", {}, element("p", {}, element("code", {}, type), " ", brief(api, schema)), fields(api, schema, 0)));
}

function call(api, path, method, operation) {
  const locked = (operation.security || []).length > 0 && !operation.security.some((one) => Object.keys(one).length === 0);
  const box = element("details", { id: operation.operationId || method + path },
    element("summary", {},
      element("span", { class: "method" }, method.toUpperCase()), path,
      element("span", { class: "about" }, operation.summary || ""),
      locked ? element("span", { class: "lock" }, "token") : null));
  if (operation.description) box.append(element("p", {}, operation.description));
  const parameters = (operation.parameters || []).map((one) => resolve(api, one));
  if (parameters.length) {
    box.append(element("h4", {}, "Parameters"), element("table", {}, element("tbody", {}, ...parameters.map((one) =>
      element("tr", {}, element("td", {}, element("code", {}, one.name), one.required ? "" : " (optional)"),
        element("td", {}, one.in + ", " + brief(api, one.schema)), element("td", {}, one.description || ""))))));
  }
  if (operation.requestBody) box.append(element("h4", {}, "Body"), ...content(api, resolve(api, operation.requestBody)));
  box.append(element("h4", {}, "Answers"));
  for (const [status, answer] of Object.entries(operation.responses || {})) {
    const known = resolve(api, answer);
    const good = status.startsWith("2");
    box.append(element("p", {}, element("strong", {}, status), " ", known.description || ""), ...(good ? content(api, known) : []));
  }
  box.dataset.words = (method + " " + path + " " + (operation.summary || "") + " " + (operation.description || "")).toLowerCase();
  return box;
}

async function show() {
  const calls = document.getElementById("calls");
  const answer = await fetch("/openapi.json");
  if (!answer.ok) throw new Error("the server answered " + answer.status);
  const api = await answer.json();
  document.getElementById("about").textContent = (api.info.description || "") + " Version " + api.info.version + ".";
  const groups = new Map();
  for (const [path, item] of Object.entries(api.paths)) {
    for (const method of METHODS) {
      if (!item[method]) continue;
      const tag = (item[method].tags || ["other"])[0];
      if (!groups.has(tag)) groups.set(tag, []);
      groups.get(tag).push(call(api, path, method, item[method]));
    }
  }
  calls.replaceChildren(...[...groups].map(([tag, boxes]) => element("section", {}, element("h2", {}, tag), ...boxes)));
  document.getElementById("find").addEventListener("input", (event) => {
    const words = event.target.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const box of calls.querySelectorAll("section > details")) {
      box.hidden = !words.every((word) => box.dataset.words.includes(word));
    }
    for (const section of calls.querySelectorAll("section")) {
      section.hidden = !section.querySelector(":scope > details:not([hidden])");
    }
  });
}

show().catch((error) => {
  document.getElementById("calls").replaceChildren(element("p", {}, "The description cannot be read: " + error.message));
});
