/**
 * The stats page: one table a person can read, rendered here from `/stats`, with no file beside it. Names
 * from the configuration are escaped; a script renews the table in place, and without scripts the page
 * reloads itself.
 */
import type {
  BackendStats,
  CounterStats,
  FrontendStats,
  Reasons,
  ServerStats,
  Stats,
} from "../control/stats.ts";

/** The page as HTML; `nonce` is that of its Content-Security-Policy. */
export function renderPage(stats: Stats, nonce: string): string {
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Convey</title>
<noscript><meta http-equiv="refresh" content="5"></noscript>
<style nonce="${nonce}">${STYLE}</style>
</head>
<body>
${renderMain(stats)}
<script nonce="${nonce}">${SCRIPT}</script>
</body>
</html>
`;
}

function renderMain(stats: Stats): string {
  const frontends = Object.entries(stats.frontends).map(([name, f]) => frontendRow(name, f));
  const backends = Object.entries(stats.backends).map(([name, b]) => backendTable(name, b));
  const reload = stats.last_reload;
  return `<main>
<header><h1>Convey</h1><p>${html(stats.version)} · ${html(stats.mode)} · up ${duration(stats.uptime_seconds)} · configuration ${stats.config_version}${stats.draining ? " · <strong>draining</strong>" : ""}</p></header>
<p>${connections(stats)}${bytes(stats.total_bytes_tx)} to servers, ${bytes(stats.total_bytes_rx)} to clients</p>
${packetPath(stats)}
${reload === null ? "" : `<p class="${reload.result === "rejected" ? "bad" : "dim"}">last reload: ${reload.result} at ${html(reload.at)}: ${html(reload.message)}</p>`}
<h2>Frontends</h2>
<div class="scroll" tabindex="0"><table>
<thead><tr><th scope="col">Name</th><th scope="col">Listens on</th><th scope="col">Backend</th>${COUNTER_HEADS}</tr></thead>
<tbody>${frontends.join("")}</tbody>
</table></div>
<h2>Backends</h2>
${backends.join("")}
${reasonList("Refused or ended early", stats.reasons)}
${packetReasons(stats)}
</main>`;
}

/** Those open and those so far, where they are counted. */
function connections({ current_connections: open, total_connections: total }: Stats): string {
  return open === undefined || total === undefined
    ? "connections are not counted · "
    : `${count(open)} open, ${count(total)} connections so far, `;
}

const COUNTER_HEADS = ["Open", "Total", "To servers", "To clients"]
  .map((head) => `<th scope="col" class="n">${head}</th>`)
  .join("");

function frontendRow(name: string, f: FrontendStats): string {
  return `<tr><th scope="row">${html(name)}</th><td>${html(f.address || "closed")}</td><td>${html(f.backend)}</td>${counterCells(f)}</tr>`;
}

function backendTable(name: string, backend: BackendStats): string {
  const servers = Object.entries(backend.server_details).map(([server, s]) => serverRow(server, s));
  const body = servers.length > 0 ? servers.join("") : '<tr><td colspan="9" class="dim">no servers</td></tr>';
  return `<div class="scroll" tabindex="0"><table>
<caption>${html(name)}</caption>
<thead><tr><th scope="col">Server</th><th scope="col">Address</th><th scope="col">State</th><th scope="col" class="n">Weight</th>${COUNTER_HEADS}<th scope="col">Last check</th></tr></thead>
<tbody>${body}</tbody>
<tfoot><tr><th scope="row" colspan="4">all servers</th>${counterCells(backend)}<td></td></tr></tfoot>
</table></div>`;
}

function serverRow(name: string, s: ServerStats): string {
  const [state, tone] = s.up ? (s.draining ? ["draining", "warn"] : ["up", "good"]) : ["down", "bad"];
  const check = s.last_check;
  const told = check === null ? "not yet" : `${check.cause}, ${check.duration_ms.toFixed(1)} ms`;
  return `<tr><th scope="row">${html(name)}</th><td>${html(s.addr)}</td><td class="${tone}">${state}</td><td class="n">${s.weight}</td>${counterCells(s)}<td title="${html(check?.at ?? "")}">${html(told)}</td></tr>`;
}

function counterCells(c: CounterStats): string {
  const connections = [c.current_connections, c.total_connections];
  const counted = connections.map((n) => (n === undefined ? "–" : count(n)));
  return [...counted, bytes(c.bytes_tx), bytes(c.bytes_rx)]
    .map((cell) => `<td class="n">${cell}</td>`)
    .join("");
}

/** The packet modes' own line; nothing in proxy mode. */
function packetPath({ engine, guard, interfaces, flows, packets, return_path_visible }: Stats): string {
  if (engine === undefined || flows === undefined || packets === undefined) return "";
  const visible = return_path_visible === false ? " · answers do not pass here" : "";
  return `<p>${html(engine)} on ${html(interfaces?.join(", ") ?? "")} · guard ${html(guard || "none")} · ${count(flows.current)} of ${count(flows.capacity)} flows · ${count(packets.forwarded)} packets forwarded${visible}</p>`;
}

function packetReasons({ packets }: Stats): string {
  if (packets === undefined) return "";
  return [
    reasonList("Packets answered here", packets.replied),
    reasonList("Why they were answered here", packets.answered),
    reasonList("Packets left to the kernel", packets.passed),
    reasonList("Packets dropped", packets.dropped),
    reasonList("Noted of packets and flows", packets.noted),
    reasonList("NAT ports taken, by how many were looked at", packets.nat_port_probes),
    reasonList("Packets kept from the kernel", packets.guard ?? {}),
  ].join("");
}

function reasonList(head: string, reasons: Reasons): string {
  const entries = Object.entries(reasons);
  if (entries.length === 0) return "";
  const items = entries.map(([reason, n]) => `<li>${html(reason)}: ${count(n)}</li>`);
  return `<h2>${head}</h2><ul>${items.join("")}</ul>`;
}

const ENTITIES: Record<string, string> = {
  "&": "&amp;",
  "<": "&lt;",
  ">": "&gt;",
  '"': "&quot;",
  "'": "&#39;",
};

function html(text: string): string {
  return text.replace(/[&<>"']/g, (c) => ENTITIES[c] ?? c);
}

const count = (n: number): string => n.toLocaleString("en-US");

function bytes(n: number): string {
  const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
  let value = n;
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${unit === 0 ? value : value.toFixed(1)} ${units[unit]}`;
}

