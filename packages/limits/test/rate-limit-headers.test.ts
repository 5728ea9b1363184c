import { existsSync, readFileSync } from 'node:fs'
import { type Random, seededRandom } from '@millrace/testkit'
import { describe, expect, it } from 'vitest'
import { newsOf } from '../src/rate-limit-headers.ts'

const date = 'Mon, 23 Nov 2026 12:00:00 GMT'
const now = Date.parse(date)
const read = (headers: Record<string, string>, status = 200) => newsOf({ status, headers: { date, ...headers } }, now)

describe('the counters of each provider', () => {
  it.each([
    ['6m0s', 360_000],
    ['12ms', 12],
    ['1m26.4s', 86_400],
    ['17.399999999s', 17_399.999999],
    ['0s,req_b176ab12', 0],
    ['2ms, req_fcbf1d5389cb4a908ff622465164f997', 2],
    ['24h0m0s', 86_400_000],
    ['3', 3000]
  ])('reads a reset of OpenAI written as %s', (reset, resetMs) => {
    const { news, ignored } = read({
      'x-ratelimit-limit-requests': '100',
      'x-ratelimit-remaining-requests': '60',
      'x-ratelimit-reset-requests': reset
    })
    expect(news).toEqual({ requests: { limit: 100, remaining: 60, resetMs }, tokens: undefined, even: true, pauseMs: undefined })
    expect(ignored).toBe(0)
  })

  it('takes the reset of Azure from its period, for the reset itself is of milliseconds or seconds', () => {
    const { news } = read({
      'x-ratelimit-limit-requests': '120',
      'x-ratelimit-remaining-requests': '119',
      'x-ratelimit-renewalperiod-requests': '60',
      'x-ratelimit-reset-requests': '500',
      'x-ratelimit-limit-tokens': '50000',
      'x-ratelimit-remaining-tokens': '49000',
      'x-ratelimit-renewalperiod-tokens': '60',
      'x-ratelimit-reset-tokens': '1'
    })
    expect(news).toMatchObject({ requests: { resetMs: 500 }, tokens: { resetMs: 1200 }, even: true })
  })

  it('reads the tokens that Anthropic says are nearest to their limit, with dates judged by its own clock', () => {
    const headers = {
      'anthropic-ratelimit-requests-limit': '50',
      'anthropic-ratelimit-requests-remaining': '49',
      'anthropic-ratelimit-requests-reset': '2026-11-23T12:00:01Z',
      'anthropic-ratelimit-input-tokens-limit': '40000',
      'anthropic-ratelimit-input-tokens-remaining': '1000',
      'anthropic-ratelimit-input-tokens-reset': '2026-11-23T12:00:58Z'
    }
    const hourOff = newsOf({ status: 200, headers: { date, ...headers } }, now + 3_600_000)
    // A second is too short for a clock of whole seconds to tell a window by.
    expect(hourOff.news).toMatchObject({
      requests: { limit: 50, remaining: 49, resetMs: undefined },
      tokens: { limit: 40_000, remaining: 1000, resetMs: 58_000 }
    })
    const restrictive = {
      'anthropic-ratelimit-tokens-limit': '48000',
      'anthropic-ratelimit-tokens-remaining': '12000',
      'anthropic-ratelimit-tokens-reset': '2026-11-23T12:00:45.500Z'
    }
    expect(read({ ...headers, ...restrictive }).news?.tokens).toEqual({ limit: 48_000, remaining: 12_000, resetMs: 45_500 })
  })

  it('reads both ways of Mistral, of minutes that are full again all at once', () => {
    const minute = read({
      'x-ratelimit-limit-req-minute': '100',
      'x-ratelimit-remaining-req-minute': '96',
      'x-ratelimit-limit-tokens-minute': '100000',
      'x-ratelimit-remaining-tokens-minute': '99879'
    })
    expect(minute.news).toMatchObject({ requests: { limit: 100, remaining: 96 }, tokens: { limit: 100_000, remaining: 99_879 } })
    const bySize = read({
      'ratelimitbysize-limit': '500000',
      'ratelimitbysize-remaining': '342032',
      'ratelimitbysize-reset': '33'
    })
    expect(bySize.news).toMatchObject({ tokens: { limit: 500_000, remaining: 342_032, resetMs: 33_000 }, even: false })
    expect(read({ 'x-ratelimitbysize-limit-minute': '500000', 'x-ratelimitbysize-remaining-minute': '1' }).news?.tokens).toEqual({
      limit: 500_000,
      remaining: 1,
      resetMs: undefined
    })
  })

  it.each([
    ['a delta in seconds', '30', 30_000],
    ['seconds since 1970', String(now / 1000 + 30), 30_000],
    ['milliseconds since 1970', String(now + 30_000), 30_000],
    ['a duration', '1m30s', 90_000]
  ])('reads a plain reset that is %s', (_, reset, resetMs) => {
    const { news } = read({ 'x-ratelimit-limit': '60', 'x-ratelimit-remaining': '9', 'x-ratelimit-reset': reset })
    expect(news).toMatchObject({ requests: { limit: 60, remaining: 9, resetMs }, even: false })
  })

  it('reads the fields of the IETF in each of their drafts', () => {
    const requests = { limit: 100, remaining: 50, resetMs: 30_000 }
    const policy = '"burst";q=10;w=1, "default";q=100;w=60;pk=:c2VjcmV0:'
    expect(read({ ratelimit: '"default";r=50;t=30', 'ratelimit-policy': policy }).news?.requests).toEqual(requests)
    expect(read({ ratelimit: '"default";r=50;t=30, "burst";r=3;t=1', 'ratelimit-policy': policy }).news?.requests).toEqual({
      limit: 10,
      remaining: 3,
      resetMs: 1000
    })
    expect(read({ ratelimit: 'limit=100, remaining=50, reset=30' }).news?.requests).toEqual(requests)
    expect(read({ 'ratelimit-limit': '100', 'ratelimit-remaining': '50', 'ratelimit-reset': '30' }).news?.requests).toEqual(
      requests
    )
    // A quota of bytes is no quota of requests.
    expect(read({ ratelimit: '"default";r=5;t=3', 'ratelimit-policy': '"default";q=9;qu="content-bytes"' }).news).toBeUndefined()
  })
})

