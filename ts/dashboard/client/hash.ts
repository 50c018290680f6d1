/** What the page shows is in its address, so that it can be linked to: `#q=down&sort=-open&server=app/one`. */

export type Shown = {
  /** Part of a name, an address, a state or its reason. */
  q: string;
  /** A column, with "-" in front for the largest first; "" for the configuration's order. */
  sort: string;
  /** `backend/server` whose details are open. */
  server: string;
};

export function shown(): Shown {
  const values = new URLSearchParams(location.hash.slice(1));
  return { q: values.get("q") ?? "", sort: values.get("sort") ?? "", server: values.get("server") ?? "" };
}

/** Changes part of it; nobody wants to go back through each letter. */
export function show(change: Partial<Shown>): void {
  const values = new URLSearchParams();
  for (const [name, value] of Object.entries({ ...shown(), ...change }))
    if (value !== "") values.set(name, value);
  const hash = values.toString().replaceAll("%2F", "/");
  history.replaceState(null, "", hash === "" ? location.pathname : `#${hash}`);
  dispatchEvent(new HashChangeEvent("hashchange"));
}
