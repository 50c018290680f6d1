import { execFile } from "node:child_process";
import { chmod, readdir, stat } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { expect, test } from "vitest";
import { loadConfigText } from "../../../ts/config/load.ts";
import { needs } from "../../support/requirements.ts";
import { configuration, folder, serving } from "../cli/convey.ts";

test("a member of stats.socket_group may command, and nobody else", async (context) => {
  needs(context, { root: true, tools: ["curl"] });
  await using directory = await folder();
  await chmod(directory.path, 0o755);
  const state = join(directory.path, "state");
  const file = await configuration(directory.path, 1, "[stats]\nport = 0\nsocket_group = 54321");
  await using running = serving(["-c", file], { ...process.env, CONVEY_STATE_DIR: state });
  await running.waitFor(/is ready/);
  const socket = join(state, (await readdir(state)).find((name) => name.endsWith(".sock")) as string);
  expect((await stat(socket)).mode & 0o777).toBe(0o660);
  const asked = async (...groups: string[]) => {
    const who = ["--reuid", "54399", "--regid", "54399", ...groups];
    const curl = ["curl", "-s", "--unix-socket", socket, "-X", "POST", "http://convey/api/v1/reload"];
    return await promisify(execFile)("setpriv", [...who, ...curl]).then(
      ({ stdout }) => stdout,
      ({ code }) => `curl ${code}`,
    );
  };
  expect(await asked("--clear-groups")).toBe("curl 7");
  expect(await asked("--groups", "54321")).toContain('"result":"unchanged"');
});

test("a group that this host does not have is a problem at its place", async () => {
  const toml =
    '[frontends.web]\nlisten_addr = ":0"\nbackend = "p"\n[backends.p.servers.s]\naddr = "127.0.0.1:1"\n';
  const load = async (group: string) =>
    await loadConfigText(`${toml}[stats]\nport = 0\nsocket_group = ${group}\n`, {
      file: "t.toml",
      host: true,
    });
  const bad = await load('"no-such-group"');
  expect(bad.ok ? [] : bad.problems).toMatchObject([
    { path: "stats.socket_group", line: 8, column: 16, message: "no group of this host has that name" },
  ]);
  for (const unfit of ["-1", "1.5", "true", '""', '"a b"']) expect((await load(unfit)).ok, unfit).toBe(false);
  expect((await load('"root"')).ok).toBe(true);
  expect((await load("4000")).ok).toBe(true);
});
