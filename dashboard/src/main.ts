import { mount } from 'svelte';
import App from './App.svelte';
import './style.css';
import { clock } from './lib/clock.svelte';
import { live } from './lib/live.svelte';
import { router } from './lib/route.svelte';
import { theme } from './lib/theme.svelte';

// Another version of the page is served, whose parts have other names: load that, once.
const RELOADED = 'coracle-reloaded';
addEventListener('vite:preloadError', async () => {
  const again = Date.now() - Number(sessionStorage.getItem(RELOADED) ?? 0) > 60_000;
  const page = again && (await fetch('./', { cache: 'no-store' }).catch(() => undefined));
  if (!page || !page.ok) return;
  sessionStorage.setItem(RELOADED, String(Date.now()));
  location.reload();
});
theme.start();
clock.start();
router.start();
live.start();
mount(App, { target: document.getElementById('app')! });
