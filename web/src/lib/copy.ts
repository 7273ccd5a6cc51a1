/** Puts text on the clipboard, also where the page came over plain HTTP from another machine. */
export async function copy(text: string): Promise<boolean> {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const area = document.createElement("textarea");
    area.value = text;
    area.className = "sr-only";
    document.body.append(area);
    area.select();
    // The only way outside of a secure context.
    const done = document.execCommand("copy");
    area.remove();
    return done;
  }
}
