// Tests of what needs no page: npm test.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import ts from 'typescript';

async function load(file) {
  const source = readFileSync(new URL(`src/lib/${file}`, import.meta.url), 'utf8');
  const { outputText } = ts.transpileModule(source, { compilerOptions: { module: ts.ModuleKind.ESNext, target: ts.ScriptTarget.ES2022 } });
  return import(`data:text/javascript,${encodeURIComponent(outputText)}`);
}

const { KEPT_CHARS, LINES_MAX, Log, MARKS_MAX, PIECE_CHARS, marks, written } = await load('log.ts');
const { DIFF_LINES_MAX, diff } = await load('yaml.ts');

function logOf(...chunks) {
  const log = new Log();
  for (const chunk of chunks) log.add(chunk);
  return log.shown();
}

test('chunks end anywhere in a line', () => {
  const text = 'one\n\ntwo 😀\nthree\n';
  for (let at = 0; at <= text.length; at++) {
    const lines = logOf(text.slice(0, at), text.slice(at));
    assert.deepEqual(lines.map((l) => l.text), ['one', '', 'two 😀', 'three']);
    assert.deepEqual(lines.map((l) => l.n), [0, 1, 2, 3]);
    assert.equal(written(lines), text);
  }
});

test('last line shows before its end', () => {
  const log = new Log();
  log.add('Password: ');
  assert.deepEqual(log.shown(), [{ n: 0, text: 'Password: ', open: true }]);
  log.add('again: ');
  assert.deepEqual(log.shown(), [{ n: 0, text: 'Password: again: ', open: true }]);
  log.add('\n');
  assert.deepEqual(log.shown(), [{ n: 0, text: 'Password: again: ', open: false }]);
});

test('long lines come in pieces', () => {
  const line = '😀'.repeat(PIECE_CHARS) + 'x';
  for (const size of [1000, 4096, PIECE_CHARS, line.length]) {
    const chunks = [];
    for (let at = 0; at < line.length; at += size) chunks.push(line.slice(at, at + size));
    const lines = logOf(...chunks, '\nend');
    assert.equal(written(lines), `${line}\nend`);
    assert.ok(lines.every((l) => l.text.length <= PIECE_CHARS));
    assert.equal(lines.filter((l) => !l.open).length, 1);
    if (size % 2 === 0) assert.ok(lines.every((l) => l.text.isWellFormed()), `chunks of ${size}`);
  }
  const exact = 'y'.repeat(PIECE_CHARS);
  assert.deepEqual(logOf(`${exact}\n`), [{ n: 0, text: exact, open: false }]);
});

test('endless line takes linear work', () => {
  const log = new Log();
  const chunk = 'x'.repeat(4096);
  const begin = performance.now();
  for (let n = 0; n < 32_768; n++) log.add(chunk);
  // It took minutes when every chunk was looked at again with all before it.
  assert.ok(performance.now() - begin < 20_000);
  const kept = log.shown().reduce((sum, l) => sum + l.text.length, 0);
  assert.ok(kept > KEPT_CHARS / 2 && kept <= KEPT_CHARS + PIECE_CHARS, `${kept}`);
});

test('oldest lines go first', () => {
  const lines = logOf(Array.from({ length: LINES_MAX + 10 }, (_, n) => `line ${n}\n`).join(''), 'open');
  assert.equal(lines.length, LINES_MAX + 1);
  assert.equal(lines[0].text, 'line 10');
  assert.equal(lines[0].n, 10);
});

test('a search marks a bounded number of places', () => {
  assert.deepEqual(marks('aXbx', 'x'), [
    { text: 'a', hit: false }, { text: 'X', hit: true }, { text: 'b', hit: false }, { text: 'x', hit: true }, { text: '', hit: false },
  ]);
  const parts = marks('a'.repeat(PIECE_CHARS), 'a');
  assert.equal(parts.filter((p) => p.hit).length, MARKS_MAX);
  assert.equal(parts.map((p) => p.text).join('').length, PIECE_CHARS);
});

test('a difference keeps what is common', () => {
  const text = (lines) => lines.map((l) => `${l.mark}${l.text}`);
  assert.deepEqual(text(diff('a\nb\nc\nd', 'a\nx\nc\nd')), [' a', '-b', '+x', ' c', ' d']);
  assert.deepEqual(diff('a\nb', 'a\nb'), []);
  assert.deepEqual(text(diff('', 'a')), ['+a']);
});

test('texts with nothing in common are compared in linear work', () => {
  const numbered = (letter) => Array.from({ length: 200_000 }, (_, n) => `${letter}${n}`).join('\n');
  const begin = performance.now();
  const lines = diff(`head\n${numbered('a')}\ntail`, `head\n${numbered('b')}\ntail`);
  assert.ok(performance.now() - begin < 20_000);
  assert.equal(lines.length, DIFF_LINES_MAX + 1);
  assert.deepEqual(lines.slice(0, 2).map((l) => l.mark + l.text), [' head', '-a0']);
  const small = diff(`head\n${numbered('a')}\ntail`, 'head\nb\ntail', 1);
  assert.equal(small.filter((l) => l.mark === '-').length, DIFF_LINES_MAX - 1);
});
