// The operator's page: what the admin API says of each study, and what an operator may do to it.
// The token lives in this tab's session storage alone. Every text that comes from the server is put
// in as text, never as markup.

const API = "api/v1/admin";
const KEPT = "ttmpref-admin-token";
const REFRESH_MS = 5000;
const MOVES = { open: "Reopen", paused: "Pause", closed: "Close for good", archived: "Archive" };
const FINAL = ["closed", "archived"];

const at = (id) => document.getElementById(id);
let token = sessionStorage.getItem(KEPT);
let shown = null; // <slug>-v<version> of the study on the page
let timer = 0;

// ------------------------------------------------------------------ the server

class Refused extends Error {}

async function ask(path, method = "GET", body = undefined) {
  let answer;
  try {
    const headers = { Authorization: `Bearer ${token}`, "Content-Type": "application/json" };
    const sent = body === undefined ? undefined : JSON.stringify(body);
    answer = await fetch(API + path, { method, headers, body: sent, cache: "no-store" });
  } catch {
    throw new Refused("The server cannot be reached; nothing was changed.");
  }
  if (answer.status === 401) leave();
  if (!answer.ok) throw new Refused(await reason(answer));
  return answer;
}

async function reason(answer) {
  const said = await answer.json().catch(() => null);
  return said?.error?.message ?? `The server answered ${answer.status}.`;
}

const get = async (path) => (await ask(path)).json();
const post = async (path, body) => (await ask(path, "POST", body)).json();

// ------------------------------------------------------------------ marks on the page

function make(tag, text = "", ...children) {
  const made = document.createElement(tag);
  made.textContent = text;
  made.append(...children);
  return made;
}

function facts(pairs) {
  const list = make("dl");
  for (const [name, value] of pairs) list.append(make("dt", name), make("dd", String(value)));
  return list;
}

function table(head, rows) {
  const line = (cells, tag) => make("tr", "", ...cells.map((cell) => make(tag, String(cell))));
  const body = make("tbody", "", ...rows.map((row) => line(row, "td")));
  return make("table", "", make("thead", "", line(head, "th")), body);
}

// Wide tables scroll inside their section, by the keyboard too.
function section(title, ...children) {
  const made = make("section", "", make("h3", title), ...children);
  made.tabIndex = 0;
  made.setAttribute("aria-label", title);
  return made;
}
const counts = (found) =>
  Object.entries(found).map(([name, count]) => `${name} ${count}`).join(", ") || "none";
const share = (part, whole) => (whole ? `${((100 * part) / whole).toFixed(0)} %` : "–");
const day = (us) => (us === null ? "–" : new Date(us / 1000).toLocaleString());

function say(text, bad = false) {
  at("message").textContent = text;
  at("message").classList.toggle("bad", bad);
}

// ------------------------------------------------------------------ sections of a study

function progress(study, listed) {
  const bar = make("progress");
  bar.max = Math.max(study.wanted, 1);
  bar.value = Math.min(study.votes, bar.max);
  bar.setAttribute("aria-label", "Main votes of those wanted");
  return section("Counts", bar, facts([
    ["Main votes", `${study.votes} of ${study.wanted} wanted`],
    ["People", counts(study.participants)],
    ["Trials", counts(study.trials)],
    ["Answers", counts(study.answers)],
    ["Opened", day(listed.opened_at)],
    ["Closed", day(listed.closed_at)],
  ]));
}

function stopping(study) {
  const rule = study.stopping;
  const state = rule.rule === "fixed"
    ? [["Finished sessions", `${rule.completed} of ${rule.wanted}`]]
    : [
        ["Votes", `${rule.votes} of at most ${rule.max_votes}`],
        ["Largest e-value so far", `${rule.largest_e_value.toPrecision(3)}, stops at ${rule.stop_at}`],
      ];
  const verdict = rule.stop ? "stop: the rule is met" : "go on";
  return section("Stopping rule", facts([["Rule", rule.rule], ...state, ["It says", verdict]]));
}

function balance(study) {
  const pairs = study.pairs;
  const contrasts = study.contrasts.map((one) => [
    `${one.first} / ${one.second}`, one.votes, one.assigned, share(one.first_on_a, one.assigned),
  ]);
  return section("Balance and coverage",
    facts([
      ["Pairs complete", `${pairs.complete} of ${pairs.pairs}`],
      ["Votes per pair", `${pairs.fewest_votes} to ${pairs.most_votes}`],
      ["Largest side difference of a pair", pairs.largest_side_difference],
    ]),
    table(["Systems", "Votes", "Given out", "First one was clip A"], contrasts),
    table(["Votes so far", "Pairs"], Object.entries(study.coverage)),
  );
}

