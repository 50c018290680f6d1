import { expect, test } from "vitest";
import { serverKey } from "../../../ts/config/lower.ts";
import { createBalancer } from "../../../ts/index.ts";
import { ask, httpServer, type TestServer } from "../../support/control.ts";
import { loadSample, type Sample, withFreePorts } from "../../support/samples.ts";
import { together } from "../../support/sockets.ts";

const samples: Sample[] = ["minimal", "full", "proxy"];

test.each(samples)(
  "the sample %s starts, and each of its frontends reaches the servers of its backend",
  async (name) => {
    const config = withFreePorts(await loadSample(name));
    const running: TestServer[] = [];
    await using _servers = together(running);
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
