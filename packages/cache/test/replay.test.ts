import { getEventListeners } from 'node:events'
import { setTimeout as delay } from 'node:timers/promises'
import { type Chunk, type ChunkIterator, collect, hasEnded, nextBatch, type Usage } from '@millrace/core'
import { probeLeaks } from '@millrace/testkit'
import { describe, expect, it } from 'vitest'
import { type Answer, condense, isAnswer } from '../src/answer.ts'
import { deepFreeze } from '../src/plain.ts'
import { type ReplayOptions, replay } from '../src/replay.ts'
import { answer, finish, start, usage } from './scripted.ts'

const live: Chunk[] = [
  start,
  { type: 'note', from: 'provider', facts: { rateLimits: {} } },
  { type: 'reasoning', text: 'I think' },
  { type: 'reasoning', text: '', signature: 's1' },
  { type: 'text', text: 'Hel' },
  { type: 'text', text: 'lo' },
  { type: 'refusal', text: 'nope' },
  { type: 'tool-call', index: 0, id: 'c0', name: 'f', arguments: '{"a":' },
  { type: 'tool-call', index: 0, arguments: '1}' },
  { type: 'tool-call', index: 1, id: 'c1', name: 'g', arguments: '' },
  { type: 'extra', name: 'logprobs', value: { content: [1] } },
  { type: 'usage', usage },
  finish('tool-calls')
]
const kept: Answer = deepFreeze(condense(live))
const timed: Answer = deepFreeze(
  condense(
    live,
    live.map((_, index) => 1000 + 5 * index)
  )
)
const free = (of: Usage): Usage => ({ ...of, billed: false })

function play(of: Answer, options: Partial<ReplayOptions> = {}): ChunkIterator {
  return replay(of, { pace: 'fast', signal: undefined, note: { state: 'hit', ageMs: 7 }, usageOf: free, ...options })
}

const iterable = (iterator: ChunkIterator): AsyncIterable<Chunk> => ({ [Symbol.asyncIterator]: () => iterator })

async function gather(iterator: ChunkIterator): Promise<Chunk[]> {
  const all: Chunk[] = []
  for await (const chunk of iterable(iterator)) all.push(chunk)
  return all
}

async function* stream(chunks: readonly Chunk[]): AsyncGenerator<Chunk, void, undefined> {
  yield* chunks
}

/** Chunks that are to come `offsets` milliseconds after the first. */
function paced(offsets: readonly number[]): Answer {
  const middle = offsets.slice(1, -1).map((at): Chunk => ({ type: 'text', text: `${at} ` }))
  return deepFreeze({ chunks: [start, ...middle, finish()], atMs: offsets.map((at) => 300 + at) })
}

for (const pace of ['fast', 'recorded'] as const) {
  describe(`a ${pace} replay`, () => {
    const of = pace === 'fast' ? kept : timed

    it('is a legal stream: start, our note, every field, usage once and not billed, finish', async () => {
      const chunks = await gather(play(of, { pace }))
      expect(chunks[0]).toBe(start)
      expect(chunks[1]).toEqual({ type: 'note', from: 'cache', facts: { state: 'hit', ageMs: 7 } })
      expect(chunks.filter(({ type }) => type === 'note')).toHaveLength(1)
      expect(chunks.filter(({ type }) => type === 'usage')).toEqual([{ type: 'usage', usage: { ...usage, billed: false } }])
      expect(chunks.at(-1)).toEqual(finish('tool-calls'))
      expect(chunks.filter(({ type }) => type !== 'note')).toHaveLength(of.chunks.length)
    })

    it('collects to the completion of the live stream', async () => {
      expect(isAnswer(of)).toBe(true)
      const replayed = await collect(iterable(play(of, { pace })))
      const first = await collect(stream(live))
      expect(replayed).toEqual({ ...first, usage: { ...usage, billed: false }, notes: { cache: { state: 'hit', ageMs: 7 } } })
    })

    it('gives the same when it is read again, and hands out the kept chunks themselves', async () => {
      const [first, second] = [await gather(play(of, { pace })), await gather(play(of, { pace }))]
      expect(second).toEqual(first)
      for (const chunk of first) {
        if (chunk.type !== 'note' && chunk.type !== 'usage') expect(of.chunks).toContain(chunk)
      }
    })

    it('asks about the usage at the first read, once', async () => {
      let asked = 0
      const iterator = play(of, {
        pace,
        usageOf(given) {
          asked++
          return given
        }
      })
      expect(asked).toBe(0)
      await gather(iterator)
      expect(asked).toBe(1)
    })

    it('hands over nothing behind an abort, and rejects with its reason', async () => {
      const aborted = new Error('stopped before')
      const never = play(of, { pace, signal: AbortSignal.abort(aborted) })
      await expect(never.next()).rejects.toBe(aborted)
      await expect(never.nextBatch()).rejects.toBe(aborted)

      const controller = new AbortController()
      const reason = new Error('stopped by the test')
      const iterator = play(of, { pace, signal: controller.signal })
      expect((await iterator.next()).value).toBe(start)
      controller.abort(reason)
      await expect(iterator.next()).rejects.toBe(reason)
      await expect(iterator.nextBatch()).rejects.toBe(reason)
      expect(getEventListeners(controller.signal, 'abort')).toHaveLength(0)
    })

    it('has ended for whoever aborts after its end', async () => {
      const controller = new AbortController()
      const iterator = play(of, { pace, signal: controller.signal })
      await gather(iterator)
      controller.abort()
      expect(await iterator.next()).toEqual({ done: true, value: undefined })
    })

    it('is over once it is left', async () => {
      const iterator = play(of, { pace })
      await iterator.next()
      expect(await iterator.return?.()).toEqual({ done: true, value: undefined })
      expect(await iterator.next()).toEqual({ done: true, value: undefined })
      expect(await iterator.nextBatch()).toBeUndefined()
    })
  })
}

