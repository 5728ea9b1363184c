import { describe, expect, it } from 'vitest'
import { type CacheFigures, judgeCache, mixedIn } from '../src/doctor-cache.ts'
import { readCounts, rise } from '../src/doctor-counts.ts'
import { boundBytes, heapOf, judgeMemory, slopeOf } from '../src/doctor-memory.ts'
import { judgeMetrics, type Tracked } from '../src/doctor-metrics.ts'
import { judgePooling } from '../src/doctor-pooling.ts'
import { readMetrics } from '../src/doctor-prometheus.ts'
import { figuresOf, judgeStreaming, type StreamFigures } from '../src/doctor-streaming.ts'
import { judgeTokens } from '../src/doctor-tokens.ts'
import type { Verdict } from '../src/doctor-verdict.ts'

/** What failed also says why and what to do, in one line each. */
function expectFailed(verdict: Verdict, cause: RegExp): void {
  expect(verdict).toMatchObject({ pass: false, cause: expect.stringMatching(cause) as string })
  expect(verdict.cure).toMatch(/^[^\n]{10,}$/)
}

describe('pooling', () => {
  it('passes when calls that follow each other share sockets, others’ calls among them', () => {
    expect(judgePooling({ calls: 28, opened: 1, requests: 28, reused: 27 })).toEqual({
      pass: true,
      figure: '28 requests to the provider opened 1 socket, 96 % went over an open one'
    })
    expect(judgePooling({ calls: 28, opened: 9, requests: 90, reused: 81 }).pass).toBe(true)
  })

  it('fails when each request opens a socket, and when no requests are counted', () => {
    expectFailed(judgePooling({ calls: 28, opened: 28, requests: 28, reused: 0 }), /opened anew/)
    expectFailed(judgePooling({ calls: 28, opened: 7, requests: 28, reused: 21 }), /opened anew/)
    expectFailed(judgePooling({ calls: 28, opened: 0, requests: 0, reused: 0 }), /28 calls .* only 0 requests/)
  })
})

describe('cache', () => {
  const states = ['miss', ...Array.from({ length: 9 }, () => 'joined')]
  const right: CacheFigures = {
    first: 'miss',
    second: 'hit',
    other: 'miss',
    firstMs: 400,
    secondMs: 2,
    sameText: true,
    mixed: undefined,
    states,
    allSame: true,
    requests: 1,
    others: false
  }

  it('passes for a hit that is faster and ten askers that cost one request', () => {
    const { pass, figure } = judgeCache(right)
    expect(pass).toBe(true)
    expect(figure).toBe('asked again: hit in 2.0 ms instead of 400 ms; 10 askers at once: 1 request to the provider, 9 shared')
  })

  it('takes requests beyond one for others’, where others call', () => {
    expect(judgeCache({ ...right, requests: 4, others: true }).pass).toBe(true)
    expectFailed(judgeCache({ ...right, requests: 4 }), /not answered by one request/)
  })

  it.each<[Partial<CacheFigures>, RegExp]>([
    [{ second: 'miss' }, /no hit but miss/],
    [{ first: undefined, second: undefined, other: undefined }, /not looked up/],
    [{ other: 'hit' }, /nobody asked before was a hit/],
    [{ first: 'hit' }, /nobody asked before was a hit/],
    [{ sameText: false }, /another text/],
    [{ allSame: false }, /another text/],
    [{ mixed: 'empty' }, /without text/],
    [{ mixed: 'foreign' }, /code of another question/],
    [{ mixed: 'alike' }, /one and the same text/],
    [{ secondMs: 401 }, /no faster/],
    [{ states: states.map(() => 'miss'), requests: 10, others: true }, /not answered by one request/]
  ])('fails for %j', (wrong, cause) => expectFailed(judgeCache({ ...right, ...wrong }), cause))
})

describe('texts of three questions', () => {
  it.each([
    ['with their own codes', ['a red', 'b red', 'c Rhine'], undefined],
    ['without codes, two alike', ['red', 'red', 'Rhine'], undefined],
    ['one without text', ['a red', '', 'c Rhine'], 'empty'],
    ['one with another’s code', ['a red', 'a red', 'c Rhine'], 'foreign'],
    ['all alike', ['secret', 'secret', 'secret'], 'alike']
  ] as const)('%s', (_, texts, found) => {
    expect(mixedIn(['a ', 'b ', 'c '].map((code, at) => ({ code, text: texts[at] as string })))).toBe(found)
  })
})

