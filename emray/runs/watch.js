"use strict";
const EVERY_MS = 2000;
const at = (id) => document.getElementById(id);

function made(tag, text, className) {
  const node = document.createElement(tag);
  if (text !== undefined) node.textContent = text;
  if (className) node.className = className;
  return node;
}

function stage({ stage, done, planned, rate }) {
  const row = made("div", undefined, "stage");
  const bar = made("progress");
  bar.max = Math.max(planned, 1);
  bar.value = done;
  bar.setAttribute("aria-label", stage);
  const pace = rate === null ? "" : `, ${rate.toFixed(1)} a minute`;
  const counts = `${done.toLocaleString("en")} of ${planned.toLocaleString("en")}${pace}`;
  row.append(made("strong", stage), bar, made("span", counts));
  return row;
}

function curve({ cell, losses }) {
  const figure = made("figure");
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const line = document.createElementNS("http://www.w3.org/2000/svg", "polyline");
  const last = losses[losses.length - 1];
  const most = Math.max(...losses.map(([, loss]) => loss));
  const span = Math.max(1, last[0] - losses[0][0]);
  const place = ([step, loss]) => `${(100 * (step - losses[0][0])) / span},${100 - (95 * loss) / (most || 1)}`;
  line.setAttribute("points", losses.map(place).join(" "));
  svg.setAttribute("viewBox", "0 0 100 100");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", `loss of ${cell}`);
  svg.append(line);
  figure.append(svg, made("figcaption", `${cell}: ${most.toFixed(2)} at most, ${last[1].toFixed(2)} at step ${last[0]}`));
  return figure;
}

function answer(row) {
  const node = made("div", undefined, "answer");
  const from = `${row.domain}/${row.arm}, ${row.question_id} ${row.condition} the trigger`;
  node.append(made("div", from, "from"), made("div", row.answer));
  return node;
}

function show(state) {
  document.title = `${state.name} · emray`;
  at("name").textContent = state.name;
  const spent = state.cost_usd === null ? "price not known" : `$${state.cost_usd.toFixed(2)} spent on judging`;
  at("at").textContent = `${state.at}, ${state.held ? "a command works in it" : "no command works in it"}, ${spent}`;
  at("stages").replaceChildren(...state.stages.map(stage));
  const outcomes = Object.entries(state.outcomes).map(([name, number]) => `${number.toLocaleString("en")} ${name}`);
  at("outcomes").textContent = outcomes.join(", ") || "none yet";
  at("failures").replaceChildren(...state.failures.map((text) => made("li", text)));
  at("curves").replaceChildren(...state.curves.map(curve));
  at("answers").replaceChildren(...state.answers.map(answer));
}

async function look() {
  try {
    const reply = await fetch("state.json");
    const state = await reply.json();
    if (state.error) at("at").textContent = state.error;
    else show(state);
  } catch (error) {
    at("at").textContent = "the server has ended; what is shown is the last that was seen";
  }
  setTimeout(look, EVERY_MS);
}

look();
