import { getEventListeners } from 'node:events'
import {
  type Clock,
  type HttpRequest,
  type HttpResponse,
  isMillraceError,
  MillraceError,
  type MillraceErrorInit,
  type Send
} from '@millrace/core'
import { heapAfterGc } from '@millrace/testkit'
import { createTransport } from '@millrace/transport'
import fc from 'fast-check'
import { afterEach, describe, expect, test } from 'vitest'
import { createBreaker } from '../src/breaker.ts'
import { bufferedBody } from './buffered-body.ts'
import { nodeSend } from './node-send.ts'
import { serve, type TestServer } from './serve.ts'

const origin = 'http://model.test:8080'
const request: HttpRequest = { method: 'POST', url: `${origin}/v1/chat/completions`, headers: {}, body: '{}' }

function answer(status: number, refusal?: number): HttpResponse {
  const response = { status, headers: {}, body: bufferedBody(''), attempts: 1 }
  return refusal === undefined ? response : { ...response, refusal }
}

const down = (): MillraceError => new MillraceError('network', 'down', { details: { phase: 'connect' } })
const timeout = (clock: Clock): MillraceError =>
  new MillraceError('timeout', 'late', { details: { clock, limitMs: 1, elapsedMs: 1 } })
const protocol = (reason: MillraceErrorInit<'protocol'>['details']['reason']): MillraceError =>
  new MillraceError('protocol', 'bad', { details: { reason } })

type Told = HttpResponse | Error

/** A breaker over a `Send` that the test answers: at once with what is in `next`, or later. */
function setUp(options: Parameters<typeof createBreaker>[0] = {}) {
  let at = 0
  let told: Told | 'hangs' = answer(200)
  let sent = 0
  const pending: PromiseWithResolvers<HttpResponse>[] = []
  const breaker = createBreaker({ minimumRequests: 4, now: () => at, ...options })
  const send = breaker.layer(async () => {
    sent++
    if (told === 'hangs') {
      const later = Promise.withResolvers<HttpResponse>()
      pending.push(later)
      return later.promise
    }
    if (told instanceof Error) throw told
    return told
  })
  const ask = (changes: Partial<HttpRequest> = {}): Promise<HttpResponse> => send({ ...request, ...changes })
  const code = (changes: Partial<HttpRequest> = {}): Promise<unknown> =>
    ask(changes).then(
      ({ status }) => status,
      (error: unknown) => (isMillraceError(error) ? error.code : error)
    )
  return {
    breaker,
    ask,
    code,
    pending,
    pass: (ms: number) => void (at += ms),
    tell: (next: Told | 'hangs') => void (told = next),
    get sent() {
      return sent
    },
    async fail(times: number, how: Told = down()) {
      const before = told
      told = how
      for (let count = 0; count < times; count++) await code()
      told = before
    }
  }
}

