// When each step of a pod's start happened. Times in objects are whole seconds, but the name of a
// kubelet's event ends in the nanosecond of its writing, as upstream's do.

import { get, type Obj } from './api';
import { condition, containerStatuses } from './status';

export interface Step {
  what: string;
  detail?: string;
  /** Milliseconds since the first step. */
  at: number;
  time: string;
  /** Known to the millisecond, not only to the second. */
  exact: boolean;
}

/** The time in an event's name, in milliseconds; nothing where the name holds none. */
export function nameTime(name: string): number | undefined {
  const hex = /\.([0-9a-f]{16,19})$/.exec(name)?.[1];
  if (!hex) return undefined;
  // 16 digits are the nanoseconds of this age; what follows keeps names apart.
  const ms = Number(BigInt(`0x${hex.slice(0, 16)}`) / 1000n) / 1000;
  return ms > 1.4e12 && ms < 4e12 ? ms : undefined;
}

/** What the kubelet noted of the start, asked for through its node. */
export async function noted(pod: Obj): Promise<[string, number][]> {
  const { nodeName } = pod.spec ?? {};
  if (!nodeName) return [];
  try {
    const path = `api/v1/nodes/${encodeURIComponent(nodeName)}/proxy/startUp/${pod.metadata.uid}`;
    const { steps } = await get<{ steps: { step: string; microseconds: number }[] }>(path);
    return steps.map((s) => [s.step, s.microseconds / 1000]);
  } catch {
    // It started before the agent did, or long ago.
    return [];
  }
}

export function startUp(pod: Obj, events: Obj[], notes: [string, number][]): Step[] {
  const found: { what: string; detail?: string; ms: number; exact: boolean }[] = [];
  const started = containerStatuses(pod).some((c) => c.restartCount > 0) ? 'first' : 'only';
  const words: Record<string, string> = { Scheduled: 'Scheduled', Pulling: 'Pull begins', Pulled: 'Image there', RegistryUnreachable: 'Image there', Created: 'Container made', Started: 'Started' };
  const seen = new Set<string>();
  const oldest = [...events].reverse();
  for (const e of oldest) {
    const what = words[e.reason as string];
    if (!what) continue;
    const container = /\{([^}]+)\}/.exec(e.involvedObject?.fieldPath ?? '')?.[1];
    const key = `${e.reason}/${container ?? ''}`;
    if (seen.has(key)) continue;
    seen.add(key);
    const exact = nameTime(e.metadata.name);
    const ms = exact ?? Date.parse(e.firstTimestamp ?? e.eventTime ?? e.metadata.creationTimestamp ?? '');
    const many = (pod.spec?.containers?.length ?? 1) + (pod.spec?.initContainers?.length ?? 0) > 1;
    if (ms) found.push({ what: container && many ? `${what} (${container})` : what, detail: e.message, ms, exact: exact !== undefined });
  }
  const names: Record<string, string> = { Network: 'Network', Sandbox: 'Sandbox', Volumes: 'Volumes', Ready: 'Ready' };
  for (const [step, ms] of notes) if (names[step]) found.push({ what: names[step], ms, exact: true });
  const ready = condition(pod, 'Ready');
  if (!found.some((s) => s.what === 'Ready') && ready?.status === 'True' && started === 'only' && ready.lastTransitionTime) {
    found.push({ what: 'Ready', ms: Date.parse(ready.lastTransitionTime), exact: false });
  }
  found.sort((a, b) => a.ms - b.ms);
  // A time in whole seconds says little beside times in milliseconds.
  const sharp = found.some((s) => s.exact);
  const kept = sharp ? found.filter((s) => s.exact) : found;
  const first = kept[0]?.ms ?? 0;
  return kept.map((s) => ({ what: s.what, detail: s.detail, at: s.ms - first, time: new Date(s.ms).toISOString(), exact: s.exact }));
}