describe('a fast replay', () => {
  it('hands all over in one batch, and knows then that it has ended', async () => {
    const iterator = play(kept)
    expect(hasEnded(iterator)).toBe(false)
    expect(await nextBatch(iterator)).toHaveLength(kept.chunks.length + 1)
    expect(hasEnded(iterator)).toBe(true)
    expect(await nextBatch(iterator)).toBeUndefined()
  })

  it('hands over the rest in one batch after single reads', async () => {
    const iterator = play(kept)
    await iterator.next()
    expect(hasEnded(iterator)).toBe(false)
    expect(await nextBatch(iterator)).toHaveLength(kept.chunks.length)
    expect(hasEnded(iterator)).toBe(true)
  })

  it('waits for nothing though there are times', async () => {
    const iterator = play(paced([0, 60_000, 120_000]))
    expect(await nextBatch(iterator)).toHaveLength(4)
  })
})

describe('a replay at the recorded pace', () => {
  it('gives each chunk when it is due, from the first one on, within 30 ms of a bare timer', async () => {
    const offsets = [0, 40, 80, 80, 150, 300, 301, 420]
    const startedAt = performance.now()
    // The machine's own delays are the timers' as well.
    const bare = Promise.all(offsets.map((at) => delay(at).then(() => performance.now() - startedAt)))
    const seen: number[] = []
    for await (const chunk of iterable(play(paced(offsets), { pace: 'recorded' }))) {
      if (chunk.type !== 'note') seen.push(performance.now() - startedAt)
    }
    const due = await bare
    expect(seen).toHaveLength(offsets.length)
    for (const [index, at] of offsets.entries()) {
      expect(seen[index]).toBeGreaterThan(at - 3)
      expect(seen[index]).toBeLessThan(Math.max(due[index] as number, ...due.slice(0, index)) + 30)
    }
  })

  it('hands over together what a slow reader let come', async () => {
    const iterator = play(paced([0, 10, 20, 30, 40, 60_000]), { pace: 'recorded' })
    expect(await iterator.nextBatch()).toHaveLength(2)
    await delay(80)
    expect(await iterator.nextBatch()).toHaveLength(4)
    expect(iterator.ended).toBe(false)
    await iterator.return?.()
  })

  it('is fast where no times were kept', async () => {
    const iterator = play(kept, { pace: 'recorded' })
    expect(await iterator.nextBatch()).toHaveLength(kept.chunks.length + 1)
    expect(iterator.ended).toBe(true)
  })

  it('knows with its last chunk that it has ended', async () => {
    const iterator = play(paced([0, 1, 2]), { pace: 'recorded' })
    let batches = 0
    while (!hasEnded(iterator)) {
      await nextBatch(iterator)
      batches++
    }
    expect(batches).toBeLessThanOrEqual(3)
    expect(await nextBatch(iterator)).toBeUndefined()
  })

  it('ends a wait at once at an abort or a leave, and leaves neither timer nor listener', async () => {
    const probe = probeLeaks()
    const slow = paced([0, 60_000, 120_000])
    const controller = new AbortController()
    const reason = new Error('stopped by the test')
    const iterator = play(slow, { pace: 'recorded', signal: controller.signal })
    await iterator.nextBatch()
    const pending = iterator.next().catch((error: unknown) => error)
    await delay(5)
    expect(getEventListeners(controller.signal, 'abort')).toHaveLength(1)
    controller.abort(reason)
    expect(await pending).toBe(reason)
    await expect(iterator.next()).rejects.toBe(reason)
    expect(getEventListeners(controller.signal, 'abort')).toHaveLength(0)

    const quiet = new AbortController()
    const left = play(slow, { pace: 'recorded', signal: quiet.signal })
    await left.nextBatch()
    const waiting = left.next()
    await delay(5)
    await left.return?.()
    expect(await waiting).toEqual({ done: true, value: undefined })
    expect(getEventListeners(quiet.signal, 'abort')).toHaveLength(0)
    await probe.check()
  })

  it('keeps an answer of many chunks in order and whole', async () => {
    const words = answer('one two three four five six seven eight nine ten '.repeat(40))
    const of = deepFreeze(
      condense(
        words,
        words.map((_, index) => index / 10)
      )
    )
    const chunks = await gather(play(of, { pace: 'recorded' }))
    expect(chunks.filter(({ type }) => type === 'text')).toEqual(words.filter(({ type }) => type === 'text'))
  })
})
