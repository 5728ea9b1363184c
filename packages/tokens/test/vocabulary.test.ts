import fc from 'fast-check'
import { get_encoding, type Tiktoken } from 'tiktoken'
import { afterAll, describe, expect, test } from 'vitest'
import { createTokenizers } from '../src/index.ts'

const seed = 20_261_122
const tokenizers = createTokenizers()
const oracles: [string, Tiktoken][] = [
  ['gpt-4o', get_encoding('o200k_base')],
  ['gpt-4', get_encoding('cl100k_base')]
]
afterAll(async () => {
  await tokenizers.close()
  for (const [, oracle] of oracles) oracle.free()
})

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

describe.each(oracles)('counting for %s', (model, oracle) => {
  const tokenizer = tokenizers.for(model)
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

  test(`equals tiktoken on any characters whose every neighbourhood is short (seed ${seed})`, () => {
    // oxlint-disable-next-line typescript/no-misused-spread -- code points are what is wanted, emoji cut apart included
    const character = fc.constantFrom(..." \n\r\t/'-!.,aSsTtZé的あ5٣\u0301\u200d😀𝒳\u3000", '<|endoftext|>', "'re", '\0', 'ǅ')
    fc.assert(
      fc.property(fc.array(character, { minLength: 450, maxLength: 1500 }), (characters) => {
        const text = characters.join('')
        expect(tokenizer.count(text)).toBe(truth(text))
        // In a stream every boundary is a cut, and so every rule is put to the test.
        const counter = tokenizer.counter()
        let total = 0
        for (const piece of characters) total = counter.push(piece)
        expect(total).toBe(truth(text))
      }),
      { seed, numRuns: 100 }
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
  const bytes = 100_000
  const fill = (unit: string): string => unit.repeat(Math.ceil(bytes / Buffer.byteLength(unit)))
  const timeOf = (text: string): number => {
    const started = performance.now()
    tokenizer.count(text)
    return performance.now() - started
  }

  test('takes no more than a few times longer for 100 KB of anything than for 100 KB of prose', () => {
    const prose = fill('The quick brown fox, who had 17 lazy dogs, jumped over the fence; it’s what foxes do.\n')
    timeOf(prose)
    const usual = timeOf(prose)
    for (const [name, unit] of hostile) expect(timeOf(fill(unit)) / usual, name).toBeLessThan(25)
  })

  test('stays within half a percent of tiktoken on runs without any boundary', () => {
    for (const [name, unit] of hostile) {
      const text = unit.repeat(Math.ceil(4000 / unit.length))
      const off = Math.abs(tokenizer.count(text) - truth(text))
      expect(off, name).toBeLessThanOrEqual(Math.ceil(text.length / 400))
    }
  })

  test('survives a million spaces, which crash tiktoken alone', () => {
    expect(tokenizer.count(' '.repeat(1_000_000))).toBeGreaterThan(1000)
  })
})