describe('what makes no sense', () => {
  it.each([
    ['negative', { 'x-ratelimit-remaining-requests': '-1' }],
    ['no number', { 'x-ratelimit-remaining-requests': 'banana' }],
    ['absurd', { 'x-ratelimit-limit-tokens': '9999999999999999' }],
    ['beyond all numbers', { 'x-ratelimit-limit-tokens': '9'.repeat(400) }],
    ['repeated', { 'x-ratelimit-limit-tokens': '100, 200' }],
    ['a limit of nothing', { 'x-ratelimit-limit-tokens': '0' }],
    ['empty', { 'x-ratelimit-limit-tokens': '' }],
    ['a broken structure', { ratelimit: '"default;r=50' }],
    ['a structure without a count', { ratelimit: '"default";t=5' }],
    ['a limit of nobody knows what, nor for how long', { 'x-ratelimit-limit': '1' }],
    ['what is left of it', { 'ratelimit-remaining': '0' }]
  ])('is ignored and counted: %s', (_, headers) => {
    expect(read(headers as unknown as Record<string, string>)).toEqual({ news: undefined, read: expect.any(Number), ignored: 1 })
  })

  it('is both numbers where more is left than there ever is', () => {
    expect(read({ 'x-ratelimit-limit': '30', 'x-ratelimit-remaining': '59', 'x-ratelimit-reset': '2' })).toEqual({
      news: undefined,
      read: 1,
      ignored: 2
    })
  })

  it('is a reset of more than a day, while the rest of the counter counts', () => {
    const { news, ignored } = read({
      'x-ratelimit-limit-requests': '10',
      'x-ratelimit-remaining-requests': '5',
      'x-ratelimit-reset-requests': '25h'
    })
    expect(news?.requests).toEqual({ limit: 10, remaining: 5, resetMs: undefined })
    expect(ignored).toBe(1)
  })
})

