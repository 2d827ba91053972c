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
/** What nobody has looked at for this long is forgotten. */
const KEPT_MS = 120_000;

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

/** What is shown somewhere, and so asked for: nodes, or the pods of a namespace (empty for all). */
interface Wanted {
  nodes?: boolean;
  pods?: string;
}

class Metrics {
  /** Whether the API is served; unknown before the first answer. */
  served = $state<boolean | undefined>(undefined);
  version = $state(0);
  private series = new Map<string, { samples: Sample[]; seen: number }>();
  private wanted = new Set<Wanted>();
  private timer: ReturnType<typeof setInterval> | undefined;

  /** Measures until the returned function is called. */
  follow(wanted: Wanted): () => void {
    this.wanted.add(wanted);
    this.poll(wanted);
    this.timer ??= setInterval(() => this.poll(...this.wanted), POLL_MS);
    return () => {
      this.wanted.delete(wanted);
      if (this.wanted.size > 0) return;
      clearInterval(this.timer);
      this.timer = undefined;
    };
  }

  pod(namespace: string, name: string): Sample[] {
    void this.version;
    return this.series.get(`${namespace}/${name}`)?.samples ?? [];
  }

  node(name: string): Sample[] {
    return this.pod('', name);
  }

  private async poll(...wanted: Wanted[]) {
    if (document.hidden) return;
    if (!kinds.versions.some((k) => k.group === 'metrics.k8s.io')) {
      this.served = false;
      return;
    }
    const namespaces = new Set(wanted.flatMap((w) => w.pods ?? []));
    const some = namespaces.has('') ? [''] : [...namespaces];
    try {
      const base = 'apis/metrics.k8s.io/v1beta1';
      const list = async (path: string) => (await get<{ items: Measured[] }>(`${base}/${path}`)).items;
      const answers = await Promise.all([
        ...(wanted.some((w) => w.nodes) ? [list('nodes')] : []),
        ...some.map((ns) => list(ns ? `namespaces/${encodeURIComponent(ns)}/pods` : 'pods')),
      ]);
      this.served = true;
      for (const item of answers.flat()) this.take(item);
      this.forget();
      this.version++;
    } catch (error) {
      if (error instanceof ApiFailure && [403, 404, 503].includes(error.code)) this.served ??= false;
    }
  }

  private take(item: Measured) {
    const key = `${item.metadata.namespace ?? ''}/${item.metadata.name}`;
    const usages = item.containers?.map((c) => c.usage) ?? [item.usage ?? {}];
    const sum = (field: keyof Usage) => usages.reduce((n, u) => n + quantity(u[field]), 0);
    const sample = { at: item.timestamp ? Date.parse(item.timestamp) : clock.now, cpu: sum('cpu'), memory: sum('memory') };
    const known = this.series.get(key)?.samples ?? [];
    // A new array: what shows the old one is told by that.
    const samples = known.at(-1)?.at === sample.at ? known : [...known.slice(1 - SAMPLES_MAX), sample];
    this.series.set(key, { samples, seen: Date.now() });
  }

  /** What has not been measured for long is over, or nobody looks at it. */
  private forget() {
    for (const [key, { seen }] of this.series) {
      if (Date.now() - seen > KEPT_MS || this.series.size > SERIES_MAX) this.series.delete(key);
    }
  }
}

export const metrics = new Metrics();
