import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import fc from 'fast-check'
import { get_encoding, type Tiktoken } from 'tiktoken'
import { afterAll, describe, expect, test } from 'vitest'
import { createTokenizers } from '../src/index.ts'
import { since } from './cpu.ts'
import { folder, present } from './real.ts'

const seed = 20_261_122
const tokenizers = createTokenizers()
const oracles: [string, Tiktoken][] = [
  ['o200k_base', get_encoding('o200k_base')],
  ['cl100k_base', get_encoding('cl100k_base')],
  ['p50k_base', get_encoding('p50k_base')],
  ['r50k_base', get_encoding('r50k_base')]
]
afterAll(async () => {
  await tokenizers.close()
  for (const [, oracle] of oracles) oracle.free()
})

/** Letters and marks of Unicode 16 and 17, which OpenAI's vocabularies do not know as such yet. */
const newer = new RegExp(String.raw`[\u088f\u0897\u0c5c\u0cdc\u1ac1-\u1aff\u1c89\u1c8a\ua7ce-\ua7dc\ua7f1]`, 'u')

// biome-ignore format: one line a theme
const oddities = [
  ' ', '  ', '    ', '\n', '\n\n', '\r', '\r\n', '\t', '\u00a0', '\u3000', '\u0085', '\u2028', '\ufeff', '\u200d', '\0',
  "'", '’', "'s", "'S", "'ſ", "'T", "'re", "'rE", "'ll", "'lL", "'x", "'r", '/', '//', '!', '.', '-', '_', '=', '€',
  's', 'A', 'a', 'Z', 'é', 'É', 'ß', 'ǅ', 'ʰ', 'K', 'ſ', '的', 'あ', 'ー', 'ก', '\u0301', '\u0300', '5', '٣', 'Ⅷ', '½', '12', '123',
  '😀', '👩‍👩‍👧', '𝒳', '𝟘', '🇩', '\ud800', '\udc00', 'हिन्दी', 'สวัสดี', '안녕', 'مرحبا',
  'Hello', 'CamelCase', 'HTTP', 'ing', 'aaaaaaaa', '='.repeat(80), '<|endoftext|>'
]

const randomLetters = String.fromCharCode(...fc.sample(fc.integer({ min: 97, max: 122 }), { seed, numRuns: 6000 }))

const ordinary = [
  'The quick brown fox didn\'t jump over 12345 lazy dogs; it\'s "HTTPServer2", said he (twice).\n\n',
  'const total = items.map((item) => item.price * 1.19).reduce((a, b) => a + b, 0) // €\n\tif (x) {\r\n    y();\r\n  }\n}\n',
  '我们今天去了北京的长城，天气很好。你呢？',
  '今日はとても良い天気ですね。カタカナも漢字も混ざっています！',
  'Съешь же ещё этих мягких французских булок, да выпей чаю. ',
  'अंतरराष्ट्रीय मानकीकरण के लिए काम करता है। ',
  'هذا نص عربي قصير، مع أرقام ١٢٣٤٥ وعلامات. ',
  '👩‍👩‍👧 family 🇩🇪🇫🇷 flags, e\u0301a\u0308 marks, 𝒳𝒴 letters 😀!\n',
  '{"a":[1,2,{"b":null}],"c":"<|endoftext|> x"}\n  ]\n }\n',
  'a/b//c\n/d ../e.ts:12:7 --flag=’quoted’ don’t x\u00a0y\u3000z \t \t w\n \n  \n'
]

/** Any arrangement of pieces of ordinary text, cut and joined so that odd neighbours meet. */
const pieces = fc.array(
  fc.record({ text: fc.constantFrom(...ordinary), from: fc.nat(60), length: fc.integer({ min: 1, max: 60 }) }),
  { minLength: 1, maxLength: 60 }
)
const arrange = (chosen: readonly { text: string; from: number; length: number }[]): string =>
  chosen.map(({ text, from, length }) => text.slice(from % text.length).slice(0, length)).join('')