function leaks(study) {
  const rows = study.leaks.map((one) => [
    `${one.first} / ${one.second}`, one.form, one.n,
    `${one.outer_auc.toFixed(2)} (${one.outer_null.toFixed(2)})`,
    `${one.inner_auc.toFixed(2)} (${one.inner_null.toFixed(2)})`,
    one.leaks ? "can be told apart without listening" : "at chance",
  ]);
  const head = ["Systems", "Files", "Clips", "AUC without listening (chance up to)",
    "AUC of the sound (chance up to)", "Verdict"];
  return section("Leak report", table(head, rows));
}

// ------------------------------------------------------------------ flow

const nameOf = (listed) => `${listed.slug}-v${listed.version}`;

async function list() {
  const studies = await get("/studies");
  const buttons = studies.map((listed) => {
    const name = nameOf(listed);
    const button = make("button", `${name} · ${listed.status}`);
    button.type = "button";
    button.setAttribute("aria-pressed", String(name === shown));
    button.onclick = act(() => open(name));
    return button;
  });
  at("studies").replaceChildren(...buttons);
  if (!studies.length) say("There is no study yet: `python -m ttmpref study open` makes one.");
  return studies;
}

async function open(name) {
  shown = name;
  const design = await get(`/studies/${name}/definition`);
  at("definition").textContent = design.yaml;
  at("hash").textContent = design.sha256;
  at("study").hidden = false;
  await refresh();
}

async function refresh() {
  clearTimeout(timer);
  const name = shown;
  const [study, studies] = await Promise.all([get(`/studies/${name}`), list()]);
  if (name !== shown) return; // another one was chosen meanwhile
  const listed = studies.find((one) => nameOf(one) === name);
  at("title").textContent = listed.title;
  at("warning").hidden = study.storage_warning === null;
  at("warning").textContent = study.storage_warning ?? "";
  if (at("status").textContent !== study.status) {
    at("status").textContent = study.status;
    at("moves").replaceChildren(...study.can_become.map(lever));
  }
  at("live").replaceChildren(
    progress(study, listed), stopping(study), balance(study), leaks(study),
  );
  timer = setTimeout(later, REFRESH_MS);
}

function later() {
  if (document.hidden) timer = setTimeout(later, REFRESH_MS);
  else act(refresh)();
}

function lever(state) {
  const button = make("button", MOVES[state]);
  button.type = "button";
  button.classList.toggle("last", FINAL.includes(state));
  button.onclick = act(async () => {
    if (FINAL.includes(state) && !confirm(`${MOVES[state]}: ${shown} cannot come back from that.`)) return;
    await post(`/studies/${shown}/status`, { status: state });
    await refresh();
    say(`${shown} is ${state}.`);
  });
  return button;
}

async function verify() {
  const found = await get(`/studies/${shown}/audit`);
  say(found.whole ? `${shown} is whole.` : found.problems.join(" · "), !found.whole);
}

async function download() {
  say("Exporting …");
  const made = await post(`/studies/${shown}/exports`, { unblind: at("unblind").checked });
  const data = await (await ask(`/exports/${made.study}/${made.name}`)).blob();
  const link = make("a");
  link.href = URL.createObjectURL(data);
  link.download = `${made.study}-${made.name}.zip`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000); // the download has started by then
  say(`Exported as ${made.study}/${made.name}.`);
}

async function enter() {
  const studies = await list();
  sessionStorage.setItem(KEPT, token);
  at("enter").hidden = true;
  at("inside").hidden = at("leave").hidden = false;
  if (studies.length) say("");
}

function leave() {
  clearTimeout(timer);
  sessionStorage.removeItem(KEPT);
  token = shown = null;
  at("inside").hidden = at("study").hidden = at("leave").hidden = true;
  at("live").replaceChildren();
  at("definition").textContent = at("status").textContent = "";
  at("enter").hidden = false;
}

// A handler of an event: what is refused is said on the page.
function act(work) {
  return async () => {
    try {
      await work();
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      say(error.message, true);
      if (shown !== null) timer = setTimeout(later, REFRESH_MS);
    }
  };
}

at("enter").onsubmit = (event) => {
  event.preventDefault();
  token = at("token").value.trim();
  at("token").value = "";
  if (/^[\x21-\x7e ]+$/.test(token)) act(enter)();
  else say("The token must consist of plain letters, digits and signs.", true);
};
at("leave").onclick = () => {
  leave();
  say("The token is forgotten.");
};
at("verify").onclick = act(verify);
at("export").onclick = act(download);
if (token !== null) act(enter)();
