/** The token that somebody entered, for as long as this tab lives. */
const KEY = "convey-token";

export const token = (): string | undefined => sessionStorage.getItem(KEY) ?? undefined;

export function setToken(value: string | undefined): void {
  if (value === undefined) sessionStorage.removeItem(KEY);
  else sessionStorage.setItem(KEY, value);
}