describe('opens', () => {
  test('when half of at least 20 requests in ten seconds have failed, and says how long it stays so', async () => {
    const { breaker, fail, code, ask, pass } = setUp({ minimumRequests: undefined })
    for (let good = 0; good < 10; good++) await code()
    await fail(9)
    expect(breaker.state(origin)).toBe('closed')
    await fail(1)
    expect(breaker.state(origin)).toBe('open')
    pass(399.5)
    const error = await ask().catch((thrown: unknown) => thrown)
    expect(error).toMatchObject({ code: 'circuit-open', retryable: true, details: { origin, retryAfterMs: 601 } }) // never too early
  })

  test('and sends nothing while it is open', async () => {
    const subject = setUp()
    await subject.fail(4)
    const { sent } = subject
    for (let count = 0; count < 50; count++) expect(await subject.code()).toBe('circuit-open')
    expect(subject.sent).toBe(sent)
    expect(subject.breaker.stats()).toEqual({ [origin]: { state: 'open', opened: 1, rejected: 50 } })
  })

  test('not for failures that are older than the window', async () => {
    const { breaker, fail, pass } = setUp({ windowMs: 1000 })
    await fail(3)
    pass(1000)
    await fail(3)
    expect(breaker.state(origin)).toBe('closed')
    pass(899) // the ten buckets are 100 ms each
    await fail(1)
    expect(breaker.state(origin)).toBe('open')
  })

  test('also when the clock goes back', async () => {
    const { breaker, fail, pass } = setUp()
    pass(50_000)
    await fail(2)
    pass(-20_000)
    await fail(1)
    pass(20_000)
    await fail(1)
    expect(breaker.state(origin)).toBe('open')
  })

  test('not by a success, even where that makes the numbers enough', async () => {
    const { breaker, fail, code } = setUp()
    await fail(3)
    await code()
    expect(breaker.state(origin)).toBe('closed')
    await fail(1)
    expect(breaker.state(origin)).toBe('open')
  })

  test('for one origin and not for another', async () => {
    const { breaker, fail, code } = setUp()
    await fail(4)
    expect(await code({ url: 'http://other.test/v1' })).toBe(200)
    expect(await code({ url: 'http://model.test/v1' })).toBe(200) // another port
    expect(await code({ url: 'https://model.test:8080/v1' })).toBe(200) // another scheme
    expect(await code({ url: 'HTTP://MODEL.test:8080/v2?key=x' })).toBe('circuit-open')
    expect(breaker.state('http://model.test:8080/anything')).toBe('open')
    expect(breaker.state('nowhere')).toBe('closed')
  })
})

describe('what counts', () => {
  const failures: readonly [string, Told][] = [
    ...[408, 429, 500, 502, 503, 504, 529].map((status): [string, Told] => [`${status}`, answer(status)]),
    ['a 200 that holds a 529', answer(200, 529)],
    ['a stream that ended empty', answer(200, 502)],
    ['network', down()],
    ...(['connect', 'headers', 'first-chunk', 'idle'] as const).map((clock): [string, Told] => [
      `the ${clock} clock`,
      timeout(clock)
    ]),
    ...(['incomplete', 'malformed', 'encoding', 'unexpected'] as const).map((reason): [string, Told] => [
      `protocol ${reason}`,
      protocol(reason)
    ]),
    ['an error of a strange send', new Error('socket hang up')]
  ]
  test.each(failures)('%s is a failure', async (_, how) => {
    const { breaker, fail } = setUp()
    await fail(4, how)
    expect(breaker.state(origin)).toBe('open')
  })
  test.each(failures)('%s of the probe opens it again', async (_, how) => {
    const { breaker, fail, pass } = setUp()
    await fail(4)
    pass(1000)
    await fail(1, how)
    expect(breaker.state(origin)).toBe('open')
    expect(breaker.stats()[origin]?.opened).toBe(2)
  })

  const mistakes: readonly [string, Told][] = [
    ...[400, 401, 403, 404, 409, 413, 422].map((status): [string, Told] => [`${status}`, answer(status)]),
    ['a 200 that holds a 400', answer(200, 400)],
    ['an answer beyond its bound', protocol('too-large')]
  ]
  test.each(mistakes)('%s is the caller’s mistake: not counted, and yet an answer to the probe', async (_, how) => {
    const { breaker, fail, pass, code } = setUp()
    await fail(100, how)
    await fail(3)
    expect(breaker.state(origin)).toBe('closed')
    await fail(1) // of 4, not of 104: they are no successes either
    expect(breaker.state(origin)).toBe('open')
    pass(1000)
    await fail(1, how)
    expect(breaker.state(origin)).toBe('closed')
    expect(await code()).toBe(200)
  })

  const neutrals: readonly [string, Told][] = [
    ['the total clock', timeout('total')],
    ['the queue clock', timeout('queue')],
    ['invalid-request', new MillraceError('invalid-request', 'bad', { details: {} })],
    ['queue-full', new MillraceError('queue-full', 'full', { details: { limit: 1 } })],
    ['closed', new MillraceError('closed', 'closed', { details: {} })],
    ['circuit-open', new MillraceError('circuit-open', 'open', { details: { origin, retryAfterMs: 1 } })]
  ]
  test.each(neutrals)('%s says nothing, and gives the probe’s place to the next', async (_, how) => {
    const { breaker, fail, pass, code } = setUp()
    await fail(100, how)
    await fail(3)
    expect(breaker.state(origin)).toBe('closed')
    await fail(1)
    pass(1000)
    await fail(1, how)
    expect(breaker.state(origin)).toBe('half-open')
    expect(await code()).toBe(200)
    expect(breaker.state(origin)).toBe('closed')
  })

  test('an abort by the caller says nothing, however the error tells it', async () => {
    const { breaker, fail, pass, code, pending, tell, ask } = setUp()
    await fail(4)
    pass(1000)
    tell('hangs')
    const controller = new AbortController()
    const probe = ask({ signal: controller.signal })
    const reason = new Error('enough')
    controller.abort(reason)
    pending[0]?.reject(down())
    await expect(probe).rejects.toMatchObject({ code: 'network' })
    expect(breaker.state(origin)).toBe('half-open')
    const next = code({ signal: controller.signal })
    pending[1]?.reject(reason)
    expect(await next).toBe(reason)
    expect(breaker.state(origin)).toBe('half-open')
  })
})