describe.each(oracles)('counting with %s', (encoding, oracle) => {
  const tokenizer = tokenizers.for(encoding)
  const truth = (text: string): number => oracle.encode_ordinary(text).length

  test(`equals tiktoken on ordinary text in eight scripts and code, in any arrangement (seed ${seed})`, () => {
    fc.assert(
      fc.property(pieces, (chosen) => {
        const text = arrange(chosen)
        expect(tokenizer.count(text)).toBe(truth(text))
      }),
      { seed, numRuns: 400 }
    )
  })

  test(`equals tiktoken on any characters in any order, in a stream too (seed ${seed})`, () => {
    const common = fc.constantFrom(...oddities)
    // Of blocks that are older than the Unicode version of either side.
    const any = fc.integer({ min: 0, max: 0xffff }).map((unit) => {
      const character = String.fromCharCode(unit)
      return /[\p{Cn}\p{Co}]/u.test(character) || newer.test(character) ? 'x' : character
    })
    fc.assert(
      fc.property(fc.array(fc.oneof({ weight: 4, arbitrary: common }, any), { minLength: 1, maxLength: 300 }), (parts) => {
        const text = parts.join('')
        expect(tokenizer.count(text)).toBe(truth(text))
        const counter = tokenizer.counter()
        let total = 0
        for (const part of parts) total = counter.push(part)
        expect(total).toBe(truth(text))
      }),
      { seed, numRuns: 400 }
    )
  })

  test(`equals tiktoken on words no one has written: letters and tokens at random (seed ${seed})`, () => {
    const letter = fc.constantFrom('e', 't', 'a', 'o', 'i', 'n', 's', 'h', 'r', 'й', 'ع', 'ก', '的', 'ü')
    fc.assert(
      fc.property(fc.array(letter, { minLength: 1, maxLength: 300 }), (letters) => {
        const text = letters.join('')
        expect(tokenizer.count(text)).toBe(truth(text))
      }),
      { seed, numRuns: 400 }
    )
  })

  test(`equals tiktoken on rules, indentation and the like, of any length (seed ${seed})`, () => {
    const run = fc.tuple(
      fc.constantFrom('-', '=', '*', '/', '#', '_', '.', ' ', '\t', '\n', '- ', '-=', '的', 'a', ' \t'),
      fc.integer({ min: 1, max: 400 })
    )
    fc.assert(
      fc.property(fc.array(run, { minLength: 1, maxLength: 8 }), (runs) => {
        const text = runs.map(([unit, times]) => unit.repeat(times).slice(0, 300)).join('x')
        expect(tokenizer.count(text)).toBe(truth(text))
        const counter = tokenizer.counter()
        let total = 0
        for (let at = 0; at < text.length; at += 7) total = counter.push(text.slice(at, at + 7))
        expect(total).toBe(truth(text))
      }),
      { seed, numRuns: 200 }
    )
  })

  test('equals tiktoken on a megabyte', () => {
    const text = ordinary.join('').repeat(1500)
    expect(tokenizer.count(text)).toBe(truth(text))
  })

  test(`counts a stream in any cut, split pairs included, exactly as its joined text at every step (seed ${seed})`, () => {
    fc.assert(
      fc.property(pieces, fc.infiniteStream(fc.integer({ min: 1, max: 9 })), (chosen, cuts) => {
        const text = arrange(chosen).slice(0, 1200)
        const counter = tokenizer.counter()
        let at = 0
        let total = 0
        for (const cut of cuts) {
          if (at >= text.length) break
          total = counter.push(text.slice(at, at + cut))
          at += cut
          if (at % 7 === 0) expect(total).toBe(tokenizer.count(text.slice(0, at)))
        }
        expect(total).toBe(tokenizer.count(text))
      }),
      { seed, numRuns: 60 }
    )
  })

  test('takes special tokens as plain text, and counts NUL, lone surrogates and nothing at all', () => {
    expect(tokenizer.count('<|endoftext|>')).toBe(truth('<|endoftext|>'))
    expect(tokenizer.count('<|endoftext|>')).toBeGreaterThan(1)
    expect(tokenizer.count('\0')).toBe(1)
    expect(tokenizer.count('a\ud800b')).toBe(truth('a\ufffdb'))
    expect(tokenizer.count('')).toBe(0)
  })

  const hostile: [string, string][] = [
    ['one letter', 'a'],
    ['spaces', ' '],
    ['newlines', '\n'],
    ['carriage returns', '\r\n'],
    ['punctuation', '!'],
    ['a rule of dashes', '-'],
    ['rules of 199 dashes', `${'-'.repeat(199)}\nand so on `],
    ['tabs behind spaces', `${' '.repeat(70)}\t`],
    ['slashes and newlines', '/\n'],
    ['apostrophes', "a'"],
    ['digits', '7'],
    ['emoji', '😀'],
    ['joined emoji', '👩‍👩‍👧'],
    ['combining marks', '\u0301'],
    ['Chinese without a stop', '的'],
    ['Thai without a space', 'สวัสดีครับ'],
    ['lone surrogates', '\ud800'],
    ['NUL', '\0']
  ]
  const fill = (unit: string, bytes: number): string => unit.repeat(Math.ceil(bytes / Buffer.byteLength(unit)))
  const timeOf = (text: string): number => {
    const started = process.cpuUsage()
    tokenizer.count(text)
    return since(started)
  }

  test('takes no more than some times longer for 100 KB of anything than for 100 KB of prose', () => {
    const prose = fill('The quick brown fox, who had 17 lazy dogs, jumped over the fence; it’s what foxes do.\n', 100_000)
    timeOf(prose)
    const usual = timeOf(prose)
    for (const [name, unit] of hostile) expect(timeOf(fill(unit, 100_000)) / usual, name).toBeLessThan(40)
  })

  test('takes time in proportion: 200 KB of anything not 30 times 20 KB of it', () => {
    for (const [name, unit] of hostile) {
      const tenth = fill(unit, 20_000)
      const whole = fill(unit, 200_000)
      const least = (text: string): number => Math.min(timeOf(text), timeOf(text), timeOf(text))
      expect(least(whole) / least(tenth), name).toBeLessThan(30)
    }
  })

  test('equals tiktoken on runs without any boundary, though it cuts them', () => {
    for (const [name, unit] of [
      ...hostile,
      ['two signs', '-='],
      ['nine of one and one other', '=,,,,,,,,#'],
      ['random letters', randomLetters]
    ]) {
      const text = fill(unit as string, 6000)
      expect(tokenizer.count(text), name).toBe(truth(text))
      const counter = tokenizer.counter()
      let total = 0
      for (let at = 0; at < text.length; at += 37) total = counter.push(text.slice(at, at + 37))
      expect(total, name).toBe(truth(text))
    }
  })
})

