import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { isDeepStrictEqual } from 'node:util'
import type { Json } from '@millrace/core'
import fc from 'fast-check'
import { describe, expect, it, test } from 'vitest'
import { createPartialJson, type PartialJson, partialJson } from '../src/partial-json.ts'

const suite = new URL('../../../../shared/real/suites/json/test_parsing/', import.meta.url)

function inPieces(text: string, size: () => number): PartialJson {
  const parser = createPartialJson()
  for (let at = 0; at < text.length; ) {
    const end = at + Math.max(1, size())
    parser.push(text.slice(at, end))
    at = end
  }
  return parser
}

/** `JSON.parse`, or undefined where it throws. Told by hand, for `undefined` is no JSON. */
function parsed(text: string): { value: unknown } | undefined {
  try {
    return { value: JSON.parse(text) as unknown }
  } catch {
    return undefined
  }
}

/** With the prototypes of `JSON.parse`, so that the strictest comparison can be used. */
function plain(value: unknown): unknown {
  return value === undefined ? undefined : JSON.parse(JSON.stringify(value))
}

/**
 * What a prefix must show, made the slow way: whole tokens are kept, an open string is closed, all else at the end is taken
 * off, brackets are closed, and `JSON.parse` reads it. For prefixes of JSON only.
 */
function repaired(prefix: string): unknown {
  const token =
    /\s*(?:("(?:[^"\\]|\\u[\da-fA-F]{4}|\\[^u])*")|("(?:[^"\\]|\\u[\da-fA-F]{4}|\\[^u])*)(?:\\(?:u[\da-fA-F]{0,3})?)?$|([[\]{},:])|([^\s[\]{},:"]+))/y
  const tokens: { text: string; whole: boolean }[] = []
  for (let match = token.exec(prefix); match !== null; match = token.exec(prefix)) {
    const [, string, half, mark, word] = match
    if (half !== undefined) tokens.push({ text: `${withoutHalf(half)}"`, whole: false })
    else tokens.push({ text: (string ?? mark ?? word) as string, whole: word === undefined || token.lastIndex < prefix.length })
  }
  const last = tokens.at(-1)
  const isWord = last !== undefined && !last.whole && !last.text.startsWith('"')
  if (isWord && !/^(?:true|false|null)$/.test(last.text) && !(tokens.length === 1 && parsed(last.text))) tokens.pop()
  const around: string[] = []
  let text = ''
  for (const { text: piece } of tokens) {
    if (piece === '[' || piece === '{') around.push(piece)
    else if (piece === ']' || piece === '}') around.pop()
    text += piece
  }
  const inObject = around.at(-1) === '{'
  const [before, end] = [tokens.at(-2)?.text, tokens.at(-1)?.text]
  if (inObject && end === ':') text = text.slice(0, -(before as string).length - 1)
  else if (inObject && end?.startsWith('"') === true && before !== ':') text = text.slice(0, -end.length)
  if (text.endsWith(',')) text = text.slice(0, -1)
  for (const open of around.toReversed()) text += open === '[' ? ']' : '}'
  return parsed(text)?.value
}

function withoutHalf(open: string): string {
  return open.replace(/(?:[\ud800-\udbff]|(?<=(?:^|[^\\])(?:\\\\)*)\\u[dD][89abAB][\da-fA-F]{2})$/, '')
}

/** The later of two values of one text says what the earlier one said, and more of the one string, array or object that was open. */
function grewFrom(early: unknown, late: unknown): boolean {
  if (early === undefined) return true
  if (typeof early === 'string') return typeof late === 'string' && late.startsWith(early)
  if (typeof early !== 'object' || early === null) return Object.is(early, late)
  if (typeof late !== 'object' || late === null || Array.isArray(early) !== Array.isArray(late)) return false
  return Object.keys(early).every((key) => Object.hasOwn(late, key) && grewFrom(early[key as never], late[key as never]))
}

