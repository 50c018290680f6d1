/** Every route, one file each; `../route.ts` says how to add one. */
import { explain } from "./explain.ts";
import { healthz } from "./healthz.ts";
import { page } from "./page.ts";
import { readyz } from "./readyz.ts";
import { reload } from "./reload.ts";
import { apiStats, stats } from "./stats.ts";

export const ROUTES = [page, stats, healthz, readyz, apiStats, explain, reload] as const;
