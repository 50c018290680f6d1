import {
  mkdirSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";
import { parse } from "yaml";
import { loadConfigFile } from "../../../ts/config/load.ts";
import { createBalancer } from "../../../ts/index.ts";
import { until } from "../../support/processes.ts";

const SAMPLES = join(import.meta.dirname, "../../../samples/kubernetes");
const read = (file: string) => parse(readFileSync(join(SAMPLES, file), "utf8"));
const TOML: string = read("configmap.yaml").data["convey.toml"];

/** A folder as the kubelet mounts a ConfigMap; `swap` changes its content as the kubelet does. */
function mounted(content: string) {
  const home = mkdtempSync(join(tmpdir(), "convey-kubernetes-"));
  let version = 0;
  const swap = (text: string): void => {
    const name = `..2026_01_01_00_00_0${++version}.1`;
    mkdirSync(join(home, name));
    writeFileSync(join(home, name, "convey.toml"), text);
    symlinkSync(name, join(home, "..data_tmp"));
    renameSync(join(home, "..data_tmp"), join(home, "..data"));
  };
  swap(content);
  symlinkSync("..data/convey.toml", join(home, "convey.toml"));
  return {
    home,
    file: join(home, "convey.toml"),
    swap,
    [Symbol.dispose]: () => rmSync(home, { recursive: true, force: true }),
  };
}

/** Loads the configuration as if the Secret was mounted. */
async function load() {
  using map = mounted(TOML);
  const token = join(map.home, "token");
  writeFileSync(token, "0123456789abcdef0123456789abcdef", { mode: 0o400 });
  map.swap(TOML.replace("/etc/convey-token/token", token));
  return await loadConfigFile(map.file, []);
}

test("the ConfigMap's configuration is valid", async () => {
  const loaded = await load();
  expect(loaded.ok ? loaded.warnings : loaded.problems).toEqual([]);
});

test("the DaemonSet's mounts, ports, probes and times fit the ConfigMap", async () => {
  const loaded = await load();
  if (!loaded.ok) throw new Error("see the test before");
  const { stats, shutdown } = loaded.config;
  const { spec, metadata } = read("daemonset.yaml").spec.template;
  const [container] = spec.containers;
  const env = Object.fromEntries(
    container.env.map(({ name, value }: { name: string; value: string }) => [name, value]),
  );
  const mounts = Object.fromEntries(
    container.volumeMounts.map(({ name, mountPath }: { name: string; mountPath: string }) => [
      name,
      mountPath,
    ]),
  );
  expect(env.CONVEY_CONFIG).toBe(`${mounts.config}/convey.toml`);
  expect(env.CONVEY_STATE_DIR?.startsWith(`${mounts.state}/`)).toBe(true);
  expect(TOML).toContain(`token_file = "${mounts.token}/token"`);
  expect(container.volumeMounts.some((mount: { subPath?: string }) => mount.subPath !== undefined)).toBe(
    false,
  );
  for (const { name } of container.volumeMounts) {
    expect(spec.volumes.map((volume: { name: string }) => volume.name)).toContain(name);
  }
  expect(spec.volumes.find(({ name }: { name: string }) => name === "config").configMap.name).toBe(
    read("configmap.yaml").metadata.name,
  );
  expect(container.ports).toEqual([{ name: "stats", containerPort: Number(stats?.port) }]);
  expect(metadata.annotations["prometheus.io/port"]).toBe(String(stats?.port));
  expect(container.livenessProbe.httpGet).toEqual({ path: "/healthz", port: "stats" });
  expect(container.readinessProbe.httpGet).toEqual({ path: "/readyz", port: "stats" });
  const preStopS = Number(container.lifecycle.preStop.exec.command[1]);
  expect(preStopS + shutdown.drain_timeout_ms / 1000).toBeLessThan(spec.terminationGracePeriodSeconds);
});

test("a ConfigMap that is swapped under the mount is in service, and a broken one is refused", async () => {
  // Ports of this machine instead of a node's, and nothing that wants the token's mount.
  const local = TOML.replace('":80"', '"127.0.0.1:0"').replace(/\[stats\][\s\S]*?\n\n/, "");
  expect(local).not.toContain("stats");
  using map = mounted(local);
  await using lb = await createBalancer({ configFile: map.file });
  map.swap(local.replace("10.0.0.12:8080", "10.0.0.13:8080"));
  await until(() => lb.stats().config_version === 2, "the swapped configuration");
  expect(lb.stats().backends.web?.server_details.two?.addr).toBe("10.0.0.13:8080");
  map.swap("nonsense");
  await until(() => lb.stats().last_reload?.result === "rejected", "the refusal");
  expect(lb.stats().config_version).toBe(2);
  map.swap(local);
  await until(() => lb.stats().config_version === 3, "the configuration that was first");
});