describe('the probe', () => {
  test('is one request; the others are told how long to wait', async () => {
    const { breaker, fail, pass, tell, code, ask, pending } = setUp()
    await fail(4)
    pass(999)
    expect(await code()).toBe('circuit-open')
    pass(1)
    tell('hangs')
    const probe = code()
    expect(breaker.state(origin)).toBe('half-open')
    pass(10)
    await expect(ask()).rejects.toMatchObject({ code: 'circuit-open', details: { retryAfterMs: 990 } })
    pending[0]?.resolve(answer(200))
    expect(await probe).toBe(200)
    expect(breaker.state(origin)).toBe('closed')
    tell(answer(200))
    expect(await code()).toBe(200)
  })

  test('clears the window: it takes as many failures again', async () => {
    const { breaker, fail, pass, code } = setUp()
    await fail(4)
    pass(1000)
    await code()
    await fail(3)
    expect(breaker.state(origin)).toBe('closed')
    await fail(1)
    expect(breaker.state(origin)).toBe('open')
  })

  test('that hangs is followed by another after openMs, and the first to end decides', async () => {
    const { breaker, fail, pass, tell, code, pending } = setUp()
    await fail(4)
    pass(1000)
    tell('hangs')
    const hung = code()
    pass(999)
    expect(await code()).toBe('circuit-open')
    pass(1)
    const second = code()
    expect(pending).toHaveLength(2)
    expect(await code()).toBe('circuit-open')
    pending[0]?.resolve(answer(200))
    expect(await hung).toBe(200)
    expect(breaker.state(origin)).toBe('closed')
    pending[1]?.reject(down()) // of a state that is over
    await second
    await fail(3)
    expect(breaker.state(origin)).toBe('closed')
  })

  test('that hung and was then given up does not make room beside the one after it', async () => {
    const { fail, pass, tell, code, ask, pending } = setUp()
    await fail(4)
    pass(1000)
    tell('hangs')
    const controller = new AbortController()
    const hung = ask({ signal: controller.signal }).catch(() => {})
    pass(1000)
    const second = code()
    controller.abort()
    pending[0]?.reject(controller.signal.reason)
    await hung
    expect(await code()).toBe('circuit-open')
    pending[1]?.resolve(answer(200))
    expect(await second).toBe(200)
  })
})

