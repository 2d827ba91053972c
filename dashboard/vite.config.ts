import { svelte } from '@sveltejs/vite-plugin-svelte';
import { defineConfig } from 'vite';

export default defineConfig({
  // Relative, so that the page works under any prefix.
  base: './',
  publicDir: 'src/public',
  plugins: [svelte()],
  build: {
    outDir: 'build',
    target: 'es2022',
    modulePreload: { polyfill: false },
    assetsInlineLimit: 0,
    reportCompressedSize: false,
  },
});