describe('how long a refusal asks to be left alone', () => {
  it.each([
    [429, { 'retry-after': '7' }, 7000],
    [503, { 'retry-after': '7' }, 7000],
    [529, { 'retry-after-ms': '250', 'retry-after': '1' }, 250],
    [429, { 'retry-after-ms': '0', 'retry-after': '1' }, 1000],
    [429, { 'retry-after': 'Mon, 23 Nov 2026 12:00:05 GMT' }, 5000],
    [429, { 'retry-after': 'soon' }, undefined],
    [429, { 'retry-after': '90000' }, undefined],
    [429, {}, undefined],
    [503, { 'retry-after': '86400' }, 300_000],
    [529, { 'retry-after-ms': '900000' }, 300_000],
    [429, { 'retry-after': '86400' }, 3_600_000],
    [
      429,
      {
        'retry-after': '86000',
        'x-ratelimit-limit-requests': '50',
        'x-ratelimit-remaining-requests': '0',
        'x-ratelimit-reset-requests': '24h'
      },
      86_000_000
    ],
    [200, { 'retry-after': '7' }, undefined],
    [500, { 'retry-after': '7' }, undefined],
    [429, { 'x-ratelimit-limit-tokens': '9', 'x-ratelimit-remaining-tokens': '0', 'x-ratelimit-reset-tokens': '3s' }, 3000],
    [429, { 'x-ratelimit-limit-tokens': '9', 'x-ratelimit-remaining-tokens': '2', 'x-ratelimit-reset-tokens': '3s' }, undefined]
  ])('is read of a %i with %o', (status, headers, pauseMs) => {
    expect(read(headers as Record<string, string>, status).news?.pauseMs).toBe(pauseMs)
  })
})

const names = [
  'x-ratelimit-limit-requests',
  'x-ratelimit-remaining-requests',
  'x-ratelimit-reset-requests',
  'x-ratelimit-renewalperiod-requests',
  'anthropic-ratelimit-tokens-limit',
  'anthropic-ratelimit-tokens-remaining',
  'anthropic-ratelimit-tokens-reset',
  'ratelimitbysize-limit',
  'ratelimitbysize-remaining',
  'ratelimitbysize-reset',
  'x-ratelimit-limit',
  'x-ratelimit-remaining',
  'x-ratelimit-reset',
  'ratelimit',
  'ratelimit-policy',
  'retry-after',
  'retry-after-ms',
  'date'
]
const shards = ['0', '1', '59', '-', '.', ' ', ',', ';', '"', 'default', 'r=', 't=', 'q=', 'w=', 'ms', 's', 'm', 'h', 'e9', 'NaN']
const whole = [
  '100',
  '60',
  '2026-11-23T12:00:09Z',
  '2026-02-31T00:00:00Z',
  date,
  '1763899200',
  '1e400',
  '"a";r=1;t=9',
  'Infinity'
]

function anyText(random: Random): string {
  if (random() < 0.4) return whole[Math.floor(random() * whole.length)] ?? ''
  return Array.from({ length: Math.floor(random() * 12) }, () =>
    random() < 0.9 ? shards[Math.floor(random() * shards.length)] : String.fromCharCode(random() * 0x2_00)
  ).join('')
}

