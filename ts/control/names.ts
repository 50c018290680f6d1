/** Configurations whose type tells their names, so that calls with names are completed and checked by the compiler. */
import type { z } from "zod";
import type { backendSchema, ConfigInput, frontendSchema, serverSchema } from "../config/schema.ts";

/** The names that calls of a balancer take. */
export type Names = { frontend: string; backend: string; server: string };

/** Tables and lists as programs may hand them over, frozen or not. */
type Frozen<T> = T extends object ? { readonly [K in keyof T]: Frozen<T[K]> } : T;

type Frontend = Frozen<z.input<typeof frontendSchema>>;
type Backend = Frozen<z.input<typeof backendSchema>>;
type Server = Frozen<z.input<typeof serverSchema>>;

/** Backends with their servers, by name. */
export type Backends = { readonly [name: string]: Backend };

/** What was inferred has no excess property that the compiler would tell by itself: it must be `never`. */
type Strict<B> = {
  readonly [N in keyof B]: {
    readonly [K in keyof B[N]]: K extends "servers"
      ? StrictServers<B[N][K]>
      : K extends keyof Backend
        ? B[N][K]
        : never;
  };
};
type StrictServers<T> = T extends object ? { readonly [S in keyof T]: Known<T[S], Server> } : T;
type Known<T, Shape> = { readonly [K in keyof T]: K extends keyof Shape ? T[K] : never };

/**
 * A configuration with frontends named `F` and these backends, whose names its type tells; a plain `ConfigInput` is one
 * whose names are strings.
 */
export type NamedConfig<F extends string, B extends Backends> = Frozen<
  Omit<ConfigInput, "frontends" | "backends">
> & {
  /** Where clients connect, by name. */
  readonly frontends: { readonly [N in F]: Frontend };
  /** The pools of servers, by name. */
  readonly backends: B & Strict<B>;
};

type Key<T> = keyof T & string;

/** The names of such a configuration, servers as `backend/server`. */
export type NamesOf<F extends string, B extends Backends> = {
  frontend: F;
  backend: Key<B>;
  server: string extends keyof B
    ? string
    : {
        [N in Key<B>]: B[N] extends { readonly servers?: infer S } ? `${N}/${Key<NonNullable<S>>}` : never;
      }[Key<B>];
};
