/** The words of the settings that flags choose from; apart from the schema, whose library help need not load. */
export const MODES = ["proxy", "passthrough", "dsr"] as const;
export const ENGINES = ["auto", "tc", "xdp", "af_xdp", "af_packet"] as const;
export const BALANCES = ["round_robin", "least_connections", "random_two", "source_hash", "maglev"] as const;
export const LOG_LEVELS = ["trace", "debug", "info", "warn", "error", "silent"] as const;
