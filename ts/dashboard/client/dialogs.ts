/** Questions to people: modal, closed by Escape, with the focus back where it was. */
import { h, setText } from "./dom.ts";

type Question = {
  title: string;
  /** What will happen, a paragraph each. */
  text: readonly string[];
  /** An input that the answer comes from. */
  field?: { label: string; type: "password" | "number"; value?: string; attributes?: Record<string, string> };
  /** What the button says. */
  action: string;
  /** Says what will happen with the input as it is. */
  preview?: (value: string) => string;
};

let lastId = 0;

/** Asks; what was entered ("" without a field), or undefined when it was called off. */
export function ask({ title, text, field, action, preview }: Question): Promise<string | undefined> {
  lastId += 1;
  const id = `dialog-${lastId}`;
  const consequence = h("p", { class: "consequence", "aria-live": "polite" });
  const input = h("input", {
    id: `${id}-input`,
    type: field?.type ?? "text",
    value: field?.value ?? "",
    autocomplete: "off",
    ...field?.attributes,
    input: () => setText(consequence, preview?.(input.value) ?? ""),
  });
  setText(consequence, preview?.(field?.value ?? "") ?? "");
  const cancel = h("button", { type: "button", click: () => dialog.close() }, "Cancel");
  const agree = h("button", { type: "submit", class: "primary", value: "yes" }, action);
  const form = h(
    "form",
    { method: "dialog" },
    h("h2", { id: `${id}-title` }, title),
    ...text.map((line) => h("p", {}, line)),
    ...(field === undefined ? [] : [h("label", { for: `${id}-input` }, field.label), input]),
    ...(preview === undefined ? [] : [consequence]),
    h("div", { class: "buttons" }, cancel, agree),
  );
  const dialog = h("dialog", { "aria-labelledby": `${id}-title` }, form);
  // A policy without form-action forbids even the forms that only close a dialog.
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    dialog.close("yes");
  });
  document.body.append(dialog);
  dialog.showModal();
  if (field === undefined) cancel.focus();
  else input.select();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      resolve(dialog.returnValue === "yes" ? input.value : undefined);
      dialog.remove();
    });
  });
}