function duration(seconds: number): string {
  const days = Math.floor(seconds / 86_400);
  const clock = [Math.floor(seconds / 3600) % 24, Math.floor(seconds / 60) % 60, seconds % 60];
  const text = clock.map((n) => String(n).padStart(2, "0")).join(":");
  return days > 0 ? `${days} d ${text}` : text;
}

const STYLE = `
:root{color-scheme:light dark;--fg:#1b1f24;--bg:#fff;--dim:#59636e;--line:#d1d9e0;--head:#f6f8fa;--good:#116329;--warn:#8a4600;--bad:#b00020}
@media (prefers-color-scheme:dark){:root{--fg:#e6edf3;--bg:#0d1117;--dim:#9198a1;--line:#30363d;--head:#161b22;--good:#56d364;--warn:#e3b341;--bad:#ff7b72}}
body{margin:0;background:var(--bg);color:var(--fg);font:14px/1.45 system-ui,sans-serif}
main{max-width:76rem;margin:0 auto;padding:1rem}
header{display:flex;gap:.2rem 1rem;align-items:baseline;flex-wrap:wrap}
header p{color:var(--dim)}
h1,h2,header p{margin:0}
h1{font-size:1.3rem}
h2{font-size:1rem;margin:1.4rem 0 .4rem}
.scroll{overflow-x:auto;margin-bottom:1rem}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums;white-space:nowrap}
caption{text-align:left;font-weight:600;padding:.2rem 0}
th,td{padding:.25rem .6rem;border-bottom:1px solid var(--line);text-align:left}
.n,th.n{text-align:right}
thead th{background:var(--head);color:var(--dim);font-weight:500}
tbody th{font-weight:500}
tfoot th,tfoot td{color:var(--dim);font-weight:400}
.good{color:var(--good)}.warn{color:var(--warn)}.bad{color:var(--bad)}.dim{color:var(--dim)}
.good,.warn,.bad{font-weight:600}
`;

const SCRIPT = `
const renew = async () => {
  try {
    const answer = await fetch("/", { cache: "no-store" });
    if (!answer.ok) throw new Error();
    const next = new DOMParser().parseFromString(await answer.text(), "text/html").querySelector("main");
    document.querySelector("main").replaceWith(next);
    document.title = "Convey";
  } catch {
    document.title = "Convey (not answering)";
  }
};
setInterval(() => document.hidden || renew(), 2000);
`;
