/** One metric with all its series at one moment, and how it becomes text. */
import type { Metric, RegistryContentType } from "prom-client";

/** The two formats of exposition. Prometheus asks for OpenMetrics where it can have it. */
export type MetricsFormat = "text" | "openmetrics";

/** What an answer in either format is sent under. */
export const CONTENT_TYPES = {
  text: "text/plain; version=0.0.4; charset=utf-8",
  openmetrics: "application/openmetrics-text; version=1.0.0; charset=utf-8",
} as const satisfies Record<MetricsFormat, RegistryContentType>;

export type Labels = Readonly<Record<string, string>>;

/** One series. `of` are labels that many series share; the same object is put into words once. */
export type Sample = { value: number; labels?: Labels; of?: Labels; suffix?: "_bucket" | "_sum" | "_count" };

export type Family = {
  /** With `_total` for a counter. */
  name: string;
  /** What is counted, and in what. */
  help: string;
  type: "counter" | "gauge" | "histogram";
  samples: readonly Sample[];
};

export const counter = (name: string, help: string, samples: readonly Sample[]): Family => ({
  name,
  help,
  type: "counter",
  samples,
});

export const gauge = (name: string, help: string, samples: readonly Sample[]): Family => ({
  name,
  help,
  type: "gauge",
  samples,
});

/** A series for each entry, labelled with its key; those without a value are left out. */
export function by(
  label: string,
  values: Readonly<Record<string, number | undefined>>,
  of?: Labels,
): Sample[] {
  return Object.entries(values).flatMap(([key, value]) =>
    value === undefined ? [] : [{ value, labels: { [label]: key }, ...(of && { of }) }],
  );
}

/** The one series of a metric, or none where there is no value. */
export const one = (value: number | undefined, of?: Labels): Sample[] =>
  value === undefined ? [] : [{ value, ...(of && { of }) }];

/** The text of `families`; those without a series are left out. */
export async function render(families: readonly Family[], format: MetricsFormat): Promise<string> {
  // Loaded when first asked for: most processes are never scraped.
  const { Registry } = (await import("prom-client")).default;
  const registry = new Registry<RegistryContentType>();
  registry.setContentType(CONTENT_TYPES[format]);
  for (const family of families) if (family.samples.length > 0) registry.registerMetric(asMetric(family));
  return await registry.metrics();
}

/**
 * A registry asks no more of a metric than its name, type and series. The library's own classes would hash and check
 * every label of every series again, which is most of the time that a scrape of many servers takes.
 */
function asMetric({ name, help, type, samples }: Family): Metric {
  const metric = {
    // The registry takes `_total` off a counter's name in OpenMetrics, where it belongs to the series alone.
    name,
    type,
    get: async () => ({
      name: metric.name,
      help,
      type,
      values: samples.map(({ value, labels = {}, of, suffix }) => ({
        value,
        labels,
        ...(of && { sharedLabels: of }),
        ...(suffix && { metricName: `${name}${suffix}` }),
      })),
    }),
  };
  return metric as unknown as Metric;
}
