import fc from 'fast-check'
import { afterAll, expect, test } from 'vitest'
import { createTokenizers, type Tokenizer } from '../src/tokenizer.ts'
import { type TruncateOptions, truncateText } from '../src/truncate.ts'
import { since } from './cpu.ts'

const seed = 20_261_123
const tokenizers = createTokenizers()
afterAll(() => tokenizers.close())
const tokenizer = tokenizers.for('gpt-4o')
const segmenter = new Intl.Segmenter(undefined, { granularity: 'grapheme' })

const pieces = [
  'The river ',
  "isn't wide, ",
  'Ufer und Straße ',
  'naïve café. ',
  '12345 ',
  'x = y[0];\n\t', // Latin and code
  'Река шире ',
  'поля. ', // Cyrillic
  '河流很宽，',
  '東京タワーの',
  'が\u3099ガ', // Han and kana
  'النهر واسع ',
  'שָׁלוֹם ', // Arabic, Hebrew with points
  'नदी चौड़ी है ',
  'क्षत्रिय ',
  'แม่น้ำกำ ', // Devanagari, Thai
  '강은 넓다 ',
  '\u1100\u1161\u11a8',
  '\u1112\u1161\u11ab', // Hangul, and its jamo
  '👩‍👩‍👧‍👦',
  '👍🏽',
  '🇩🇪',
  '🇫🇷',
  '🏳️‍🌈',
  '1️⃣',
  'e\u0301\u0323\u0302',
  'a\u0301'.repeat(9),
  '\r\n',
  '\n',
  '\r',
  '\0',
  '\ud83d',
  '\udc4d',
  '    ',
  '-'.repeat(40),
  'a'.repeat(60)
]
const mixed = fc
  .array(fc.oneof(fc.constantFrom(...pieces), fc.string({ unit: 'grapheme', maxLength: 5 })), { maxLength: 60 })
  .map((parts) => parts.join(''))
const budgets = fc.integer({ min: 0, max: 80 })

const places = (text: string): ReadonlySet<number> =>
  new Set([...segmenter.segment(text)].map(({ index }) => index).concat(text.length))
const charged = (text: string, own: Tokenizer): number => own.count(text) * own.safetyFactor

test.each(['gpt-4o', 'gpt-4', 'claude-opus-5-5'])(
  `cuts for %s between graphemes and within the budget (seed ${seed})`,
  (model) => {
    const own = tokenizers.for(model)
    fc.assert(
      fc.property(mixed, budgets, fc.constantFrom('', '…', ' [cut] '), (text, budget, ellipsis) => {
        for (const keep of ['start', 'end', 'both'] as const) {
          const short = truncateText(text, { tokenizer: own, budget, keep, ellipsis })
          if (charged(text, own) <= budget) {
            expect(short).toBe(text)
            continue
          }
          expect(charged(short, own)).toBeLessThanOrEqual(budget)
          if (short === '') continue
          const between = places(text)
          // Text of the kind may hold the ellipsis itself, so each of its places may be the cut.
          const cuts: [string, string][] = []
          if (keep === 'start') cuts.push([short.slice(0, short.length - ellipsis.length), ''])
          else if (keep === 'end') cuts.push(['', short.slice(ellipsis.length)])
          else
            for (let at = 0; at <= short.length - ellipsis.length; at++)
              if (short.startsWith(ellipsis, at)) cuts.push([short.slice(0, at), short.slice(at + ellipsis.length)])
          const isCut = cuts.some(
            ([head, tail]) =>
              text.startsWith(head) && text.endsWith(tail) && between.has(head.length) && between.has(text.length - tail.length)
          )
          expect(isCut).toBe(true)
        }
      }),
      { seed, numRuns: 400 }
    )
  }
)

test(`keeps as much as fits: with the next grapheme it would be too much (seed ${seed})`, () => {
  fc.assert(
    fc.property(mixed, budgets, (text, budget) => {
      const start = truncateText(text, { tokenizer, budget })
      if (start === text) return
      const next = [...segmenter.segment(text)].find(({ index }) => index === start.length)?.segment ?? ''
      expect(tokenizer.count(start + next)).toBeGreaterThan(budget)
      const end = truncateText(text, { tokenizer, budget, keep: 'end' })
      const before =
        [...segmenter.segment(text)].find(({ index, segment }) => index + segment.length === text.length - end.length)?.segment ??
        ''
      expect(tokenizer.count(before + end)).toBeGreaterThan(budget)
    }),
    { seed, numRuns: 400 }
  )
})

test('keeps the start, the end, or half of each around an ellipsis', () => {
  const text = 'one two three four five six seven eight nine ten'
  const kept = (keep: TruncateOptions['keep']): string => truncateText(text, { tokenizer, budget: 5, keep, ellipsis: ' ...' })
  expect(kept('start')).toBe('one two three four ...')
  expect(kept('end')).toBe(' ... seven eight nine ten')
  expect(kept('both')).toBe('one two ... nine ten')
  expect(truncateText(text, { tokenizer, budget: 1, ellipsis: ' ... and so on' })).toBe('')
})

test('leaves nothing of a text whose first grapheme does not fit', () => {
  const text = `a${'\u0301'.repeat(500)} and so on`
  expect(truncateText(text, { tokenizer, budget: 20 })).toBe('')
  expect(truncateText(text, { tokenizer, budget: 20, ellipsis: '…' })).toBe('')
  expect(truncateText('word', { tokenizer, budget: 0 })).toBe('')
})

test('takes time in proportion to the text, and of a long one looks only at what it keeps', () => {
  const kinds = ['word ', 'a', ' ', '\u0301', '🇩🇪', '👩‍', 'क्', '河', '\r\n', '\ud83d', '!?']
  for (const kind of kinds) {
    for (const keep of ['start', 'end', 'both'] as const) {
      const onceOf = (chars: number): number => {
        const text = kind.repeat(chars / kind.length)
        const started = process.cpuUsage()
        truncateText(text, { tokenizer, budget: chars / 40, keep })
        return since(started)
      }
      const timeOf = (chars: number): number => Math.min(onceOf(chars), onceOf(chars))
      timeOf(1000)
      const [small, large] = [timeOf(25_000), timeOf(200_000)]
      expect(large / Math.max(small, 2)).toBeLessThan(25)
    }
  }
  const text = 'word '.repeat(2_000_000)
  const started = process.cpuUsage()
  for (let times = 0; times < 100; times++)
    truncateText(text, { tokenizer, budget: 100, keep: times % 2 === 0 ? 'start' : 'end' })
  expect(since(started) / 100).toBeLessThan(20)
})

test('takes ten megabytes of a single grapheme', () => {
  for (const text of [`a${'\u0301'.repeat(5_000_000)}`, '🇩🇪'.repeat(2_500_000)]) {
    for (const keep of ['start', 'end', 'both'] as const) {
      const started = process.cpuUsage()
      const short = truncateText(text, { tokenizer, budget: 1000, keep })
      expect(short.length % 4).toBe(0)
      expect(since(started)).toBeLessThan(3000)
    }
  }
})

test('refuses wrong options', () => {
  for (const options of [
    { budget: Number.NaN },
    { budget: -1 },
    { keep: 'middle' },
    { ellipsis: 1 },
    { tokenizer: {} },
    { bugdet: 1 }
  ]) {
    expect(() => truncateText('word', { tokenizer, budget: 10, ...options } as TruncateOptions)).toThrow(TypeError)
  }
  expect(() => truncateText(1 as unknown as string, { tokenizer, budget: 10 })).toThrow('takes a string')
})