const json = fc.oneof(fc.jsonValue({ maxDepth: 5, noUnicodeString: false }), fc.jsonValue({ stringUnit: 'binary' }))
/** The same value may be written with white space, and with each character escaped. */
const texts = fc.tuple(json, fc.constantFrom(undefined, 1, '\t'), fc.boolean()).map(([value, space, escaped]) => {
  const text = JSON.stringify(value, null, space)
  return escaped ? text.replace(/[^\0-\x7f]/g, (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`) : text
})

describe('partialJson', () => {
  it('gives the value as far as the text goes', () => {
    expect(plain(partialJson('{"a":[1,{"b":"hel').value)).toEqual({ a: [1, { b: 'hel' }] })
    const shown: [string, Json | undefined][] = [
      ['', undefined],
      [' \n', undefined],
      ['"', ''],
      ['"a\\', 'a'],
      ['"a\\u00e', 'a'],
      ['"a\\u00e9', 'aé'],
      ['"\\n\\t\\"\\\\\\/', '\n\t"\\/'],
      ['[', []],
      ['[1', []],
      ['[1,', [1]],
      ['[1 ', [1]],
      ['[-', []],
      ['[1.5e', []],
      ['[tru', []],
      ['[true', [true]],
      ['[nul', []],
      ['[null', [null]],
      ['{"a', {}],
      ['{"a"', {}],
      ['{"a":', {}],
      ['{"a":"', { a: '' }],
      ['{"a":{', { a: {} }],
      ['{"a":1,"a":"x', { a: 'x' }],
      ['{"a":"x","a":', { a: 'x' }],
      ['tr', undefined],
      ['-', undefined],
      ['1.', undefined]
    ]
    for (const [text, value] of shown) {
      expect([text, partialJson(text).state, plain(partialJson(text).value)]).toEqual([text, 'partial', value])
    }
  })

  it('takes a bare number for complete, although it may grow', () => {
    const parser = createPartialJson()
    const seen = Array.from('-12.5e1').map((digit) => {
      parser.push(digit)
      return [parser.state, parser.value]
    })
    expect(seen).toEqual([
      ['partial', undefined],
      ['complete', -1],
      ['complete', -12],
      ['partial', undefined],
      ['complete', -12.5],
      ['partial', undefined],
      ['complete', -125]
    ])
    expect(partialJson('-0').value).toBe(-0)
    expect(partialJson('1 ')).toEqual({ state: 'complete', value: 1 })
  })

  it('holds back the first half of a surrogate pair, raw or escaped, until its other half or something else comes', () => {
    for (const half of ['\ud83d', '\\ud83d', '\\uD83D']) {
      expect(partialJson(`["x${half}`).value).toEqual(['x'])
      expect(partialJson(`["x${half}\\ude0`).value).toEqual(['x'])
      for (const other of ['\ude00', '\\ude00']) expect(partialJson(`["x${half}${other}`).value).toEqual(['x😀'])
      expect(partialJson(`["x${half}y`).value).toEqual(['x\ud83dy'])
      expect(partialJson(`["x${half}"`).value).toEqual(['x\ud83d'])
      expect(partialJson(`["x${half}${half}`).value).toEqual(['x\ud83d'])
      expect(partialJson(`["x${half}", "y`).value).toEqual(['x\ud83d', 'y'])
    }
  })

  it('makes plain fields of keys that have a meaning in JavaScript, and changes no prototype', () => {
    const text = '{"__proto__":{"polluted":1},"constructor":{"prototype":{"polluted":2}},"toString":"x"}'
    const { state, value } = partialJson(text)
    expect(state).toBe('complete')
    expect(JSON.stringify(value)).toBe(text)
    expect(Object.keys(value as object)).toEqual(['__proto__', 'constructor', 'toString'])
    expect(Object.getPrototypeOf(value)).toBeNull()
    expect(Object.getPrototypeOf((value as Record<string, unknown>)['__proto__'])).toBeNull()
    expect(({} as { polluted?: number }).polluted).toBeUndefined()
    expect((partialJson('{}').value as { constructor?: unknown }).constructor).toBeUndefined()
  })

  it('calls what can never become JSON invalid, at once and for good, and keeps what stood before', () => {
    for (const text of [
      'x',
      ']',
      '{]',
      '[}',
      '{1',
      '[1,]',
      '{"a":1,}',
      '{"a"1',
      '[1 2',
      '01',
      '1x',
      '[-x',
      '[1.x',
      '[1e+x',
      '"\n',
      '"\\x',
      '"\\u00g'
    ]) {
      expect([text, partialJson(text).state]).toEqual([text, 'invalid'])
    }
    for (const text of ['tx', 'nulx', 'null null', '\ufeff[]', '[]x', '\u00a0', "'", '[NaN', '[+1', '{"a":.5', '{"a":1}}']) {
      expect([text, partialJson(text).state]).toEqual([text, 'invalid'])
    }
    const parser = createPartialJson()
    parser.push('{"a":"b\\')
    expect(parser.state).toBe('partial')
    parser.push('x"}')
    parser.push('{}')
    expect([parser.state, plain(parser.value)]).toEqual(['invalid', { a: 'b' }])
  })

  it('takes 200 levels and no more, however deep the text goes', () => {
    const nested = (depth: number): string => '['.repeat(depth) + ']'.repeat(depth)
    expect(partialJson(nested(200))).toEqual({ state: 'complete', value: JSON.parse(nested(200)) })
    expect(partialJson(nested(201)).state).toBe('invalid')
    expect(partialJson('{"a":'.repeat(201)).state).toBe('invalid')
    expect(partialJson('['.repeat(1_000_000)).state).toBe('invalid')
    expect(partialJson(`[${nested(199)},${nested(199)}]`).state).toBe('complete')
  })

  it('takes a bare number of 4096 characters and no longer one, in any pieces; around other numbers there is no bound', () => {
    const longest = '7'.repeat(4096)
    expect(partialJson(longest)).toEqual({ state: 'complete', value: Number.POSITIVE_INFINITY })
    expect(partialJson(`-0.${'3'.repeat(4093)} `)).toEqual({ state: 'complete', value: -1 / 3 })
    for (const end of ['7', '.', 'e5', '7 ', '7x']) {
      const tooLong = longest + end
      for (const size of [1, 7, 10_000]) {
        const { state, value } = inPieces(tooLong, () => size)
        expect([end, size, state, value]).toEqual([end, size, 'invalid', undefined])
      }
    }
    const wide = `[${'0.'.padEnd(1_000_000, '3')},{"a":${'1'.padEnd(400_000, '0')}e-399999}]`
    for (const { state, value } of [partialJson(wide), inPieces(wide, () => 1000)]) {
      expect([state, plain(value)]).toEqual(['complete', [1 / 3, { a: 1 }]])
    }
  })

  it('says that it takes a text', () => {
    for (const text of [undefined, null, 7, {}, Buffer.from('{}')] as unknown as string[]) {
      expect(() => partialJson(text)).toThrow(TypeError)
      expect(() => createPartialJson().push(text)).toThrow('takes a text')
    }
  })

  it('shows of each prefix exactly what it holds, and of the whole what JSON.parse gives (seed 1)', () => {
    fc.assert(
      fc.property(texts, (text) => {
        let before: unknown
        for (let end = 0; end <= text.length; end++) {
          const prefix = text.slice(0, end)
          const { state, value } = partialJson(prefix)
          const shown = plain(value)
          const wanted = { state: parsed(prefix) ? 'complete' : 'partial', value: repaired(prefix) }
          // `expect` at each prefix of each text would take most of the time.
          if (!isDeepStrictEqual({ state, value: shown }, wanted))
            expect([prefix, state, shown]).toEqual([prefix, ...Object.values(wanted)])
          if (!grewFrom(before, shown) && typeof before !== 'number') expect([prefix, shown]).toEqual([prefix, before])
          before = shown
        }
        expect(before).toStrictEqual(plain(JSON.parse(text)))
      }),
      { seed: 1, numRuns: 200 }
    )
  })

  it('says the same of any text, JSON or not, in any pieces (seed 2)', () => {
    const soup = fc
      .array(
        fc.constantFrom(
          ...Array.from('[]{},:"\\ \n'),
          '\\u',
          'd83d',
          'de00',
          '\ud83d',
          '\ude00',
          'true',
          'nul',
          '-',
          '1',
          '.',
          'e',
          '"a":',
          'x'
        ),
        {
          maxLength: 40
        }
      )
      .map((words) => words.join(''))
    const changed = fc.tuple(texts, fc.nat(), fc.constantFrom('', '"', ',', '}', '\\', '0')).map(([text, at, change]) => {
      const place = at % text.length
      return text.slice(0, place) + change + text.slice(place + 1)
    })
    fc.assert(
      fc.property(fc.oneof(soup, changed), fc.array(fc.integer({ min: 1, max: 9 }), { minLength: 1 }), (text, sizes) => {
        let next = 0
        const whole = partialJson(text)
        const cut = inPieces(text, () => sizes[next++ % sizes.length] as number)
        expect({ state: cut.state, value: cut.value }).toStrictEqual(whole)
        expect(whole.state === 'complete').toBe(parsed(text) !== undefined)
        if (whole.state === 'complete') expect(plain(whole.value)).toStrictEqual(plain(parsed(text)?.value))
      }),
      { seed: 2, numRuns: 5000 }
    )
  })

  // The yardstick is the same work on a tenth of the text, so that the machine's speed cancels out.
  it.each([
    ['text', (size: number) => `{"code":"${'let a = b\\n'.repeat(size / 11)}"}`],
    ['emoji', (size: number) => `{"code":"x${'😀'.repeat(size / 2)}"}`],
    ['small values', (size: number) => `{"rows":[${'{"a":1,"b":[true]},'.repeat(size / 20)}0]}`],
    ['a number', (size: number) => `[${'1'.repeat(size)}]`],
    ['a fraction', (size: number) => `[0.${'1'.repeat(size)}]`],
    ['a key', (size: number) => `{"${'k'.repeat(size)}":1}`],
    ['duplicate keys', (size: number) => `{${'"a":"",'.repeat(size / 7)}"a":"x"}`]
  ])('takes time linear in %s that comes 4 characters at a time, with the value looked at each time', (_, write) => {
    const run = (text: string): number => {
      const startedAt = performance.now()
      const parser = createPartialJson()
      let seen = 0
      for (let at = 0; at < text.length; at += 4) {
        parser.push(text.slice(at, at + 4))
        if (parser.value !== undefined) seen++
      }
      expect([parser.state, seen > 0]).toEqual(['complete', true])
      return performance.now() - startedAt
    }
    const small = write(100_000)
    run(small) // warm
    let smallMs = 0
    for (let times = 0; times < 10; times++) smallMs += run(small)
    expect(run(write(1_000_000))).toBeLessThan(smallMs * 4 + 300)
  })
})

