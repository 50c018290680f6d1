/** `convey completion`: shell completion made from the command tree, so that it cannot fall behind it. */
import { Argument, type Command, type Option } from "commander";

const SHELLS = ["bash", "zsh", "fish"] as const;
type Shell = (typeof SHELLS)[number];

interface Completion {
  /** "" for the program itself. */
  name: string;
  description: string;
  options: readonly Option[];
  operands: readonly Argument[];
}

export function completionCommand(program: Command): Command {
  return program
    .command("completion")
    .description("print a completion script for a shell")
    .addArgument(new Argument("<shell>", "the shell").choices([...SHELLS]))
    .addHelpText(
      "after",
      "\nInstall it:\n" +
        "  bash  convey completion bash > /etc/bash_completion.d/convey\n" +
        '  zsh   convey completion zsh > "$' +
        '{fpath[1]}/_convey"\n' +
        "  fish  convey completion fish > ~/.config/fish/completions/convey.fish",
    )
    .action((shell: Shell) => {
      process.stdout.write(completionScript(program, shell));
    });
}

/** The script for one shell. */
export function completionScript(program: Command, shell: Shell): string {
  const tree = completionsOf(program);
  return { bash, zsh, fish }[shell](tree);
}

function completionsOf(program: Command): Completion[] {
  const help = program.createHelp();
  const commands = help.visibleCommands(program);
  const run = commands.find((command) => command.name() === "run");
  const own = help.visibleOptions(program);
  const entry = (command: Command): Completion => ({
    name: command.name(),
    description: command.description(),
    options: help.visibleOptions(command),
    operands: command.registeredArguments,
  });
  const runOptions = run ? help.visibleOptions(run).filter((option) => option.long !== "--help") : [];
  return [
    { name: "", description: program.description(), options: [...own, ...runOptions], operands: [] },
    ...commands.map(entry),
  ];
}

const flagsOf = (option: Option): string[] =>
  [option.short, option.long].filter((flag) => flag !== undefined);
const takesFile = (option: Option): boolean => option.flags.endsWith("<file>");
const isFile = (operand: Argument): boolean => operand.name() === "file";
const choicesOf = (operands: readonly Argument[]): string[] =>
  operands.flatMap((operand) => operand.argChoices ?? []);

function bash(tree: Completion[]): string {
  const commands = tree.filter(({ name }) => name !== "");
  const valueCases = uniqueOptions(tree)
    .filter((option) => option.required)
    .map((option) => {
      const words = option.argChoices
        ? `COMPREPLY=($(compgen -W '${option.argChoices.join(" ")}' -- "$current"))`
        : takesFile(option)
          ? 'COMPREPLY=($(compgen -f -- "$current"))'
          : "COMPREPLY=()";
      return `    ${flagsOf(option).join("|")}) ${words}; return ;;`;
    });
  const optionCases = tree.map(({ name, options, operands }) => {
    const first = name === "" ? commands.map((command) => command.name) : choicesOf(operands);
    return `    ${name === "" ? "''" : name}) words='${[...first, ...options.flatMap(flagsOf)].join(" ")}' ;;`;
  });
  const files = commands.filter(({ operands }) => operands.some(isFile)).map(({ name }) => name);
  return `# bash completion for convey
_convey() {
  local current=\${COMP_WORDS[COMP_CWORD]} previous=\${COMP_WORDS[COMP_CWORD-1]} command='' word words=''
  if [[ $current == '=' ]]; then current=''; fi
  if [[ $previous == '=' ]]; then previous=\${COMP_WORDS[COMP_CWORD-2]}; fi
  for word in "\${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
    case $word in ${commands.map(({ name }) => name).join("|")}) command=$word; break ;; esac
  done
  case $previous in
${valueCases.join("\n")}
  esac
  case $command in
${optionCases.join("\n")}
  esac
  case $command in ${files.join("|")})
    if [[ $current != -* ]]; then COMPREPLY=($(compgen -f -- "$current")); return; fi ;;
  esac
  COMPREPLY=($(compgen -W "$words" -- "$current"))
}
complete -o filenames -F _convey convey
`;
}

function zsh(tree: Completion[]): string {
  const quote = (text: string) => text.replaceAll("'", "'\\''");
  const describe = (text: string) => quote(text.replace(/[[\]:]/g, "\\$&"));
  const argument = (option: Option) => {
    const value = option.required
      ? `:${option.attributeName()}:${option.argChoices ? `(${option.argChoices.join(" ")})` : takesFile(option) ? "_files" : ""}`
      : "";
    return flagsOf(option).map(
      (flag) =>
        `'${flag}${option.required && flag.startsWith("--") ? "=" : ""}[${describe(option.description)}]${value}'`,
    );
  };
  const commands = tree.filter(({ name }) => name !== "");
  const root = tree.find(({ name }) => name === "");
  const operand = (own: Argument, at: number) =>
    `'${at + 1}:${describe(own.name())}:${own.argChoices ? `(${own.argChoices.join(" ")})` : isFile(own) ? "_files" : ""}'`;
  const cases = commands.map(({ name, options, operands }) => {
    // The command's own name is the first word that _arguments sees.
    const words = [
      ...options.flatMap(argument),
      "'1: :'",
      ...operands.map((own, at) => operand(own, at + 1)),
    ];
    return `    ${name}) _arguments ${words.join(" ")} ;;`;
  });
  return `#compdef convey
_convey() {
  local -a commands
  commands=(
${commands.map(({ name, description }) => `    '${name}:${describe(description)}'`).join("\n")}
  )
  local command=\${words[(r)${commands.map(({ name }) => name).join("|")}]}
  case $command in
${cases.join("\n")}
    *) _arguments ${(root?.options ?? []).flatMap(argument).join(" ")} '1:command:->command'
       if [[ $state == command ]]; then _describe command commands; fi ;;
  esac
}
_convey "$@"
`;
}

function fish(tree: Completion[]): string {
  const quote = (text: string) => `'${text.replace(/[\\']/g, "\\$&")}'`;
  const names = tree.map(({ name }) => name).filter((name) => name !== "");
  const lines = ["# fish completion for convey", "complete -c convey -f"];
  for (const { name, description, options, operands } of tree) {
    const when =
      name === ""
        ? quote(`not __fish_seen_subcommand_from ${names.join(" ")}`)
        : quote(`__fish_seen_subcommand_from ${name}`);
    if (name !== "")
      lines.push(`complete -c convey -n __fish_use_subcommand -a ${name} -d ${quote(description)}`);
    for (const option of options) {
      const flags = [
        option.short ? `-s ${option.short.slice(1)}` : "",
        option.long ? `-l ${option.long.slice(2)}` : "",
      ].filter(Boolean);
      const value = option.required ? (takesFile(option) ? " -r -F" : " -x") : "";
      const choices = option.argChoices ? ` -a ${quote(option.argChoices.join(" "))}` : "";
      lines.push(
        `complete -c convey -n ${when} ${flags.join(" ")}${value}${choices} -d ${quote(option.description)}`,
      );
    }
    const choices = choicesOf(operands);
    if (choices.length > 0) lines.push(`complete -c convey -n ${when} -a ${quote(choices.join(" "))}`);
    if (operands.some(isFile)) lines.push(`complete -c convey -n ${when} -F`);
  }
  return `${lines.join("\n")}\n`;
}

function uniqueOptions(tree: Completion[]): Option[] {
  const seen = new Map<string, Option>();
  for (const { options } of tree) for (const option of options) seen.set(option.flags, option);
  return [...seen.values()];
}
