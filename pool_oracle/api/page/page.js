// The page: polls the API and shows it. No framework, no third party; text goes in as text, never as HTML.
"use strict";

const REFRESH_MS = 1000;
const COLUMNS = {
  workers: [["Address", "address"], ["Worker", "worker"], ["Accepted", "accepted"], ["Refused", "refused"], ["Window", "share"]],
  epochs: [["Epoch", "epoch"], ["Leaves", "leaves"], ["Root", "root"], ["Manifest", "cid"]],
  blocks: [["Height", "height"], ["Epoch", "epoch"], ["Found by", "worker"], ["State", "state"], ["Hash", "hash"]],
};

function cell(tag, text) {
  const element = document.createElement(tag);
  element.textContent = text === null || text === undefined ? "" : String(text);
  if (typeof text === "number") element.className = "number";
  return element;
}

function fillTable(id, rows) {
  const columns = COLUMNS[id];
  const head = document.createElement("tr");
  head.append(...columns.map(([title]) => cell("th", title)));
  const body = rows.map((row) => {
    const line = document.createElement("tr");
    line.append(...columns.map(([, key]) => cell("td", row[key])));
    return line;
  });
  if (!rows.length) {
    const line = document.createElement("tr");
    line.append(cell("td", "None yet."));
    body.push(line);
  }
  document.getElementById(id).replaceChildren(head, ...body);
}

function fillPool(pool) {
  document.title = document.getElementById("name").textContent = pool.name;
  const windowFill = Number((BigInt(pool.windowFill) * 100n) / BigInt(pool.unit)) / 100;
  const facts = [
    ["Network", pool.network], ["Height", pool.height], ["Shares accepted", pool.accepted],
    ["Shares refused", pool.refused], ["Window, in blocks of work", windowFill], ["Blocks found", pool.blocks],
    ["Epoch in jobs", pool.jobEpoch], ["Distributor", pool.distributor],
  ];
  const items = facts.map(([term, value]) => {
    const item = document.createElement("div");
    item.append(cell("dt", term), cell("dd", value));
    return item;
  });
  document.getElementById("pool").replaceChildren(...items);
}

function withShares(workers) {
  const total = workers.reduce((sum, worker) => sum + BigInt(worker.weight), 0n);
  for (const worker of workers) {
    worker.share = total ? `${Number((BigInt(worker.weight) * 10000n) / total) / 100} %` : "";
  }
  return workers;
}

async function get(path) {
  const answer = await fetch(`/api/v1/${path}`);
  if (!answer.ok) throw new Error(`${path}: ${answer.status}`);
  return answer.json();
}

async function refresh() {
  const state = document.getElementById("state");
  try {
    const [pool, workers, epochs, blocks] = await Promise.all(["pool", "workers", "epochs", "blocks"].map(get));
    fillPool(pool);
    fillTable("workers", withShares(workers));
    fillTable("epochs", epochs);
    fillTable("blocks", blocks);
    state.textContent = `Running for ${pool.uptimeSeconds} seconds.`;
  } catch (error) {
    state.textContent = `The pool does not answer (${error.message}). Trying again.`;
  }
  setTimeout(refresh, REFRESH_MS);
}

refresh();
