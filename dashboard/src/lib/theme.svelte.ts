// Light, dark, or as the system says.

type Choice = 'system' | 'light' | 'dark';
const KEY = 'coracle-theme';

class Theme {
  choice = $state<Choice>('system');
  private system = matchMedia('(prefers-color-scheme: dark)');
  dark = $state(false);

  start() {
    try {
      const kept = localStorage.getItem(KEY);
      if (kept === 'light' || kept === 'dark') this.choice = kept;
    } catch {
      // Storage can be switched off: the choice then lasts as long as the page.
    }
    this.system.addEventListener('change', () => this.apply());
    this.apply();
  }

  next() {
    const order: Choice[] = ['system', 'light', 'dark'];
    this.choice = order[(order.indexOf(this.choice) + 1) % order.length];
    try {
      localStorage.setItem(KEY, this.choice);
    } catch {
      // See above.
    }
    this.apply();
  }

  private apply() {
    this.dark = this.choice === 'dark' || (this.choice === 'system' && this.system.matches);
    document.documentElement.dataset.theme = this.dark ? 'dark' : 'light';
  }
}

export const theme = new Theme();
