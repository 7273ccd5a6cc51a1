// Draws /openapi.json. Text goes in as text, never as markup.
"use strict";

const routes = document.getElementById("routes");
const wanted = document.getElementById("wanted");

function made(name, text, ...children) {
  const node = document.createElement(name);
  if (text) node.textContent = text;
  node.append(...children);
  return node;
}

function parameters(listed) {
  const rows = listed.map((one) =>
    made("tr", "", made("td", "", made("code", one.name)), made("td", one.in + (one.required ? "，必填" : "")),
      made("td", one.schema?.description ?? one.schema?.type ?? "")));
  return made("table", "", ...rows);
}

function route(path, verb, told) {
  const title = made("summary", "", Object.assign(made("span", verb.toUpperCase()), { className: "verb" }),
    made("code", path));
  const inside = made("div", "");
  if (told.description) inside.append(made("p", told.description));
  if (told.parameters?.length) inside.append(made("h4", "参数"), parameters(told.parameters));
  const schema = told.requestBody?.content?.["application/json"]?.schema;
  if (schema) inside.append(made("h4", "请求体（JSON Schema）"), made("pre", JSON.stringify(schema, null, 2)));
  const node = made("details", "", title, inside);
  node.dataset.words = `${verb} ${path} ${told.description ?? ""}`.toLowerCase();
  return node;
}

function drawn(document_) {
  const groups = new Map();
  for (const [path, verbs] of Object.entries(document_.paths)) {
    for (const [verb, told] of Object.entries(verbs)) {
      const tag = told.tags?.[0] ?? "其他";
      if (!groups.has(tag)) groups.set(tag, []);
      groups.get(tag).push(route(path, verb, told));
    }
  }
  routes.replaceChildren(...[...groups].map(([tag, nodes]) => made("section", "", made("h2", tag), ...nodes)));
}

function sift() {
  const word = wanted.value.trim().toLowerCase();
  for (const node of routes.querySelectorAll("details")) node.hidden = !node.dataset.words.includes(word);
}

async function load() {
  try {
    const answer = await fetch("/openapi.json", { credentials: "same-origin" });
    const body = await answer.json();
    if (answer.ok) drawn(body);
    else routes.replaceChildren(made("p", body.error?.message ?? `读不到接口文档：${answer.status}`));
  } catch {
    routes.replaceChildren(made("p", "连不上服务器，请检查它是否还在运行，再刷新这一页。"));
  }
}

wanted.addEventListener("input", sift);
load();
