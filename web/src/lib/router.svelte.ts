/** Where we are: one shell for all pages, told apart by the path. */

class Router {
  path = $state(location.pathname);

  constructor() {
    addEventListener("popstate", () => (this.path = location.pathname));
    document.addEventListener("click", (event) => this.#follow(event));
  }

  go(path: string, { replace = false } = {}): void {
    if (path === location.pathname) return;
    history[replace ? "replaceState" : "pushState"](null, "", path);
    this.path = path;
  }

  /** `/bot/group/123` → ["bot", "group", "123"] */
  get parts(): string[] {
    return this.path.split("/").filter(Boolean).map(decoded);
  }

  get page(): "chat" | "try" | "bot" {
    const first = this.parts[0];
    return first === "try" || first === "bot" ? first : "chat";
  }

  #follow(event: MouseEvent): void {
    if (event.defaultPrevented || event.button !== 0 || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey)
      return;
    const link = (event.target as Element | null)?.closest?.("a[data-route]");
    if (!(link instanceof HTMLAnchorElement)) return;
    event.preventDefault();
    this.go(link.pathname);
  }
}

function decoded(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

export const router = new Router();
