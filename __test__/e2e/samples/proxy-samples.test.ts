import { afterEach, expect, test } from "vitest";
import { serverKey } from "../../../ts/config/lower.ts";
import { createBalancer } from "../../../ts/index.ts";
import { ask, type Closable, httpServer } from "../../support/control.ts";
import { loadSample, type Sample, withFreePorts } from "../../support/samples.ts";

const running: Closable[] = [];
afterEach(async () => {
  for (const server of running.splice(0)) await server.close();
});

const samples: Sample[] = ["minimal", "full", "proxy"];

test.each(samples)(
  "the sample %s starts, and each of its frontends reaches the servers of its backend",
  async (name) => {
    const config = withFreePorts(await loadSample(name));
    for (const [backend, { servers }] of Object.entries(config.backends)) {
      for (const [server, settings] of Object.entries(servers)) {
        const real = await httpServer(serverKey(backend, server));
        running.push(real);
        settings.addr = real.addr;
      }
    }
    await using lb = await createBalancer(config, { watch: false });
    for (const [frontend, { backend }] of Object.entries(config.frontends)) {
      const answer = await ask(lb.address(frontend), "/");
      expect(answer.body).toMatch(new RegExp(`^${backend}/`));
    }
  },
);
