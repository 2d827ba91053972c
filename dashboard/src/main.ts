import { mount } from 'svelte';
import App from './App.svelte';
import './style.css';
import { clock } from './lib/clock.svelte';
import { live } from './lib/live.svelte';
import { router } from './lib/route.svelte';
import { theme } from './lib/theme.svelte';

theme.start();
clock.start();
router.start();
live.start();
mount(App, { target: document.getElementById('app')! });
