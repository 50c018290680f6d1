/** Types of needs.mjs, for the tests written in TypeScript. */
type Environment = Record<string, string | undefined>;

export declare function unknownNames(names: readonly string[]): string[];
export declare function unmet(names: readonly string[], environment?: Environment): string[];
export declare function remedy(names: readonly string[]): string;
export declare function findCommand(name: string, environment?: Environment): string | undefined;
export declare function onlyDeclared(
  names: readonly string[],
  environment?: Environment,
): { path: string; remove(): void };