describe('tokens', () => {
  const right = { sentTokens: 20_000, messages: 82, dropped: 73, promptTokens: 2902, fitted: 17_000, refused: undefined }

  it('passes when messages were dropped and the provider counted less', () => expect(judgeTokens(right).pass).toBe(true))

  it.each<[Partial<typeof right>, RegExp, RegExp]>([
    [
      { dropped: 0, promptTokens: 20_100, fitted: 0 },
      /no message was dropped from a talk of about 20,000 tokens/,
      /CONTEXT_WINDOW/
    ],
    [{ fitted: 0 }, /no token was counted as saved/, /tokensFitted/],
    [{ promptTokens: 19_900 }, /nearly all tokens/, /CONTEXT_WINDOW/],
    [{ fitted: 33_528 }, /33,528 tokens as saved, more than were sent/, /tokensFitted/]
  ])('fails for %j', (wrong, cause, cure) => {
    expectFailed(judgeTokens({ ...right, ...wrong }), cause)
    expect(judgeTokens({ ...right, ...wrong }).cure).toMatch(cure)
  })

  it('fails with the words of a provider that refuses the talk', () => {
    expectFailed(judgeTokens({ ...right, dropped: 0, refused: 'answered 400: too long' } as never), /too long/)
  })
})

describe('streaming', () => {
  const best: StreamFigures = {
    firstTextMs: 250,
    lastTextMs: 1000,
    totalMs: 1010,
    bursts: 60,
    finished: true,
    done: true,
    usage: true,
    garbled: false
  }

  it('passes for text that comes bit by bit and a stream that lets go', () => {
    expect(judgeStreaming({ best, leftMs: 4 })).toEqual({
      pass: true,
      figure: 'first text after 250 ms of 1010 ms, in 60 arrivals; a stream that was left let go within 4.0 ms'
    })
  })

  it('passes for a fast model that thinks first: ten arrivals in 60 ms after 3.5 s', () => {
    const fast = { ...best, firstTextMs: 3500, lastTextMs: 3560, totalMs: 3562, bursts: 10, garbled: undefined }
    expect(judgeStreaming({ best: fast, leftMs: 4 }).pass).toBe(true)
  })

  it('passes for a model that thinks long before it speaks', () => {
    expect(judgeStreaming({ best: { ...best, firstTextMs: 9000, lastTextMs: 10_500, totalMs: 10_510 }, leftMs: 4 }).pass).toBe(
      true
    )
  })

  it.each<[Partial<StreamFigures>, RegExp]>([
    [{ bursts: 1, firstTextMs: 1000 }, /all text came at once/],
    [{ firstTextMs: 250, lastTextMs: 260 }, /all text came at once/],
    [{ garbled: true }, /another text than the same answer/],
    [{ bursts: 0 }, /no text/],
    [{ finished: false }, /without a finish reason/],
    [{ done: false }, /without a finish reason/],
    [{ usage: false }, /no usage/]
  ])('fails for %j', (wrong, cause) => expectFailed(judgeStreaming({ best: { ...best, ...wrong }, leftMs: 4 }), cause))

  it('fails when a stream that was left goes on', () => {
    expectFailed(judgeStreaming({ best, leftMs: undefined }), /went on, and costs/)
  })

  it('counts as one arrival what comes within two milliseconds', () => {
    const answer = {
      text: '',
      cache: 'miss',
      dropped: 0,
      promptTokens: 1,
      completionTokens: 1,
      finished: true,
      done: true,
      usage: true
    }
    expect(figuresOf({ ...answer, elapsedMs: 50, arrivals: [10, 10.1, 10.2, 20, 20.1, 40] })).toMatchObject({
      bursts: 3,
      firstTextMs: 10,
      lastTextMs: 40
    })
    expect(figuresOf({ ...answer, elapsedMs: 50, arrivals: [] })).toMatchObject({ bursts: 0, firstTextMs: 50 })
  })
})

describe('memory', () => {
  const megabyte = 1024 * 1024
  const floors = (...megabytes: number[]): number[] => megabytes.map((value) => value * megabyte)

  it('passes for a heap that is up and down, and for one that settles', () => {
    const figures = { callsOfRound: 250, running: 0, moved: true }
    expect(judgeMemory({ ...figures, floors: floors(36.6, 40.9, 44.8, 37, 41.9, 32) }).pass).toBe(true)
    expect(judgeMemory({ ...figures, floors: floors(20, 35, 45, 50, 51, 51) }).pass).toBe(true)
  })

  it('fails for a heap that grows by more than the bound with each call', () => {
    const step = (boundBytes * 250 * 1.1) / megabyte
    const growing = floors(...Array.from({ length: 14 }, (_, round) => 40 + round * step))
    const verdict = judgeMemory({ floors: growing, callsOfRound: 250, running: 0, moved: true })
    expectFailed(verdict, /grew by 8\.8 KB with each call/)
    expect(verdict.figure).toMatch(/^8\.8 KB a call stayed \(bound 8\) over 3,500 calls/)
  })

  it('fails without a gauge, for one that stands still, and for calls that never end', () => {
    expectFailed(judgeMemory({ floors: undefined, callsOfRound: 0, running: 0, moved: false }), /no gauge/)
    expectFailed(judgeMemory({ floors: floors(1, 1), callsOfRound: 9, running: 0, moved: false }), /stands still/)
    expectFailed(judgeMemory({ floors: floors(1, 1), callsOfRound: 9, running: 2, moved: true }), /2 calls still under way/)
  })

  it('has a slope that one odd round does not move, and that knows no early rounds', () => {
    expect(slopeOf([0, 0, 0, 0, 10, 20, 500, 40, 50])).toBe(10)
    expect(slopeOf([1000, 500, 100, 7, 7, 7])).toBe(0)
    expect(slopeOf([])).toBe(0)
  })

  it('finds the heap by the names of OpenTelemetry, Node and prom-client, over all its spaces', () => {
    const spaces =
      'v8js_memory_heap_used{v8js_heap_space_name="new_space"} 5\nv8js_memory_heap_used{v8js_heap_space_name="old_space"} 7'
    expect(heapOf(readMetrics(spaces))).toBe(12)
    expect(heapOf(readMetrics('v8js_memory_heap_used_bytes 8'))).toBe(8)
    expect(heapOf(readMetrics('nodejs_heap_size_used_bytes 9'))).toBe(9)
    expect(heapOf(readMetrics('process_resident_memory_bytes 9'))).toBeUndefined()
  })
})