describe.skipIf(!existsSync(suite))('the suite of JSON parsers (skipped without ../shared/real)', () => {
  const names = existsSync(suite) ? readdirSync(suite) : []
  const load = (name: string): string => readFileSync(new URL(encodeURIComponent(name), suite), 'utf8')

  test('is all there', () => expect(names.length).toBeGreaterThan(300))

  test.each(names.filter((name) => name.startsWith('y_')))('%s is partial at each prefix and complete as a whole', (name) => {
    const text = load(name)
    for (let end = 0; end <= text.length; end++) {
      const prefix = text.slice(0, end)
      const { state, value } = partialJson(prefix)
      expect(state).toBe(parsed(prefix) ? 'complete' : 'partial')
      if (!text.includes('"a":"b","a":')) expect(plain(value)).toStrictEqual(plain(repaired(prefix)))
    }
    expect(partialJson(text).state).toBe('complete')
  })

  test.each(names.filter((name) => name.startsWith('n_')))('%s is never complete', (name) => {
    const text = load(name)
    const whole = partialJson(text)
    expect(whole.state).not.toBe('complete')
    expect(inPieces(text, () => 3).state).toBe(whole.state)
    if (text.length < 1000) expect(whole.state).toBe(canBecomeJson(text) ? 'partial' : 'invalid')
  })

  test.each(names.filter((name) => name.startsWith('i_')))('%s is what JSON.parse takes it for', (name) => {
    const text = load(name)
    const { state, value } = partialJson(text)
    const wanted = parsed(text)
    const tooDeep = text.startsWith('['.repeat(201))
    expect(state === 'complete').toBe(wanted !== undefined && !tooDeep)
    if (state === 'complete') expect(plain(value)).toStrictEqual(plain(wanted?.value))
  })

  /** Tried out: what ends a token, what makes a field whole, and what closes up to three brackets. */
  function canBecomeJson(text: string): boolean {
    const closers = ['']
    for (const closer of closers) if (closer.length < 3) closers.push(`${closer}]`, `${closer}}`)
    for (const token of ['', '0', '"', '""', '"":0', 'n"', '0"', '00"', '0000"', 'e', 'l', 'll', 'ue', 'se', 'alse']) {
      for (const field of ['', ':0']) for (const closer of closers) if (parsed(text + token + field + closer)) return true
    }
    return false
  }
})
