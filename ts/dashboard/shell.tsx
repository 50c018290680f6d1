/**
 * The page: an empty place that the script fills, and a snapshot in tables for browsers without scripts. Names from
 * the configuration are escaped by JSX.
 */
import type {
  BackendStats,
  CounterStats,
  FrontendStats,
  Reasons,
  ServerStats,
  Stats,
} from "../control/stats.ts";
import type { Assets } from "./assets.ts";
import { bytes, clock, count, millis, NOT_VISIBLE, UNCOUNTED } from "./format.ts";

/** Servers in the snapshot; more are in /stats. */
const MAX_SERVERS = 500;

export type ShellProps = {
  assets: Pick<Assets, "script" | "style" | "icon">;
  /** What the listener lets its clients do, for the script. */
  access: { read: string; write: string };
  /** For the snapshot. */
  stats: Stats;
};

/** The whole document. */
export function renderShell(props: ShellProps): string {
  return `<!doctype html>\n${(<Shell {...props} />).toString()}`;
}

function Shell({ assets, access, stats }: ShellProps) {
  return (
    <html lang="en" data-read={access.read} data-write={access.write}>
      <head>
        <meta charset="utf-8" />
        <meta name="viewport" content="width=device-width, initial-scale=1" />
        <meta name="color-scheme" content="light dark" />
        <title>Convey</title>
        <link rel="icon" href={assets.icon} />
        <link rel="stylesheet" href={assets.style} />
        <script type="module" src={assets.script} />
        <noscript>
          <meta http-equiv="refresh" content="5" />
        </noscript>
      </head>
      <body>
        <div id="app" />
        <noscript>
          <Snapshot stats={stats} />
        </noscript>
      </body>
    </html>
  );
}

function Snapshot({ stats }: { stats: Stats }) {
  const { last_reload: reload, packets } = stats;
  return (
    <main class="snapshot">
      <header>
        <h1>Convey</h1>
        <p>
          {stats.version} · {stats.mode} · up {clock(stats.uptime_seconds)} · configuration{" "}
          {stats.config_version}
          {stats.draining ? <strong> · draining</strong> : ""}
        </p>
      </header>
      <p>
        {stats.current_connections === undefined
          ? "connections are not counted"
          : `${count(stats.current_connections)} open, ${count(stats.total_connections ?? 0)} connections so far`}
        , {bytes(stats.total_bytes_tx)} to servers, to clients {received(stats, stats.total_bytes_rx)}
      </p>
      <PacketPath stats={stats} />
      {reload === null ? (
        ""
      ) : (
        <p>
          last reload: {reload.result} at {reload.at}: {reload.message}
        </p>
      )}
      <h2>Frontends</h2>
      <div class="scroll">
        <table>
          <thead>
            <tr>
              <th scope="col">Name</th>
              <th scope="col">Listens on</th>
              <th scope="col">Backend</th>
              <CounterHeads />
            </tr>
          </thead>
          <tbody>
            {Object.entries(stats.frontends).map(([name, frontend]) => (
              <FrontendLine stats={stats} name={name} frontend={frontend} />
            ))}
          </tbody>
        </table>
      </div>
      <h2>Backends</h2>
      <Backends stats={stats} />
      <ReasonList head="Refused or ended early" reasons={stats.reasons} />
      {packets === undefined ? (
        ""
      ) : (
        <>
          <ReasonList head="Packets answered here" reasons={packets.replied} />
          <ReasonList head="Why they were answered here" reasons={packets.answered} />
          <ReasonList head="Packets left to the kernel" reasons={packets.passed} />
          <ReasonList head="Packets dropped" reasons={packets.dropped} />
          <ReasonList head="Noted of packets and flows" reasons={packets.noted} />
          <ReasonList head="NAT ports taken, by how many were looked at" reasons={packets.nat_port_probes} />
          <ReasonList head="Packets kept from the kernel" reasons={packets.guard ?? {}} />
        </>
      )}
    </main>
  );
}

