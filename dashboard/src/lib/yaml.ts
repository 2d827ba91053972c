// Objects as YAML for reading and comparing. What is edited is parsed by a real parser.

const PLAIN = /^[A-Za-z_/.][\w ./:@+-]*$/;
const SPECIAL = /^(true|false|yes|no|on|off|null|~|y|n|\.nan|[-+]?\.inf)$/i;

function scalar(value: unknown, indent: string): string {
  if (typeof value !== 'string') return JSON.stringify(value ?? null);
  if (value.includes('\n') && !/[\u0000-\u0008\u000b-\u001f\u007f\u0085\u2028\u2029\ufeff]/.test(value) && !/^[ \n]/.test(value) && !/[ \t]\n/.test(value)) {
    const keep = value.endsWith('\n\n') ? '|+' : value.endsWith('\n') ? '|' : '|-';
    const lines = (value.endsWith('\n') ? value.slice(0, -1) : value).split('\n');
    return `${keep}\n${lines.map((l) => (l ? `${indent}${l}` : '')).join('\n')}`;
  }
  const simple = PLAIN.test(value) && !SPECIAL.test(value) && !/: |:$| #| $|^\./.test(value);
  return simple ? value : JSON.stringify(value);
}

export function toYaml(value: unknown, indent = ''): string {
  if (Array.isArray(value)) {
    if (value.length === 0) return '[]';
    return value.map((item) => {
      const nested = toYaml(item, `${indent}  `);
      const block = typeof item === 'object' && item !== null && Object.keys(item).length > 0;
      return `${indent}- ${block ? nested.trimStart() : nested}`;
    }).join('\n');
  }
  if (typeof value === 'object' && value !== null) {
    const entries = Object.entries(value).filter(([, v]) => v !== undefined);
    if (entries.length === 0) return '{}';
    return entries.map(([k, v]) => {
      const key = PLAIN.test(k) && !SPECIAL.test(k) && !/: |:$| /.test(k) ? k : JSON.stringify(k);
      const nested = typeof v === 'object' && v !== null && Object.keys(v).length > 0;
      if (!nested) return `${indent}${key}: ${toYaml(v, `${indent}  `)}`;
      return `${indent}${key}:\n${toYaml(v, Array.isArray(v) ? indent : `${indent}  `)}`;
    }).join('\n');
  }
  return scalar(value, indent);
}

export interface Line {
  mark: ' ' | '+' | '-';
  text: string;
}

/** Cells of the table in which a common subsequence is looked for: 16 MiB. */
export const DIFF_CELLS_MAX: number = 4_194_304;
/** Lines of a difference that are shown. */
export const DIFF_LINES_MAX: number = 5000;

/** The difference between two texts by lines, with context: by the longest common subsequence, or where
 *  that is too much work, all lines that are not at the common beginning or end. */
export function diff(before: string, after: string, context = 3): Line[] {
  const linesOf = (text: string) => (text ? text.split('\n') : []);
  const a = linesOf(before);
  const b = linesOf(after);
  let start = 0;
  while (start < a.length && start < b.length && a[start] === b[start]) start++;
  let end = 0;
  while (end < a.length - start && end < b.length - start && a[a.length - 1 - end] === b[b.length - 1 - end]) end++;
  const x = a.slice(start, a.length - end);
  const y = b.slice(start, b.length - end);
  const width = y.length + 1;
  const compared = (x.length + 1) * width <= DIFF_CELLS_MAX;
  const table = new Uint32Array(compared ? (x.length + 1) * width : 0);
  for (let i = x.length - 1; compared && i >= 0; i--) {
    for (let j = y.length - 1; j >= 0; j--) {
      table[i * width + j] = x[i] === y[j] ? table[(i + 1) * width + j + 1] + 1 : Math.max(table[(i + 1) * width + j], table[i * width + j + 1]);
    }
  }
  const lines: Line[] = a.slice(0, start).map((text) => ({ mark: ' ', text }));
  for (let i = 0, j = 0; i < x.length || j < y.length;) {
    if (compared && i < x.length && j < y.length && x[i] === y[j]) {
      lines.push({ mark: ' ', text: x[i++] });
      j++;
    } else if (i < x.length && (!compared || j >= y.length || table[(i + 1) * width + j] >= table[i * width + j + 1])) lines.push({ mark: '-', text: x[i++] });
    else lines.push({ mark: '+', text: y[j++] });
  }
  for (const text of a.slice(a.length - end)) lines.push({ mark: ' ', text });
  const near = lines.map((_, at) => lines.slice(Math.max(0, at - context), at + context + 1).some((l) => l.mark !== ' '));
  const shown = lines.flatMap((line, at) => {
    if (near[at]) return [line];
    return at > 0 && near[at - 1] ? [{ mark: ' ' as const, text: '⋯' }] : [];
  });
  const more = shown.length - DIFF_LINES_MAX;
  return more > 0 ? [...shown.slice(0, DIFF_LINES_MAX), { mark: ' ', text: `⋯ ${more} more lines` }] : shown;
}
