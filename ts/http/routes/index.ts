/** Every route, one file each; `../route.ts` says how to add one. */
import { addServer, setServers } from "./add-server.ts";
import { changeServer } from "./change-server.ts";
import { asset, page } from "./dashboard.ts";
import { events } from "./events.ts";
import { explain } from "./explain.ts";
import { explainLive } from "./explain-live.ts";
import { flows, killFlows } from "./flows.ts";
import { healthz } from "./healthz.ts";
import { live, serverHistory } from "./live.ts";
import { metrics } from "./metrics.ts";
import { openapi } from "./openapi.ts";
import { plan } from "./plan.ts";
import { readyz } from "./readyz.ts";
import { confirmReload, reload } from "./reload.ts";
import { removeServer } from "./remove-server.ts";
import { server, servers } from "./servers.ts";
import { apiStats, stats } from "./stats.ts";

export const ROUTES = [
  page,
  asset,
  stats,
  healthz,
  readyz,
  metrics,
  apiStats,
  live,
  serverHistory,
  events,
  servers,
  server,
  changeServer,
  removeServer,
  addServer,
  setServers,
  reload,
  confirmReload,
  plan,
  flows,
  killFlows,
  explain,
  explainLive,
  openapi,
] as const;
