// How values are written: ages and quantities as kubectl does, times exactly.

export function age(from: string | undefined, now: number): string {
  if (!from) return '-';
  const s = Math.max(0, Math.floor((now - Date.parse(from)) / 1000));
  return duration(s);
}

/** Seconds in kubectl's shortened form. */
export function duration(s: number): string {
  const part = (n: number, unit: string) => (n > 0 ? `${n}${unit}` : '');
  const m = Math.floor(s / 60);
  const h = Math.floor(s / 3600);
  const d = Math.floor(s / 86400);
  if (s < 120) return `${s}s`;
  if (m < 10) return `${m}m${part(s % 60, 's')}`;
  if (m < 180) return `${m}m`;
  if (h < 8) return `${h}h${part(m % 60, 'm')}`;
  if (h < 48) return `${h}h`;
  if (h < 192) return `${d}d${part(h % 24, 'h')}`;
  if (d < 730) return `${d}d`;
  return `${Math.floor(d / 365)}y${part(d % 365, 'd')}`;
}

export function exact(time: string | undefined): string {
  if (!time) return '';
  const date = new Date(time);
  return Number.isNaN(date.valueOf())
    ? time
    : date.toLocaleString(undefined, { dateStyle: 'medium', timeStyle: 'medium' });
}

const binary: Record<string, number> = { Ki: 2 ** 10, Mi: 2 ** 20, Gi: 2 ** 30, Ti: 2 ** 40, Pi: 2 ** 50 };
const decimal: Record<string, number> = { n: 1e-9, u: 1e-6, m: 1e-3, '': 1, k: 1e3, M: 1e6, G: 1e9, T: 1e12, P: 1e15 };

/** A quantity as a number (`256m` → 0.256, `1Mi` → 1048576). */
export function quantity(value: string | number | undefined): number {
  if (value === undefined) return 0;
  const match = /^([+-]?[0-9.]+(?:[eE][+-]?[0-9]+)?)([a-zA-Z]*)$/.exec(String(value));
  if (!match) return 0;
  return Number(match[1]) * (binary[match[2]] ?? decimal[match[2]] ?? 1);
}

export function bytes(n: number): string {
  for (const unit of ['Gi', 'Mi', 'Ki']) {
    if (n >= binary[unit]) {
      const value = n / binary[unit];
      return `${value >= 100 ? value.toFixed(0) : value.toFixed(1)} ${unit}`;
    }
  }
  return `${n.toFixed(0)} B`;
}

/** CPUs, small shares in thousandths as `kubectl top` writes them. */
export function cores(n: number): string {
  if (n >= 10) return n.toFixed(1);
  if (n >= 0.995) return n.toFixed(2);
  const milli = n * 1000;
  return milli === 0 ? '0' : `${milli.toFixed(milli < 9.95 ? 1 : 0)}m`;
}

/** base64 → bytes. */
export function decode64(value: string): Uint8Array {
  return Uint8Array.from(atob(value), (c) => c.charCodeAt(0));
}

/** Text, or nothing where the bytes are no UTF-8 or hold control characters. */
export function asText(data: Uint8Array): string | undefined {
  try {
    const text = new TextDecoder('utf-8', { fatal: true }).decode(data);
    return /[\u0000-\u0008\u000b\u000c\u000e-\u001f]/.test(text) ? undefined : text;
  } catch {
    return undefined;
  }
}
