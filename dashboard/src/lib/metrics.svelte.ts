// CPU and memory of pods and nodes from metrics.k8s.io, with the history since the page was opened.

import { ApiFailure, get } from './api';
import { clock } from './clock.svelte';
import { quantity } from './format';
import { kinds } from './kinds.svelte';

export interface Sample {
  at: number;
  cpu: number;
  memory: number;
}

const POLL_MS = 10_000;
/** Half an hour of samples, for so many pods at most. */
const SAMPLES_MAX = 180;
const SERIES_MAX = 1500;

interface Usage {
  cpu?: string;
  memory?: string;
}

interface Measured {
  metadata: { name: string; namespace?: string };
  timestamp?: string;
  containers?: { usage: Usage }[];
  usage?: Usage;
}

class Metrics {
  /** Whether the API is served; unknown before the first answer. */
  served = $state<boolean | undefined>(undefined);
  version = $state(0);
  private series = new Map<string, Sample[]>();
  private users = 0;
  private timer: ReturnType<typeof setInterval> | undefined;

  /** Measures until the returned function is called. */
  follow(): () => void {
    if (this.users++ === 0) {
      this.poll();
      this.timer = setInterval(() => this.poll(), POLL_MS);
    }
    return () => {
      if (--this.users === 0) clearInterval(this.timer);
    };
  }

  pod(namespace: string, name: string): Sample[] {
    void this.version;
    return this.series.get(`${namespace}/${name}`) ?? [];
  }

  node(name: string): Sample[] {
    return this.pod('', name);
  }

  private async poll() {
    if (document.hidden) return;
    if (!kinds.versions.some((k) => k.group === 'metrics.k8s.io')) {
      this.served = false;
      return;
    }
    try {
      const base = 'apis/metrics.k8s.io/v1beta1';
      const [pods, nodes] = await Promise.all([
        get<{ items: Measured[] }>(`${base}/pods`),
        get<{ items: Measured[] }>(`${base}/nodes`),
      ]);
      this.served = true;
      const present = new Set<string>();
      for (const item of [...pods.items, ...nodes.items]) {
        const key = `${item.metadata.namespace ?? ''}/${item.metadata.name}`;
        present.add(key);
        const usages = item.containers?.map((c) => c.usage) ?? [item.usage ?? {}];
        const sum = (field: keyof Usage) => usages.reduce((n, u) => n + quantity(u[field]), 0);
        const sample = { at: item.timestamp ? Date.parse(item.timestamp) : clock.now, cpu: sum('cpu'), memory: sum('memory') };
        const series = this.series.get(key) ?? [];
        if (series.at(-1)?.at === sample.at) continue;
        series.push(sample);
        if (series.length > SAMPLES_MAX) series.shift();
        this.series.set(key, series);
      }
      for (const key of this.series.keys()) {
        if (!present.has(key) || this.series.size > SERIES_MAX) this.series.delete(key);
      }
      this.version++;
    } catch (error) {
      if (error instanceof ApiFailure && [403, 404, 503].includes(error.code)) this.served ??= false;
    }
  }
}

export const metrics = new Metrics();