describe('metrics', () => {
  const round = (...risen: (number | undefined)[]): Tracked[] =>
    risen.map((value, at) => ({ name: `count ${at}`, expected: 2, risen: value }))

  it('passes when a round rose by exactly what was done, or by more in each round anew', () => {
    expect(judgeMetrics([round(2, 2)]).figure).toContain('exactly what was done: count 0 +2, count 1 +2')
    const busy = judgeMetrics([round(3, 2), round(2, 7), round(5, 5)])
    expect(busy.pass).toBe(true)
    expect(busy.figure).toContain('others call too')
  })

  it('fails when a count is missing, rose by less, or by the same surplus in all rounds', () => {
    expectFailed(judgeMetrics([round(2, undefined)]), /^count 1 is missing$/)
    expectFailed(judgeMetrics([round(0, 2)]), /^count 0 rose by 0 of 2$/)
    expectFailed(judgeMetrics([round(4, 2), round(4, 2), round(4, 2)]), /in each of 3 rounds count 0 rose by 4 of 2/)
  })
})

describe('the sum of durations', () => {
  const seconds = (risen: number): Tracked => ({ name: 'seconds', expected: 0, most: 3.6, risen })
  const calls: Tracked = { name: 'calls', expected: 3, risen: 3 }

  it('passes above 0 and within the time that has passed', () => {
    expect(judgeMetrics([[calls, seconds(0.8761)]]).figure).toContain('exactly what was done: calls +3, seconds +0.876')
  })

  it('fails where it stands still, and where calls cannot have taken so long', () => {
    expectFailed(judgeMetrics([[calls, seconds(0)]]), /seconds rose by 0 of more than 0 and at most 3\.60/)
    expectFailed(judgeMetrics([[calls, seconds(876)]]), /seconds rose by 876 of/)
  })

  it('may be more where others call too', () => {
    expect(judgeMetrics([[{ ...calls, risen: 5 }, seconds(9)]]).pass).toBe(true)
  })
})

describe('readings', () => {
  it('are read from Prometheus’ text, with escapes, braces in labels and odd lines', () => {
    const metrics = readMetrics('# HELP a b\na{x="1"} 2\na{x="2",y="q\\"}{\\n,x=\\"9\\""} 3 1700000000\nb +Inf\nnonsense\n# EOF')
    expect(metrics.sum('a')).toBe(5)
    expect(metrics.sum('a', { x: '2' })).toBe(3)
    expect(metrics.sum('a', { y: 'q"}{\n,x="9"' })).toBe(3)
    expect(metrics.sum('a', { x: '9' })).toBeUndefined()
    expect(metrics.sum('b')).toBe(Number.POSITIVE_INFINITY)
    expect(metrics.sum('c')).toBeUndefined()
    expect([...metrics.names]).toEqual(['a', 'b'])
  })

  it('are summed over all origins, and of no gateway are none', () => {
    const origin = { opened: 1, requests: 5, reused: 4 }
    const stats = {
      calls: 3,
      running: 1,
      aborted: 0,
      tokensFitted: 0,
      retries: 0,
      origins: { a: origin, b: origin },
      cache: { bytes: 9 }
    }
    const counts = readCounts(stats)
    expect(counts).toMatchObject({ calls: 3, opened: 2, requests: 10, reused: 8, cacheBytes: 9 })
    if (counts === undefined) return expect.unreachable()
    expect(rise(counts, { ...counts, requests: 12 })).toMatchObject({ requests: 2, opened: 0 })
    for (const other of [undefined, null, [], {}, { calls: 'many', origins: {} }]) expect(readCounts(other)).toBeUndefined()
  })
})
