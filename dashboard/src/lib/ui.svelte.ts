// What pages say and ask: notes in the corner, dialogs, the filter, keys.

import { tick, type Component } from 'svelte';
import { text, warnings } from './api';

export interface Note {
  id: number;
  tone: 'good' | 'bad' | 'busy';
  text: string;
}

class Ui {
  notes = $state<Note[]>([]);
  filter = $state('');
  /** Whether the menu is open, where the window is too narrow for both. */
  menu = $state(false);
  dialog = $state.raw<{ component: Component<any>; props: Record<string, unknown> } | null>(null);
  private counter = 0;
  private returnTo: HTMLElement | null = null;

  note(tone: Note['tone'], text: string) {
    const id = this.counter++;
    this.notes = [...this.notes.slice(-3), { id, tone, text }];
    setTimeout(() => this.forget(id), tone === 'bad' ? 12_000 : 4_000);
  }

  forget(id: number) {
    this.notes = this.notes.filter((n) => n.id !== id);
  }

  /** Does something and says how it went. */
  async attempt(what: string, action: () => Promise<unknown>): Promise<boolean> {
    try {
      await action();
      this.note('good', what);
      return true;
    } catch (error) {
      this.note('bad', text(error));
      return false;
    }
  }

  open<P extends Record<string, unknown>>(component: Component<P>, props: P) {
    this.returnTo = document.activeElement as HTMLElement | null;
    this.dialog = { component, props };
  }

  close() {
    this.dialog = null;
    // While the dialog is there, nothing else can have the focus.
    tick().then(() => this.returnTo?.focus());
  }
}

export const ui = new Ui();
warnings.listener = (text) => ui.note('busy', text);

/** Keys of the page on screen, on top of the global ones. */
type Handler = (event: KeyboardEvent) => boolean;
const handlers: Handler[] = [];

export function keys(handler: Handler) {
  $effect(() => {
    handlers.push(handler);
    return () => {
      handlers.splice(handlers.indexOf(handler), 1);
    };
  });
}

export const pressed = (event: KeyboardEvent) => [...handlers].reverse().some((handler) => handler(event));

export const typing = (target: EventTarget | null) =>
  target instanceof HTMLElement && (target.isContentEditable || /^(INPUT|TEXTAREA|SELECT)$/.test(target.tagName) || !!target.closest('.xterm, .cm-editor'));
