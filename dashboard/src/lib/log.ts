// A log as lines, while it arrives: whatever a container writes, the work for a chunk grows with the
// chunk, and what is kept is bounded.

/** Lines that are kept; older ones go first. */
export const LINES_MAX: number = 5000;
/** Characters of a line that are shown together; a longer line is shown in pieces. */
export const PIECE_CHARS: number = 65_536;
/** Characters of all lines that are kept. */
export const KEPT_CHARS: number = 8_388_608;
/** Places of one line that a search marks. */
export const MARKS_MAX: number = 20;

export interface LogLine {
  n: number;
  text: string;
  /** Whether the line goes on in the next piece, or has not ended yet. */
  open: boolean;
}

export class Log {
  private lines: LogLine[] = [];
  private chars = 0;
  private count = 0;
  private rest = '';

  add(chunk: string) {
    let at = 0;
    for (let end = chunk.indexOf('\n'); end >= 0; end = chunk.indexOf('\n', at)) {
      this.extend(chunk, at, end);
      this.push(this.rest, false);
      this.rest = '';
      at = end + 1;
    }
    this.extend(chunk, at, chunk.length);
    this.drop();
  }

  /** The lines so far, with the last one also where its end has not arrived. */
  shown(): LogLine[] {
    return this.rest ? [...this.lines, { n: this.count, text: this.rest, open: true }] : this.lines;
  }

  private extend(chunk: string, from: number, to: number) {
    while (from < to) {
      // A full piece ends only when something follows.
      if (this.rest.length >= PIECE_CHARS) {
        this.push(this.rest, true);
        this.rest = '';
      }
      let end = Math.min(to, from + PIECE_CHARS - this.rest.length);
      // The two halves of a character stay together.
      if (end < to && (this.rest || end > from + 1) && /[\ud800-\udbff]/.test(chunk[end - 1])) end--;
      this.rest += chunk.slice(from, end);
      from = end;
      if (from < to) {
        this.push(this.rest, true);
        this.rest = '';
      }
    }
  }

  private push(text: string, open: boolean) {
    this.lines.push({ n: this.count++, text, open });
    this.chars += text.length;
  }

  private drop() {
    let first = 0;
    while (this.lines.length - first > LINES_MAX || (this.chars > KEPT_CHARS && first < this.lines.length)) this.chars -= this.lines[first++].text.length;
    // Always another array: what shows it compares arrays.
    this.lines = this.lines.slice(first);
  }
}

/** The lines as they were written. */
export const written = (lines: LogLine[]): string => lines.map((l) => (l.open ? l.text : `${l.text}\n`)).join('');

/** A line in parts, those that the search found marked, as far as they are not too many. */
export function marks(line: string, search: string): { text: string; hit: boolean }[] {
  if (!search) return [{ text: line, hit: false }];
  const parts: { text: string; hit: boolean }[] = [];
  const low = line.toLowerCase();
  const want = search.toLowerCase();
  let at = 0;
  for (let hit = low.indexOf(want); hit >= 0 && parts.length < 2 * MARKS_MAX; hit = low.indexOf(want, at)) {
    parts.push({ text: line.slice(at, hit), hit: false }, { text: line.slice(hit, hit + want.length), hit: true });
    at = hit + want.length;
  }
  return [...parts, { text: line.slice(at), hit: false }];
}