test('splits by the very expressions that tiktoken publishes', () => {
  const published: Record<string, string> = {}
  for (const [encoding] of oracles) {
    const file = createRequire(import.meta.url).resolve(`tiktoken/encoders/${encoding}.json`)
    published[encoding] = (JSON.parse(readFileSync(file, 'utf8')) as { pat_str: string }).pat_str
  }
  const ending = '|\\s+(?!\\S)|\\s+'
  const gpt2 = `'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+${ending}`
  const contraction = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
  const small = '[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]'
  const capital = '[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]'
  const prefix = '[^\\r\\n\\p{L}\\p{N}]?'
  const newlines = '|\\s*[\\r\\n]+'
  expect(published).toEqual({
    r50k_base: gpt2,
    p50k_base: gpt2,
    cl100k_base: `${contraction}|${prefix}\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*${newlines}${ending}`,
    o200k_base:
      `${prefix}${capital}*${small}+${contraction}?|${prefix}${capital}+${small}*${contraction}?` +
      `|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*${newlines}${ending}`
  })
})

describe.skipIf(!present)('the plans of gpt-tokenizer', () => {
  test.each(oracles)('are counted as told with %s', (encoding) => {
    const cases = plans().filter((plan) => plan.encoding === encoding)
    expect(cases.length).toBeGreaterThan(50)
    for (const { sample, tokens } of cases) expect(tokenizers.for(encoding).count(sample), sample.slice(0, 40)).toBe(tokens)
  })
})

interface Plan {
  readonly encoding: string
  readonly sample: string
  readonly tokens: number
}

function plans(): Plan[] {
  const text = readFileSync(new URL('gpt-tokenizer/TestPlans.txt', folder), 'utf8')
  const found = text.matchAll(/EncodingName: (\w+)\nSample: ([\s\S]*?)\nEncoded: \[(.*)\]/g)
  return Array.from(found, ([, encoding = '', sample = '', ids = '']) => {
    return { encoding, sample, tokens: ids === '' ? 0 : ids.split(',').length }
  })
}
