import { getEventListeners } from 'node:events'
import { setTimeout as delay } from 'node:timers/promises'
import { type HttpBody, MillraceError } from '@millrace/core'
import { probeLeaks } from '@millrace/testkit'
import { describe, expect, test } from 'vitest'
import { isExhausted, peek, readRefusal, refusalJson } from '../src/refusal.ts'

interface TestBody extends HttpBody {
  readonly cancelled: boolean
}

/** A body of these batches; a number is a pause of so many milliseconds, an error breaks it off. */
function bodyOf(...steps: readonly (string | number | Error)[]): TestBody {
  let cancelled = false
  async function* batches(): AsyncGenerator<readonly Uint8Array[], undefined> {
    for (const step of steps) {
      if (cancelled) throw new Error('read on behind cancel')
      if (step instanceof Error) throw step
      if (typeof step === 'number') await delay(step)
      else yield [Buffer.from(step)]
    }
  }
  const source = batches()
  return {
    [Symbol.asyncIterator]: () => source,
    text: () => Promise.reject(new Error('not read by iterating')),
    cancel() {
      cancelled = true
    },
    get cancelled() {
      return cancelled
    }
  }
}

async function readAll(body: HttpBody): Promise<string> {
  const pieces: Uint8Array[] = []
  for await (const batch of body) pieces.push(...batch)
  return Buffer.concat(pieces).toString()
}

describe('peek', () => {
  test.each(['text', 'iterating'])('gives what there is, and the same body to be read again by %s', async (way) => {
    const { text, body } = await peek(bodyOf('{"error":', '"é"}'), 1000)
    expect(text).toBe('{"error":"é"}')
    expect(await (way === 'text' ? body.text() : readAll(body))).toBe('{"error":"é"}')
    expect(body.complete).toBe(true)
  })

  test('a body beyond 64 KiB is held no further, and is whole for who reads on', async () => {
    const long = Array.from({ length: 100 }, (_, index) => String(index % 10).repeat(2000))
    const { text, body } = await peek(bodyOf(...long), 1000)
    expect(text).toBe(long.join('').slice(0, 65_536))
    expect(body.complete).toBe(false)
    expect(await body.text()).toBe(long.join(''))
  })

  test('a body that stalls is given up in time, and goes on where it was', async () => {
    const startedAt = performance.now()
    const { text, body } = await peek(bodyOf('half', 300, ' and half'), 50)
    expect(performance.now() - startedAt).toBeLessThan(250)
    expect(text).toBe('half')
    expect(await body.text()).toBe('half and half')
  })

  test('a body that breaks off breaks off again, behind what came', async () => {
    const broken = new MillraceError('network', 'broken', { details: { phase: 'body' } })
    const { text, body } = await peek(bodyOf('half', broken), 1000)
    expect(text).toBe('half')
    await expect(body.text()).rejects.toBe(broken)
  })

  test('a failure nobody reads on to is no unhandled rejection', async () => {
    const unhandled: unknown[] = []
    const hear = (error: unknown): void => void unhandled.push(error)
    process.on('unhandledRejection', hear)
    const { body } = await peek(bodyOf('half', 20, new Error('broken')), 5)
    body.cancel()
    await delay(60)
    process.off('unhandledRejection', hear)
    expect(unhandled).toEqual([])
  })

  test('an abort ends it at once with its reason, cancels the body and leaves no listener', async () => {
    const controller = new AbortController()
    const source = bodyOf('half', 1000)
    const peeking = peek(source, 1000, controller.signal)
    await delay(10)
    const startedAt = performance.now()
    controller.abort('enough')
    await expect(peeking).rejects.toBe('enough')
    expect(performance.now() - startedAt).toBeLessThan(50)
    expect(source.cancelled).toBe(true)
    expect(getEventListeners(controller.signal, 'abort')).toHaveLength(0)
  })

  test('leaves no listener and no timer behind a body that ended', async () => {
    const probe = probeLeaks()
    const { signal } = new AbortController()
    await peek(bodyOf('all'), 60_000, signal)
    expect(getEventListeners(signal, 'abort')).toHaveLength(0)
    await probe.check()
  })

  test('the body keeps the bound of who reads it, and cancel reaches the source', async () => {
    expect(await (await peek(bodyOf('four', 'more'), 1000)).body.text(8)).toBe('fourmore')
    const source = bodyOf('four', 'more')
    const { body } = await peek(source, 1000)
    await expect(body.text(5)).rejects.toMatchObject({ code: 'protocol', details: { reason: 'too-large' } })
    expect(source.cancelled).toBe(true)
  })
})

test('readRefusal gives what comes and gives up the rest', async () => {
  const long = bodyOf('x'.repeat(60_000), 'y'.repeat(60_000), 'z')
  expect(await readRefusal(long)).toBe('x'.repeat(60_000) + 'y'.repeat(5536))
  expect(long.cancelled).toBe(true)
  expect(await readRefusal(bodyOf('half', new Error('broken')))).toBe('half')
})

describe('refusalJson', () => {
  test.each([
    ['{"error":{"code":"x"}}', { error: { code: 'x' } }],
    ['[{"error":{"code":"x"}}]', [{ error: { code: 'x' } }]],
    [': ping\n\ndata: {"id":1}\n\ndata: {"error":{"code":"x"}}\n\ndata: [DONE]\n\n', { error: { code: 'x' } }],
    ['event: error\r\ndata: {"type":"error","code":"x"}', { type: 'error', code: 'x' }],
    ['<html>502</html>', undefined],
    ['data: [DONE]\n\n', undefined],
    ['{"error":', undefined],
    ['', undefined]
  ])('reads %j', (text, expected) => {
    expect(refusalJson(text)).toEqual(expected)
  })
})

describe('isExhausted', () => {
  test.each([
    { error: { code: 'insufficient_quota' } },
    { error: { type: 'insufficient_quota', code: null } },
    [{ error: { code: 'billing_not_active' } }],
    { type: 'error', error: { type: 'credit_balance_too_low' } },
    { type: 'error', code: 'billing_hard_limit_reached' }
  ])('%j is', (body) => {
    expect(isExhausted(body)).toBe(true)
  })

  test.each([
    undefined,
    null,
    'insufficient_quota',
    [],
    {},
    { error: 'insufficient_quota' },
    { error: { code: 'rate_limit_exceeded', message: 'this is not insufficient_quota' } }
  ])('%j is not', (body) => {
    expect(isExhausted(body)).toBe(false)
  })
})
