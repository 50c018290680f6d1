import { setTimeout as sleep } from "node:timers/promises";
import { expect, test } from "vitest";
import { createBalancer } from "../../../ts/index.ts";
import { blackHole, collect, echoServer } from "../../support/control.ts";
import { until } from "../../support/processes.ts";
import { freePort } from "../../support/sockets.ts";

test.each([3000])(
  "beside %i servers that do not answer, a server that dies is noticed within an interval or so",
  async (holes) => {
    await using hole = await blackHole();
    await using neighbour = await echoServer("neighbour", await freePort());
    await using lb = await createBalancer({
      frontends: { web: { listen_addr: "127.0.0.1:0", backend: "live" } },
      backends: {
        live: {
          health_check_interval: 1,
          health_check_fall: 1,
          servers: { neighbour: { addr: neighbour.addr } },
        },
        holes: {
          health_check_interval: 1,
          servers: Object.fromEntries(
            Array.from({ length: holes }, (_, i) => [
              `s${i}`,
              { addr: `127.9.${i >> 8}.${i & 255}:${hole.port}` },
            ]),
          ),
        },
      },
      proxy: { workers: 1 },
    });
    const seen = collect(lb);
    await sleep(5000);
    await neighbour.close();
    const closedAt = performance.now();
    await until(() => seen.some((e) => e.type === "server" && e.server === "neighbour"), "the event", 90_000);
    const ms = performance.now() - closedAt;
    // With every place taken by a connect that is not answered it took 17 seconds.
    expect(ms).toBeLessThan(4000);
  },
  120_000,
);
