/** Short lines that tell what happened, and go by themselves. */

export interface Toast {
  id: number;
  text: string;
  bad: boolean;
}

class Toasts {
  shown = $state<Toast[]>([]);
  #count = 0;

  say(text: string, bad = false): void {
    const toast = { id: ++this.#count, text, bad };
    this.shown = [...this.shown.slice(-2), toast];
    setTimeout(() => this.drop(toast.id), bad ? 7000 : 2500);
  }

  fail(error: unknown): void {
    this.say(error instanceof Error ? error.message : String(error), true);
  }

  drop(id: number): void {
    this.shown = this.shown.filter((toast) => toast.id !== id);
  }
}

export const toasts = new Toasts();
