/** Puts the page together: frames in, rows patched, questions asked. */
import type { Frame } from "../../control/frame.ts";
import { reloadFile, signIn } from "./actions.ts";
import { Attention } from "./attention.ts";
import type { Outcome } from "./changes.ts";
import { Charts } from "./charts.ts";
import { Connection, type Status } from "./connection.ts";
import { asText } from "./copy.ts";
import { h, setText } from "./dom.ts";
import { Frontends } from "./frontends.ts";
import { show, shown } from "./hash.ts";
import { isFull, Model } from "./model.ts";
import { ReasonLists } from "./reasons.ts";
import { Servers } from "./servers.ts";
import { Summary } from "./summary.ts";
import { setToken, token } from "./token.ts";

/** How long a message stays. */
const MESSAGE_MS = 8000;
/** Measures of the latest frames that the browser keeps, for its tools. */
const MEASURED = 64;

/** What the listener lets its clients do. */
const { read, write } = document.documentElement.dataset;

let model: Model | undefined;
let lost = false;

const summary = new Summary();
const attention = new Attention();
const charts = new Charts();
const frontends = new Frontends();
const servers = new Servers({ mayChange, told });
const reasons = new ReasonLists();

const status = h("p", { class: "status", role: "status" }, "connecting");
const message = h("p", { class: "message", role: "alert" });
const search = h("input", {
  type: "search",
  placeholder: "Filter servers",
  "aria-label": "Filter servers by name, address or state",
  input: () => show({ q: search.value }),
});
const reloadButton = button("Reload…", async () => told(model && (await reloadFile(model))));
const signButton = button("Sign in…", async () => {
  if (token() === undefined) {
    await signIn("To drain, enable and weigh servers and to reload, the balancer wants its token.");
  } else setToken(undefined);
  showRights();
});
const copyButton = button("Copy as text", async () => {
  if (model === undefined) return;
  const text = asText(model, servers.visible);
  told(
    await copied(text).then(
      () => ({ ok: true, message: "copied" }),
      () => ({ ok: false, message: "the browser does not let this page write to the clipboard" }),
    ),
  );
});

const main = h(
  "main",
  {},
  attention.element,
  summary.element,
  charts.element,
  frontends.element,
  servers.element,
  reasons.element,
);
main.hidden = true;
document
  .getElementById("app")
  ?.replaceChildren(
    h(
      "header",
      {},
      h("h1", {}, "Convey"),
      status,
      summary.about,
      h(
        "div",
        { class: "tools", role: "toolbar", "aria-label": "Tools" },
        search,
        copyButton,
        reloadButton,
        signButton,
      ),
    ),
    message,
    main,
  );

addEventListener("hashchange", () => {
  const { q } = shown();
  if (search.value !== q) search.value = q;
  servers.arrange();
});
addEventListener("keydown", (event) => {
  const typing = event.target instanceof HTMLInputElement;
  if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey) {
    event.preventDefault();
    search.focus();
  } else if (event.key === "Escape" && event.target === search) {
    show({ q: "" });
  }
});
document.addEventListener("visibilitychange", () => {
  if (!document.hidden && model !== undefined) rebuild(model);
});
search.value = shown().q;
showRights();

const connection = new Connection(onFrame, onStatus);

function onFrame(frame: Frame): void {
  const begun = performance.now();
  if (isFull(frame)) {
    if (model !== undefined && model.instance !== frame.instance)
      told({ ok: true, message: "the balancer was restarted" });
    model = new Model(frame);
    rebuild(model);
    main.hidden = false;
  } else if (model !== undefined) {
    const touched = model.apply(frame);
    if (!document.hidden) {
      summary.update(model);
      attention.update(model);
      charts.update(model);
      frontends.update(model);
      servers.update(model, touched);
      reasons.update(model);
    }
  }
  performance.measure(`convey-${frame.type}`, { start: begun });
  if (performance.getEntriesByType("measure").length > MEASURED) performance.clearMeasures();
}

function rebuild(now: Model): void {
  summary.update(now);
  attention.update(now);
  frontends.rebuild(now);
  servers.rebuild(now);
  reasons.update(now);
  charts.rebuild(now);
  const names = now.frontends.map(({ name }) => name);
  document.title = `Convey ${names.length === 1 ? names[0] : `${names.length} frontends`}`;
}

function onStatus(now: Status): void {
  lost = now.kind !== "live";
  document.documentElement.classList.toggle("lost", lost);
  setText(
    status,
    now.kind === "live"
      ? "live"
      : now.kind === "locked"
        ? "a token is needed"
        : "not answering, asking again",
  );
  status.title = now.kind === "lost" ? now.cause : "";
  if (now.kind === "locked" && document.querySelector("dialog") === null) {
    setToken(undefined);
    void signIn("This balancer shows nothing without its token.").then(
      (signed) => signed && connection.restart(),
    );
  }
}

/** Whether changes are of use, or why not. */
function mayChange(): true | string {
  if (write === "off") return "Changes are off: give the balancer a token (stats.token_file).";
  if (write === "open" || read === "token" || token() !== undefined) return true;
  return "Sign in to drain, enable or weigh it.";
}

function showRights(): void {
  const may = mayChange() === true;
  servers.showRights();
  reloadButton.hidden = !may;
  signButton.hidden = write !== "token" || read === "token";
  setText(signButton, token() === undefined ? "Sign in…" : "Sign out");
}

let hide: number | undefined;
function told(outcome: Outcome | undefined): void {
  showRights();
  if (outcome === undefined) return;
  message.className = `message ${outcome.ok ? "good" : "bad"}`;
  setText(message, outcome.message);
  clearTimeout(hide);
  hide = window.setTimeout(() => setText(message, ""), MESSAGE_MS);
}

function button(text: string, act: () => Promise<void>): HTMLButtonElement {
  return h("button", { type: "button", click: () => void act() }, text);
}

/** The clipboard's own interface is there for secure origins alone; loopback is one, an address of the network is not. */
async function copied(text: string): Promise<void> {
  if (navigator.clipboard !== undefined) return await navigator.clipboard.writeText(text);
  const area = h("textarea", { class: "copied", "aria-hidden": "true" });
  area.value = text;
  document.body.append(area);
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  if (!done) throw new Error("refused");
}
