import { chmod, mkdir, readdir, readFile, symlink, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { describe, expect, test } from "vitest";
import { finish, start, succeed } from "../../support/processes.ts";
import { echo, listening } from "../../support/sockets.ts";
import { configuration, folder, ROOT } from "./convey.ts";

const INSTALL_MS = 120_000;
/** What npm says when it cannot reach a registry; then there is nothing to install the dependencies from. */
const UNREACHABLE = /ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ETIMEDOUT|ENETUNREACH|ENOTCACHED/;

describe("packed tarballs", () => {
  test(
    "install into an empty folder on a machine without cargo, and forward",
    async (context) => {
      const packed = await succeed([process.execPath, join(ROOT, "ts/bootstrap/pack.mjs")]);
      const tarballs = packed.trim().split("\n");
      expect(tarballs.map((path) => path.slice(path.lastIndexOf("/") + 1).replace(/-\d.*/, ""))).toEqual([
        expect.stringMatching(/^convey-linux-(x64|arm64)-(gnu|musl)$/),
        "convey",
      ]);

      await using directory = await folder();
      const env = await bareEnvironment(directory.path);
      const app = join(directory.path, "app");
      await mkdir(app);
      await writeFile(join(app, "package.json"), "{}");
      const npm = [join(directory.path, "bin", "npm")];
      const install = [...npm, "install", "--no-audit", "--no-fund", "--prefer-offline", ...tarballs];
      const installed = await finish(install, { cwd: app, env, timeoutMs: INSTALL_MS });
      if (installed.code !== 0 && UNREACHABLE.test(installed.stderr)) {
        context.skip("needs an npm registry or npm's cache for the dependencies");
      }
      expect(installed).toMatchObject({ code: 0 });

      const manifest = JSON.parse(
        await readFile(join(app, "node_modules/convey/package.json"), "utf8"),
      ) as object;
      expect(manifest).not.toHaveProperty("scripts");
      expect(await addons(join(app, "node_modules/convey"))).toEqual([]);
      const dashboard = await readdir(join(app, "node_modules/convey/dist/dashboard/assets"));
      expect(dashboard.sort()).toEqual(["app.css", "app.js", "icon.svg"]);

      const npx = join(directory.path, "bin", "npx");
      const { version } = JSON.parse(await readFile(join(ROOT, "package.json"), "utf8")) as {
        version: string;
      };
      expect(await finish([npx, "convey", "--version"], { cwd: app, env })).toMatchObject({
        code: 0,
        stdout: `convey ${version}\n`,
      });
      await using server = await listening(echo);
      const file = await configuration(app, server.port);
      const valid = await finish([npx, "convey", "validate", file], { cwd: app, env });
      expect(valid.stdout).toMatch(/: valid: /);
      expect(valid.code).toBe(0);

      const script = `
        import { createBalancer } from "convey";
        import { connect } from "node:net";
        const lb = await createBalancer({ configFile: ${JSON.stringify(file)} });
        const socket = connect(lb.address("web").port, "127.0.0.1");
        socket.end("through the package");
        for await (const bytes of socket) process.stdout.write(bytes);
        await lb.close();
      `;
      await writeFile(join(app, "program.mjs"), script);
      expect(await finish([process.execPath, "program.mjs"], { cwd: app, env })).toMatchObject({
        code: 0,
        stdout: "through the package",
      });
      await using running = start([join(app, "node_modules/.bin/convey"), "-c", file], { cwd: app, env });
      await running.waitFor(/is ready/);
      expect((await running.stop()).code).toBe(0);
    },
    INSTALL_MS + 60_000,
  );
});

describe("a checkout", () => {
  test("is not published itself, for its command is made to build it", async () => {
    const manifest = JSON.parse(await readFile(join(ROOT, "package.json"), "utf8")) as { private?: boolean };
    expect(manifest.private).toBe(true);
  });

  test("has npx convey", async () => {
    const done = await finish(["npx", "--no-install", "convey", "--version"], {
      cwd: ROOT,
      timeoutMs: 60_000,
    });
    expect(done.stdout).toMatch(/^convey \d+\.\d+\.\d+\n$/);
    expect(done.code).toBe(0);
  }, 60_000);
});

/** An environment whose PATH has Node, npm and a shell, and no compiler of any kind. */
async function bareEnvironment(directory: string): Promise<NodeJS.ProcessEnv> {
  const bin = join(directory, "bin");
  await mkdir(bin);
  const cli = join(dirname(await npmCli()), "npx-cli.js");
  for (const [name, target] of [
    ["npm", await npmCli()],
    ["npx", cli],
  ] as const) {
    await writeFile(join(bin, name), `#!/bin/sh\nexec '${process.execPath}' '${target}' "$@"\n`);
    await chmod(join(bin, name), 0o755);
  }
  await symlink(process.execPath, join(bin, "node"));
  await symlink("/bin/sh", join(bin, "sh"));
  return { PATH: bin, HOME: process.env.HOME };
}

/** npm's own script: the one that runs these tests, or the one on the PATH. */
async function npmCli(): Promise<string> {
  const own = process.env.npm_execpath;
  if (own?.endsWith("npm-cli.js")) return own;
  const root = (await succeed(["npm", "root", "--global"])).trim();
  return join(root, "npm", "bin", "npm-cli.js");
}

async function addons(directory: string): Promise<string[]> {
  const files = await readdir(directory, { recursive: true });
  return files.filter((file) => file.endsWith(".node"));
}
