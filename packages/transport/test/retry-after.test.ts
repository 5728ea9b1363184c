import { existsSync, globSync, readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { type Json, parseJson } from '@millrace/core'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { retryAfterMs } from '../src/retry-after.ts'

const now = Date.UTC(2026, 10, 22, 12, 0, 0)
const dayMs = 86_400_000
const seed = 20_261_123

function hint(headers: Readonly<Record<string, string>>, body?: Json, status = 429): number | undefined {
  return retryAfterMs({ status, headers }, body, now)
}

describe('retryAfterMs reads', () => {
  test.each([
    [{ 'retry-after': '2' }, 2000],
    [{ 'retry-after': ' 2 ' }, 2000],
    [{ 'retry-after': '0' }, 0],
    [{ 'retry-after': '86400' }, dayMs],
    [{ 'retry-after': '0.25' }, 250],
    [{ 'retry-after-ms': '120' }, 120],
    [{ 'retry-after-ms': '120.5', 'retry-after': '9' }, 120.5],
    [{ 'retry-after-ms': '0' }, 0],
    [{ 'retry-after-ms': '0', 'retry-after': '1' }, 1000], // as Azure sends it
    [{ 'retry-after-ms': '0', 'retry-after': 'banana' }, 0],
    [{ 'retry-after-ms': 'NaN', 'retry-after': '1' }, 1000]
  ])('a number: %j as %s', (headers, expected) => {
    expect(hint(headers)).toBe(expected)
  })

  test.each([
    ['Sun, 22 Nov 2026 12:00:07 GMT', 7000],
    ['Sunday, 22-Nov-26 12:00:07 GMT', 7000],
    ['Sun Nov 22 12:00:07 2026', 7000],
    ['Sun, 22 Nov 2026 11:00:00 GMT', 0],
    ['Mon, 23 Nov 2026 12:00:00 GMT', dayMs],
    ['Mon, 23 Nov 2026 12:00:01 GMT', undefined],
    ['Sat, 21 Nov 2026 11:59:59 GMT', undefined],
    ['Fri, 31 Dec 9999 23:59:59 GMT', undefined],
    ['Sunday, 06-Nov-94 08:49:37 GMT', undefined], // of 1994
    ['Sun, 31 Feb 2026 12:00:00 GMT', undefined],
    ['Sun, 22 Nov 2026 24:00:00 GMT', undefined],
    ['Sun, 22 Nov 2026 12:00:07', undefined],
    ['Sun, 22 Nov 2026 12:00:07 +0100', undefined],
    ['22 Nov 2026 12:00:07 GMT', undefined],
    ['Sun, 22 Nov 2026 12:00:07 GMT, Sun, 22 Nov 2026 12:00:08 GMT', undefined]
  ])('a date: %s as %s', (date, expected) => {
    expect(hint({ 'retry-after': date })).toBe(expected)
  })

  test('a day of one digit, and a leap second', () => {
    const first = Date.UTC(2026, 11, 1, 0, 0, 0)
    const headers = { 'retry-after': 'Tue Dec  1 00:00:05 2026' }
    expect(retryAfterMs({ status: 503, headers }, undefined, first)).toBe(5000)
    const newYear = { 'retry-after': 'Thu, 31 Dec 2026 23:59:60 GMT' }
    expect(retryAfterMs({ status: 503, headers: newYear }, undefined, Date.UTC(2026, 11, 31, 23, 59, 50))).toBe(10_000)
  })

  test('a date by the clock of who sent it, however far off ours is', () => {
    const headers = { date: 'Sun, 22 Nov 2020 12:00:00 GMT', 'retry-after': 'Sun, 22 Nov 2020 12:00:04 GMT' }
    expect(hint(headers)).toBe(4000)
  })

  test.each(['banana', 'banana 1', '-3', '1e9', '2, 4', '1;2', '+5', '0x10', '', ' ', 'Infinity', 'NaN', '99999999999', '86401'])(
    'nothing in %j',
    (text) => {
      expect(hint({ 'retry-after': text })).toBeUndefined()
      expect(hint({ 'retry-after-ms': text === '86401' ? '86400001' : text })).toBeUndefined()
    }
  )

  test('nothing in the headers of a 2xx, whatever they say', () => {
    const headers = { 'retry-after': '55', 'retry-after-ms': '1', 'x-ratelimit-reset-requests': '1s' }
    expect(hint(headers, undefined, 200)).toBeUndefined()
    expect(hint(headers, { error: { message: 'told in an event' } }, 200)).toBeUndefined()
  })

  test('a hint on every refusal, but reset times on a 429 only', () => {
    expect(hint({ 'retry-after': '3' }, undefined, 503)).toBe(3000)
    expect(hint({ 'x-ratelimit-reset-requests': '3s' }, undefined, 503)).toBeUndefined()
  })
})

describe('retryAfterMs reads reset times of OpenAI', () => {
  test.each([
    ['12ms', 12],
    ['1s', 1000],
    ['6m0s', 360_000],
    ['1m26.4s', 86_400],
    ['20m52.666s', 1_252_666],
    ['2h', 7_200_000],
    ['1h0m0.5s', 3_600_500],
    ['250µs', 0.25],
    ['0s', 0],
    ['7', 7000],
    ['0s,req_b17c0ffee', 0],
    ['25h', undefined],
    ['1s, 2s', undefined],
    ['-1s', undefined],
    ['1x', undefined],
    ['s', undefined],
    ['1s!', undefined],
    ['1s'.repeat(40), undefined],
    ['', undefined]
  ])('%s as %s', (reset, expected) => {
    const ms = hint({ 'x-ratelimit-remaining-requests': '0', 'x-ratelimit-reset-requests': reset })
    if (expected === undefined) expect(ms).toBeUndefined()
    else expect(ms).toBeCloseTo(expected, 6)
  })

  test('of the limits that have nothing left the longest, and of the others none', () => {
    const resets = { 'x-ratelimit-reset-requests': '6s', 'x-ratelimit-reset-tokens': '20s' }
    expect(hint(resets)).toBe(20_000)
    expect(hint({ ...resets, 'x-ratelimit-remaining-requests': '0', 'x-ratelimit-remaining-tokens': '90' })).toBe(6000)
    expect(hint({ ...resets, 'x-ratelimit-remaining-requests': '4', 'x-ratelimit-remaining-tokens': '90' })).toBeUndefined()
    expect(hint({ ...resets, 'x-ratelimit-reset-tokens': 'soon' })).toBe(6000)
  })

  test('only where no retry-after makes sense', () => {
    expect(hint({ 'retry-after': '1', 'x-ratelimit-reset-requests': '6s' })).toBe(1000)
    expect(hint({ 'retry-after': 'banana', 'x-ratelimit-reset-requests': '6s' })).toBe(6000)
  })
})

describe('retryAfterMs reads reset times of Anthropic', () => {
  test.each(['requests', 'tokens', 'input-tokens', 'output-tokens'])('for %s', (what) => {
    const headers = {
      [`anthropic-ratelimit-${what}-remaining`]: '0',
      [`anthropic-ratelimit-${what}-reset`]: '2026-11-22T12:00:30Z'
    }
    expect(hint(headers)).toBe(30_000)
  })

  test.each([
    ['2026-11-22T12:00:30.250Z', 30_250],
    ['2026-11-22T13:00:30+01:00', 30_000],
    ['2026-11-22T11:59:00Z', 0],
    ['2026-11-24T12:00:00Z', undefined],
    ['2026-13-22T12:00:30Z', undefined],
    ['2026-11-22 12:00:30', undefined],
    ['tomorrow', undefined]
  ])('%s as %s', (reset, expected) => {
    expect(hint({ 'anthropic-ratelimit-requests-reset': reset })).toBe(expected)
  })

  test('of the limits that have nothing left the longest', () => {
    const headers = {
      'anthropic-ratelimit-requests-remaining': '49',
      'anthropic-ratelimit-requests-reset': '2026-11-22T12:00:59Z',
      'anthropic-ratelimit-input-tokens-remaining': '0',
      'anthropic-ratelimit-input-tokens-reset': '2026-11-22T12:00:05Z',
      'anthropic-ratelimit-output-tokens-remaining': '0',
      'anthropic-ratelimit-output-tokens-reset': '2026-11-22T12:00:09Z'
    }
    expect(hint(headers)).toBe(9000)
  })
})

describe("retryAfterMs reads Google's RetryInfo", () => {
  const info = (retryDelay: Json): Json => ({
    error: {
      code: 429,
      details: [
        { '@type': 'type.googleapis.com/google.rpc.Help' },
        { '@type': 'type.googleapis.com/google.rpc.RetryInfo', retryDelay }
      ]
    }
  })
  test.each([
    ['34.5s', 34_500],
    ['48s', 48_000],
    ['0s', 0],
    ['-1s', undefined],
    ['34', undefined],
    [34, undefined],
    [null, undefined],
    ['86401s', undefined]
  ])('%j as %s', (retryDelay, expected) => {
    expect(hint({}, info(retryDelay))).toBe(expected)
    expect(hint({}, [info(retryDelay)])).toBe(expected)
    expect(hint({}, info(retryDelay), 503)).toBe(expected)
  })

  test('in the error event of a 200 too, but behind a retry-after', () => {
    expect(hint({ 'retry-after': '1' }, info('5s'), 200)).toBe(5000)
    expect(hint({ 'retry-after': '1' }, info('5s'))).toBe(1000)
  })

  test.each([null, 1, 'text', [], [[]], {}, { error: 'text' }, { error: { details: {} } }, { error: { details: [null, 1] } }])(
    'nothing in %j',
    (body) => {
      expect(hint({}, body as Json)).toBeUndefined()
    }
  )
})

describe('whatever a server sends', () => {
  const names = [
    'date',
    'retry-after',
    'retry-after-ms',
    'x-ratelimit-reset-requests',
    'x-ratelimit-remaining-requests',
    'x-ratelimit-reset-tokens',
    'anthropic-ratelimit-tokens-reset',
    'anthropic-ratelimit-tokens-remaining'
  ]
  const isSane = (ms: number | undefined): boolean => ms === undefined || (ms >= 0 && ms <= dayMs)

  test(`a hint is undefined or within a day, and nothing throws (seed ${seed})`, () => {
    const near = fc.stringMatching(/^[-+]?[\d.e, ]{0,12}(ms|s|m|h|GMT)?$/)
    const value = fc.oneof(
      fc.string(),
      near,
      fc.date({ noInvalidDate: true }).map((date) => date.toUTCString()),
      fc.date({ noInvalidDate: true }).map((date) => date.toISOString())
    )
    const headers = fc.dictionary(fc.constantFrom(...names), value)
    fc.assert(
      fc.property(headers, fc.jsonValue(), fc.constantFrom(200, 429, 503), (given, body, status) => {
        expect(isSane(retryAfterMs({ status, headers: given }, body as Json, now))).toBe(true)
      }),
      { seed, numRuns: 20_000 }
    )
  })

  const folder = new URL('../../../../shared/real/recordings/', import.meta.url)
  const isThere = existsSync(folder)
  if (!isThere) console.warn('tests of recorded headers are skipped: no recordings beside the checkout')

  test.skipIf(!isThere)('of all that real providers were recorded to send, every hint is sane', () => {
    interface Recorded {
      readonly response: {
        readonly status: number | null
        readonly headers: Record<string, string | string[]>
        readonly body: string
      }
    }
    let answers = 0
    let hints = 0
    for (const file of globSync('*/*.json', { cwd: fileURLToPath(folder) })) {
      const { response } = JSON.parse(readFileSync(new URL(file, folder), 'utf8')) as Recorded
      const headers = Object.fromEntries(
        Object.entries(response.headers).map(([name, value]) => [name.toLowerCase(), [value].flat().join(', ')])
      )
      const body = parseJson(response.body)
      if (Object.keys(headers).some((name) => /ratelimit|retry/.test(name))) answers++
      for (const status of [response.status ?? 200, 429]) {
        const ms = retryAfterMs({ status, headers }, body)
        expect(isSane(ms), `${file}: ${ms}`).toBe(true)
        if (ms !== undefined) hints++
        // No recorded success holds a RetryInfo, and its headers do not count.
        if (status === 200) expect(ms === undefined || response.status === null, file).toBe(true)
      }
    }
    expect(answers).toBeGreaterThan(100)
    expect(hints).toBeGreaterThan(10)
  })

  test.skipIf(!isThere)("a recorded 429 of Google's and one of Azure's are read", () => {
    const read = (file: string): number | undefined => {
      const { response } = JSON.parse(readFileSync(new URL(file, folder), 'utf8')) as {
        response: { status: number; headers: Record<string, string>; body: string }
      }
      const headers = Object.fromEntries(Object.entries(response.headers).map(([name, value]) => [name.toLowerCase(), value]))
      return retryAfterMs({ status: response.status, headers }, parseJson(response.body))
    }
    expect(read('gemini/gemini-generateContent-5d9666c155.json')).toBe(48_000)
    expect(read('azure/azure-chat-c2945760fe.json')).toBe(1000)
  })
})
