"use strict";
// Everything that comes from a file is set as text, never as markup.
const PAGE = 25, UNUSUAL = 0.05;
const rows = JSON.parse(document.getElementById("rows").textContent);
const scores = document.querySelector("main").dataset.scores.split(" ");
const scored = rows.some((row) => scores.some((key) => key in row));

const fixed = (digits) => (value) => value.toFixed(digits);
const columns = [
  { key: "index", title: "Film", cell: film, kind: "film" },
  { key: "status", title: "Status", cell: state, kind: "state" },
  ...(scored ? scores : []).flatMap((key) => [
    { key, title: key[0].toUpperCase() + key.slice(1), format: fixed(2), kind: "number", descending: true },
    { key: key + "_p", title: "p", format: (value) => value.toPrecision(2), kind: "number" },
    { key: key + "_part", title: "part" },
  ]),
  { key: "warnings", title: "Warnings", format: (codes) => codes.join(", ") },
];
const searched = rows.map((row) =>
  ["index", "status", "reason", "format", "view", "sop_uid", "input_sha256", "path", "patient", "accession", ...scores.map((key) => key + "_part"), "warnings"]
    .map((key) => row[key] ?? "").join("\n").toLowerCase());

const view = { key: scored ? scores.at(-1) : "index", descending: scored, page: 0 };

function add(parent, tag, text = "", className = "") {
  const element = parent.appendChild(document.createElement(tag));
  element.textContent = text;
  if (className) element.className = className;
  return element;
}

function film(cell, row) {
  add(cell, "div", [row.index, row.format, row.view].filter((part) => part != null).join(" · "));
  if (row.path) add(cell, "div", row.path);
  if (row.patient || row.accession) add(cell, "div", `patient ${row.patient || "-"}, accession ${row.accession || "-"}`);
  if (row.link) Object.assign(add(cell, "a", "open in the viewer"), { href: row.link, target: "_blank", rel: "noopener noreferrer" });
  add(cell, "small", row.sop_uid ?? (row.input_sha256 ? "SHA-256 " + row.input_sha256.slice(0, 32) : ""));
}

function state(cell, row) {
  const of = "duplicate_of" in row ? " of " + row.duplicate_of : "";
  cell.textContent = row.status + (row.reason ? ": " + row.reason.replaceAll("_", " ") + of : "");
}

function compare(a, b) {
  const [x, y] = [a, b].map((i) => rows[i][view.key]);
  if (x === undefined || y === undefined) return (x === undefined) - (y === undefined) || a - b; // always last
  const order = x < y ? -1 : x > y ? 1 : 0;
  return (view.descending ? -order : order) || a - b;
}

function chosen() {
  const words = document.getElementById("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const status = document.getElementById("status").value;
  const limit = parseFloat(document.getElementById("p")?.value ?? "");
  return rows.map((_, i) => i).filter((i) => {
    const row = rows[i];
    return (!status || row.status === status)
      && (Number.isNaN(limit) || scores.some((key) => row[key + "_p"] <= limit))
      && words.every((word) => searched[i].includes(word));
  }).sort(compare);
}

function show() {
  const list = chosen();
  const pages = Math.max(1, Math.ceil(list.length / PAGE));
  view.page = Math.min(Math.max(view.page, 0), pages - 1);
  const first = view.page * PAGE, part = list.slice(first, first + PAGE);
  const body = document.createElement("tbody");
  body.id = "films";
  for (const i of part) {
    const row = rows[i], line = add(body, "tr", "", row.status);
    const picture = add(line, "td");
    if (row.strip) {
      const image = add(picture, "img");
      image.src = "data:image/webp;base64," + row.strip;
      image.alt = "film, reconstruction, map";
    }
    for (const column of columns) {
      const cell = add(line, "td", "", column.kind), value = row[column.key];
      if (column.cell) column.cell(cell, row);
      else if (value !== undefined) cell.textContent = column.format ? column.format(value) : value;
      if (column.key.endsWith("_p") && value <= UNUSUAL) cell.classList.add("low");
    }
  }
  document.getElementById("films").replaceWith(body);
  for (const head of document.querySelectorAll("#head th[data-key]")) {
    const sorted = head.dataset.key === view.key;
    head.setAttribute("aria-sort", sorted ? (view.descending ? "descending" : "ascending") : "none");
    head.firstChild.textContent = head.dataset.title + (sorted ? (view.descending ? " ▼" : " ▲") : "");
  }
  document.getElementById("place").textContent =
    list.length ? `${first + 1} to ${first + part.length} of ${list.length}` : "none";
  document.getElementById("previous").disabled = view.page === 0;
  document.getElementById("next").disabled = view.page === pages - 1;
}

add(document.getElementById("head"), "th", "Film, reconstruction, map");
for (const column of columns) {
  const head = add(document.getElementById("head"), "th");
  Object.assign(head.dataset, { key: column.key, title: column.title });
  add(head, "button", column.title).addEventListener("click", () => {
    view.descending = view.key === column.key ? !view.descending : Boolean(column.descending);
    view.key = column.key;
    view.page = 0;
    show();
  });
}
for (const name of ["search", "status", "p"])
  document.getElementById(name)?.addEventListener("input", () => { view.page = 0; show(); });
for (const [name, step] of [["previous", -1], ["next", 1]])
  document.getElementById(name).addEventListener("click", () => { view.page += step; show(); scrollTo(0, 0); });
document.getElementById("filters").addEventListener("submit", (event) => event.preventDefault());
const large = document.getElementById("large");
document.querySelector("main").addEventListener("click", (event) => {
  if (event.target.tagName !== "IMG") return;
  large.firstElementChild.src = event.target.src;
  large.showModal();
});
large.addEventListener("click", () => large.close());
show();