test('results of requests begun before it opened neither close it nor open it again', async () => {
  const { breaker, fail, pass, tell, code, pending } = setUp()
  tell('hangs')
  const early = [code(), code(), code(), code(), code(), code(), code()]
  await fail(4)
  expect(breaker.state(origin)).toBe('open')
  pending[0]?.resolve(answer(200))
  await early[0]
  expect(breaker.state(origin)).toBe('open')
  pass(1000)
  const probe = code()
  pending[1]?.resolve(answer(200))
  pending[2]?.reject(down())
  await Promise.all(early.slice(1, 3))
  expect(breaker.state(origin)).toBe('half-open')
  pending[7]?.resolve(answer(200))
  await probe
  expect(breaker.state(origin)).toBe('closed')
  for (const late of pending.slice(3, 7)) late.reject(down())
  await Promise.all(early)
  expect(breaker.state(origin)).toBe('closed')
  expect(breaker.stats()[origin]?.opened).toBe(1)
})

test('never throws: what the send throws is a rejection, and a failure', async () => {
  const breaker = createBreaker({ minimumRequests: 1 })
  const reason = new Error('thrown')
  const send = breaker.layer(() => {
    throw reason
  })
  const first = send(request)
  await expect(first).rejects.toBe(reason)
  await expect(send(request)).rejects.toMatchObject({ code: 'circuit-open' })
})

test('a request without an address is left to who sends it', async () => {
  const { breaker, code } = setUp()
  expect(await code({ url: 'not an address' })).toBe(200)
  expect(breaker.stats()).toEqual({})
})

test('keeps at most 1000 origins, and drops the closed one that was not used for longest', async () => {
  const { breaker, fail, code } = setUp()
  await fail(4)
  for (let index = 0; index < 999; index++) await code({ url: `http://${index}.test/` })
  await code({ url: 'http://1.test/' })
  await code({ url: 'http://new.test/' })
  await code({ url: 'http://newer.test/' })
  const origins = Object.keys(breaker.stats())
  expect(origins).toHaveLength(1000)
  expect(origins).toContain(origin) // the oldest, but open
  expect(origins).not.toContain('http://0.test')
  expect(origins).not.toContain('http://2.test')
  expect(origins).toEqual(expect.arrayContaining(['http://1.test', 'http://3.test', 'http://new.test']))
})

test('keeps its bound when all of them are open', async () => {
  const { breaker, code, tell } = setUp({ minimumRequests: 1 })
  tell(down())
  for (let index = 0; index < 1500; index++) await code({ url: `http://${index}.test/` })
  expect(Object.keys(breaker.stats())).toHaveLength(1000)
  expect(breaker.state('http://499.test')).toBe('closed')
  expect(breaker.state('http://500.test')).toBe('open')
})

describe('refuses', () => {
  test.each([
    [{ failureRate: 0 }, 'failureRate must be a share above 0'],
    [{ failureRate: 1.1 }, 'failureRate must be'],
    [{ minimumRequests: 0 }, 'minimumRequests must be a whole number'],
    [{ minimumRequests: 1.5 }, 'minimumRequests must be a whole number'],
    [{ windowMs: 0 }, 'windowMs must be'],
    [{ windowMs: Number.POSITIVE_INFINITY }, 'windowMs must be'],
    [{ openMs: Number.NaN }, 'openMs must be'],
    [{ openMs: -1 }, 'openMs must be'],
    [{ now: 5 as unknown as () => number }, 'now must be a function'],
    [{ openMS: 5 } as object, 'createBreaker has no option "openMS"; it has failureRate']
  ])('%o', (options, told) => {
    expect(() => createBreaker(options)).toThrow(TypeError)
    expect(() => createBreaker(options)).toThrow(told)
  })
})