/** The packet modes' own lines. */
function PacketPath({ stats }: { stats: Stats }) {
  const { engine, engines_refused, guard, interfaces, flows, packets } = stats;
  if (engine === undefined || flows === undefined || packets === undefined) return null;
  return (
    <>
      <p>
        {engine} on {interfaces?.join(", ") ?? ""} · guard {guard || "none"} · {count(flows.current)} of{" "}
        {count(flows.capacity)} flows · {count(packets.forwarded)} packets forwarded
      </p>
      {(engines_refused ?? []).map((one) => (
        <p>
          engine {one.engine} was not taken: {one.cause}
          {one.remedy === "" ? "" : `; ${one.remedy}`}
        </p>
      ))}
    </>
  );
}

function Backends({ stats }: { stats: Stats }) {
  let room = MAX_SERVERS;
  return (
    <>
      {Object.entries(stats.backends).map(([name, backend]) => {
        const shown = Object.entries(backend.server_details).slice(0, room);
        room -= shown.length;
        return <BackendTable stats={stats} name={name} backend={backend} shown={shown} />;
      })}
    </>
  );
}

type BackendProps = { stats: Stats; name: string; backend: BackendStats; shown: [string, ServerStats][] };

function BackendTable({ stats, name, backend, shown }: BackendProps) {
  const left = Object.keys(backend.server_details).length - shown.length;
  return (
    <div class="scroll">
      <table>
        <caption>{name}</caption>
        <thead>
          <tr>
            <th scope="col">Server</th>
            <th scope="col">Address</th>
            <th scope="col">State</th>
            <th scope="col" class="n">
              Weight
            </th>
            <CounterHeads />
            <th scope="col">Last check</th>
          </tr>
        </thead>
        <tbody>
          {shown.map(([server, it]) => (
            <ServerLine stats={stats} name={server} server={it} />
          ))}
          {left > 0 ? (
            <tr>
              <td colspan={9}>and {count(left)} more, which /stats has</td>
            </tr>
          ) : (
            ""
          )}
        </tbody>
        <tfoot>
          <tr>
            <th scope="row" colspan={4}>
              all servers
            </th>
            <CounterCells stats={stats} counters={backend} />
            <td />
          </tr>
        </tfoot>
      </table>
    </div>
  );
}

function FrontendLine({ stats, name, frontend }: { stats: Stats; name: string; frontend: FrontendStats }) {
  return (
    <tr>
      <th scope="row">{name}</th>
      <td>{frontend.address || "closed"}</td>
      <td>{(frontend.backends ?? [frontend.backend]).join(", ")}</td>
      <CounterCells stats={stats} counters={frontend} />
    </tr>
  );
}

function ServerLine({ stats, name, server }: { stats: Stats; name: string; server: ServerStats }) {
  const state = server.up ? (server.draining ? "draining" : "up") : "down";
  const { last_check: check } = server;
  return (
    <tr>
      <th scope="row">{name}</th>
      <td>{server.addr}</td>
      <td class={`state ${state}`}>{state}</td>
      <td class="n">{server.weight}</td>
      <CounterCells stats={stats} counters={server} />
      <td title={check?.at ?? ""}>
        {check === null ? "not yet" : `${check.cause}, ${millis(check.duration_ms)}`}
      </td>
    </tr>
  );
}

function CounterHeads() {
  return (
    <>
      {["Open", "Total", "To servers", "To clients"].map((head) => (
        <th scope="col" class="n">
          {head}
        </th>
      ))}
    </>
  );
}

function CounterCells({ stats, counters }: { stats: Stats; counters: CounterStats }) {
  const connections = [counters.current_connections, counters.total_connections];
  const cells = [
    ...connections.map((n) => (n === undefined ? UNCOUNTED : count(n))),
    bytes(counters.bytes_tx),
    received(stats, counters.bytes_rx),
  ];
  return (
    <>
      {cells.map((cell) => (
        <td class="n">{cell}</td>
      ))}
    </>
  );
}

const received = (stats: Stats, n: number): string =>
  stats.return_path_visible === false ? NOT_VISIBLE : bytes(n);

function ReasonList({ head, reasons }: { head: string; reasons: Reasons }) {
  const entries = Object.entries(reasons);
  if (entries.length === 0) return null;
  return (
    <>
      <h2>{head}</h2>
      <ul>
        {entries.map(([reason, n]) => (
          <li>
            {reason}: {count(n)}
          </li>
        ))}
      </ul>
    </>
  );
}
