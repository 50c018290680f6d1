import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { describe, expect, it } from "vitest";
import { configuration, convey, echoServer, folder, freePort, serving } from "./convey.ts";

describe("healthcheck", () => {
  it("exits 0 beside a running one and 1 after it ended", async () => {
    await using server = await echoServer();
    await using directory = await folder();
    const stats = await freePort();
    const file = await configuration(directory.path, server.port, `[stats]\nport = "${stats}"`);
    await using running = serving(["-c", file]);
    await running.waitFor(/is ready/);
    expect(await convey(["healthcheck", "-c", file])).toMatchObject({
      code: 0,
      stdout: "healthy\n",
      stderr: "",
    });
    await running.stop();
    const after = await convey(["healthcheck", "-c", file]);
    expect(after.code).toBe(1);
    expect(after.stderr).toBe(
      `unhealthy: http://127.0.0.1:${stats}/healthz: connection refused: nothing runs there\n`,
    );
  });

  it("exits 1 in time when the other side accepts and says nothing, or says no", async () => {
    await using directory = await folder();
    await using silent = await deaf();
    const file = await configuration(directory.path, 9);
    const none = await convey(["healthcheck", "-c", file, `--stats-port=${silent.port}`, "--timeout=200"]);
    expect(none.stderr).toContain("no answer within 200 ms");
    expect(none.code).toBe(1);
    const refusing = createServer((_request, response) => response.writeHead(500).end());
    await new Promise<void>((resolve) => refusing.listen(0, "127.0.0.1", resolve));
    const { port } = refusing.address() as AddressInfo;
    const no = await convey(["healthcheck", "-c", file, `--stats-port=${port}`]);
    refusing.close();
    expect(no.stderr).toContain("HTTP status 500");
    expect(no.code).toBe(1);
  });

  it("without an HTTP server in the configuration it says what to add", async () => {
    await using directory = await folder();
    const { code, stderr } = await convey(["healthcheck", "-c", await configuration(directory.path, 9)]);
    expect(stderr).toContain("add [stats] with a port");
    expect(code).toBe(1);
  });
});

/** Accepts and never answers. */
async function deaf(): Promise<AsyncDisposable & { port: number }> {
  const server = createServer(() => {});
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return {
    port: (server.address() as AddressInfo).port,
    async [Symbol.asyncDispose]() {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}