describe('agrees with a naive model', () => {
  // One step: time passes, then a request begins or the chosen one of those under way ends.
  const step = fc.record({
    passMs: fc.oneof(
      { weight: 6, arbitrary: fc.constant(0) },
      { weight: 4, arbitrary: fc.nat(30) },
      { weight: 1, arbitrary: fc.nat(400) }
    ),
    begin: fc.boolean(),
    which: fc.nat(1000),
    how: fc.constantFrom<Outcome>('success', 'success', 'failure', 'failure', 'failure', 'mistake', 'neutral')
  })
  const limits = fc.record({
    failureRate: fc.constantFrom(0.2, 0.5, 0.75, 1),
    minimumRequests: fc.integer({ min: 1, max: 8 }),
    windowMs: fc.constantFrom(100, 250, 1000),
    openMs: fc.constantFrom(20, 100, 500)
  })

  test('over 100,000 random steps (seed 17)', async () => {
    const seen = { steps: 0, opened: 0, rejected: 0, closed: 0, late: 0 }
    await fc.assert(
      fc.asyncProperty(limits, fc.array(step, { minLength: 1000, maxLength: 1000, size: 'max' }), async (given, steps) => {
        let at = 0
        const model = createModel(given)
        const breaker = createBreaker({ ...given, now: () => at })
        const running: { later: PromiseWithResolvers<HttpResponse>; result: Promise<unknown>; ticket: unknown }[] = []
        const begun: PromiseWithResolvers<HttpResponse>[] = []
        const send = breaker.layer(() => {
          const later = Promise.withResolvers<HttpResponse>()
          begun.push(later)
          return later.promise
        })
        for (const { passMs, begin, which, how } of steps) {
          seen.steps++
          at += passMs
          if (begin || running.length === 0) {
            const result = send(request).catch((error: unknown) => error)
            const later = begun.pop()
            const ticket = model.begin(at)
            expect(later === undefined).toBe(ticket === undefined)
            if (later === undefined) {
              expect(await result).toMatchObject({ code: 'circuit-open', details: { retryAfterMs: model.waitMs(at) } })
              seen.rejected++
            } else running.push({ later, result, ticket })
          } else {
            const [ended] = running.splice(which % running.length, 1)
            if (ended === undefined) continue
            settle(ended.later, how)
            await ended.result
            const before = model.state()
            seen.late += model.end(at, ended.ticket, how)
            if (before !== 'open' && model.state() === 'open') seen.opened++
            if (before !== 'closed' && model.state() === 'closed') seen.closed++
          }
          const isOver = model.state() === 'open' && model.waitMs(at) <= 0
          expect(breaker.state(origin)).toBe(isOver ? 'half-open' : model.state())
        }
        for (const { later } of running) later.resolve(answer(200))
      }),
      { seed: 17, numRuns: 100 }
    )
    // The walk has been everywhere, or it proves nothing.
    expect(seen.steps).toBeGreaterThanOrEqual(100_000)
    expect(Math.min(seen.opened, seen.rejected, seen.closed, seen.late)).toBeGreaterThan(500)
  }, 60_000)
})

type Outcome = 'success' | 'failure' | 'mistake' | 'neutral'

function settle(later: PromiseWithResolvers<HttpResponse>, how: Outcome): void {
  if (how === 'neutral') later.reject(new MillraceError('closed', 'closed', { details: {} }))
  else later.resolve(answer({ success: 200, mistake: 400, failure: 503 }[how]))
}