it('gives no NaN, no Infinity and nothing negative, whatever the headers hold (seed 8)', () => {
  const random = seededRandom(8)
  let told = 0
  for (let round = 0; round < 20_000; round++) {
    const headers = Object.fromEntries(names.filter(() => random() < 0.4).map((name) => [name, anyText(random)]))
    const status = [200, 429, 503, 529][Math.floor(random() * 4)] ?? 200
    const { news, ignored, read: understood } = newsOf({ status, headers }, now)
    const { requests, tokens, pauseMs } = news ?? {}
    const numbers = [requests, tokens].flatMap((one) => [one?.limit, one?.remaining, one?.resetMs])
    for (const value of [...numbers, pauseMs, ignored, understood]) {
      if (value === undefined) continue
      told++
      expect(Number.isFinite(value) && value >= 0, JSON.stringify(headers)).toBe(true)
    }
  }
  expect(told).toBeGreaterThan(20_000)
})

describe('the headers of real answers', () => {
  const folder = new URL('../../../../shared/real/recordings/', import.meta.url)
  const isThere = existsSync(folder)
  if (!isThere) console.warn('tests of recorded headers are skipped: the recordings do not lie beside the checkout')

  /** Recorded, and not taken over: why. */
  const left: Readonly<Record<string, string>> = {
    'x-ratelimit-key': 'the name of a deployment',
    'x-ratelimit': 'a flag of Together',
    'x-ratelimit-abusepenalty-active': 'a flag of Azure',
    'x-ratelimit-tokens-query-cost': 'what this one call took',
    'ratelimitbysize-query-cost': 'what this one call took',
    'x-ratelimitbysize-limit-month': 'of a month: the minute comes first',
    'x-ratelimitbysize-remaining-month': 'of a month: the minute comes first',
    'x-ratelimitbysize-limit-minute': 'the same as ratelimitbysize-limit, which comes with its reset',
    'x-ratelimitbysize-remaining-minute': 'the same as ratelimitbysize-remaining',
    'anthropic-ratelimit-input-tokens-limit': 'the counter without "input" is the one nearest to its limit',
    'anthropic-ratelimit-input-tokens-remaining': 'as above',
    'anthropic-ratelimit-input-tokens-reset': 'as above',
    'anthropic-ratelimit-output-tokens-limit': 'as above',
    'anthropic-ratelimit-output-tokens-remaining': 'as above',
    'anthropic-ratelimit-output-tokens-reset': 'as above'
  }

  it.skipIf(!isThere)('are all read, but for those named here', () => {
    const index = readFileSync(new URL('index.jsonl', folder), 'utf8').trim().split('\n')
    let answers = 0
    let contradictory = 0
    for (const line of index) {
      const { id, file } = JSON.parse(line) as { id: string; file: string }
      const { response } = JSON.parse(readFileSync(new URL(file, folder), 'utf8')) as {
        response: { status: number | null; headers: Record<string, string | string[]> }
      }
      const headers = Object.fromEntries(
        Object.entries(response.headers).map(([name, value]) => [name.toLowerCase(), [value].flat().join(', ')])
      )
      const status = response.status ?? 200
      const hints = status === 429 ? ['retry-after', 'retry-after-ms'] : []
      const present = Object.keys(headers).filter((name) => /ratelimit|ratelimitbysize/.test(name) || hints.includes(name))
      if (present.length === 0) continue
      answers++
      const isAzure = headers['x-ratelimit-renewalperiod-requests'] !== undefined
      const expected = present.filter((name) => left[name] === undefined && !(isAzure && /-reset-/.test(name)))
      const { news, read: understood, ignored } = newsOf({ status, headers }, now)
      expect(understood + ignored, id).toBe(expected.length)
      // Together says that 59 of 30 are left.
      if (ignored > 0) contradictory++
      else expect(news, id).toBeDefined()
      expect(ignored, id).toBe(Number(headers['x-ratelimit-remaining']) > Number(headers['x-ratelimit-limit']) ? 2 : 0)
    }
    expect(answers).toBeGreaterThan(100)
    expect(contradictory).toBe(7)
  })
})