/** Keeps every event there ever was, and looks through all of them each time. */
function createModel(limits: { failureRate: number; minimumRequests: number; windowMs: number; openMs: number }) {
  const bucketOf = (at: number): number => Math.floor(at / (limits.windowMs / 10))
  let state: 'closed' | 'open' | 'half-open' = 'closed'
  let spell = {} // one object for each time it is closed, open or half-open
  let events: { at: number; failed: boolean }[] = []
  let openedAt = 0
  let probe: { at: number } | undefined
  const turn = (to: typeof state): void => {
    state = to
    spell = {}
    probe = undefined
    events = []
  }
  return {
    state: () => state,
    waitMs: (at: number) => (state === 'open' ? openedAt : (probe?.at ?? 0)) + limits.openMs - at,
    begin(at: number): { spell: object; probe: object | undefined } | undefined {
      if (state === 'open' && at >= openedAt + limits.openMs) turn('half-open')
      if (state === 'open') return undefined
      if (state === 'half-open') {
        if (probe !== undefined && at < probe.at + limits.openMs) return undefined
        probe = { at }
      }
      return { spell, probe }
    },
    /** 1 when the result came too late to count. */
    end(at: number, ticket: unknown, how: Outcome): 0 | 1 {
      const its = ticket as { spell: object; probe: object | undefined }
      if (its.spell !== spell) return 1
      if (state === 'half-open') {
        if (how === 'neutral') {
          if (probe === its.probe) probe = undefined
        } else if (how === 'failure') {
          turn('open')
          openedAt = at
        } else turn('closed')
      } else if (how === 'success' || how === 'failure') {
        events.push({ at, failed: how === 'failure' })
        const recent = events.filter((event) => bucketOf(event.at) > bucketOf(at) - 10)
        const failed = recent.filter((event) => event.failed).length
        if (how === 'failure' && recent.length >= limits.minimumRequests && failed / recent.length >= limits.failureRate) {
          turn('open')
          openedAt = at
        }
      }
      return 0
    }
  }
}

describe('over real sockets', () => {
  let server: TestServer | undefined
  afterEach(async () => {
    await server?.[Symbol.asyncDispose]()
    server = undefined
  })

  test('a dead origin is left alone, and serves in full within two seconds of healing', async () => {
    let dead = true
    server = await serve((incoming, response) => {
      if (dead) incoming.socket.destroy()
      else response.end('answer')
    })
    const { url } = server
    const breaker = createBreaker()
    const send = breaker.layer(nodeSend())
    const ask = (): Promise<number | string> =>
      send({ ...request, url }).then(
        async ({ status, body }) => (await body.text(), status),
        (error: unknown) => (isMillraceError(error) ? error.code : 'network')
      )
    // Two seconds of 20 callers that ask again and again.
    const until = performance.now() + 2000
    const told: (number | string)[] = []
    while (performance.now() < until) {
      told.push(...(await Promise.all(Array.from({ length: 20 }, ask))))
      await new Promise((resolve) => setTimeout(resolve, 10))
    }
    expect(server.requests).toBeLessThan(25) // 20, and one a second
    expect(told.filter((code) => code === 'circuit-open').length).toBeGreaterThan(500)

    dead = false
    const healedAt = performance.now()
    while ((await ask()) !== 200) await new Promise((resolve) => setTimeout(resolve, 10))
    expect(performance.now() - healedAt).toBeLessThan(2000)
    const after = await Promise.all(Array.from({ length: 200 }, ask))
    expect(after.filter((status) => status !== 200)).toEqual([])
  })

  test('in the transport: ends the retries at once, and is told in its stats', async () => {
    server = await serve((_, response) => void response.writeHead(503).end())
    await using transport = createTransport({
      breaker: { minimumRequests: 2, openMs: 60_000 },
      retry: { baseMs: 1, maxAttempts: 5 }
    })
    await expect(transport.send({ ...request, url: server.url })).rejects.toMatchObject({ code: 'circuit-open' })
    expect(server.requests).toBe(2)
    expect(transport.stats().origins[server.url]).toMatchObject({ breaker: 'open', breakerOpened: 1, breakerRejected: 1 })
  })

  test('leaves no listener on the signal, and keeps nothing of a call', async () => {
    const breaker = createBreaker()
    const controller = new AbortController()
    const send: Send = breaker.layer(() => Promise.resolve(answer(200)))
    const many = async (): Promise<void> => {
      for (let call = 0; call < 20_000; call++) await send({ ...request, signal: controller.signal })
    }
    await many()
    const before = await heapAfterGc()
    await many()
    expect((await heapAfterGc()) - before).toBeLessThan(500_000)
    expect(getEventListeners(controller.signal, 'abort')).toHaveLength(0)
  })
})
