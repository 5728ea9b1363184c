import { setTimeout as delay } from 'node:timers/promises'
import { type Adapter, createAdapter } from '@millrace/adapter'
import type { Chunk, Provider } from '@millrace/core'
import { abortable, coalesce, limitTokens, type Operator } from '@millrace/streaming'
import { createTransport } from '@millrace/transport'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { adapterAt, now, request, type StreamServer, startStreamServer } from './stream-server.ts'

let server: StreamServer
beforeAll(async () => {
  server = await startStreamServer()
})
afterAll(() => server[Symbol.asyncDispose]())

const settledWithinMs = 10
const closedWithinMs = 50

const characters = (): { push(text: string): number } => {
  let count = 0
  return { push: (text) => (count += text.length) }
}

/** What stands around the stream while it is aborted. */
const surroundings: Readonly<Record<string, readonly Operator<Chunk>[]>> = {
  nothing: [],
  operators: [coalesce({ minChars: 1000, maxDelayMs: 20 }), limitTokens(1e6, characters)]
}

/** Where the call is when it is aborted: the server's path, and how to get there. */
interface Phase {
  readonly path: string
  /** Resolves in the phase; `read` is the read that waits, if one does. */
  reach(iterator: AsyncIterator<Chunk>): Promise<{ readonly read?: Promise<unknown> | undefined }>
}

async function untilText(iterator: AsyncIterator<Chunk>): Promise<void> {
  for (;;) if ((await iterator.next()).value?.type === 'text') return
}

/** Reads to the end, whatever it is. */
async function drained(iterator: AsyncIterator<Chunk>): Promise<void> {
  while ((await iterator.next()).done !== true);
}

/** Long enough for all that is on its way to have come. */
const settlingMs = 60

/** Begins to read, and gives the read that waits for what does not come. */
async function waitWith(iterator: AsyncIterator<Chunk>): Promise<Promise<void>[]> {
  const read = drained(iterator)
  read.catch(() => {})
  await delay(settlingMs)
  return [read]
}

const waiting = (path: string): Phase => ({
  path,
  async reach(iterator) {
    const { connections } = await server.seen()
    const [read] = await waitWith(iterator)
    // The first call loads undici, too.
    await expect.poll(async () => (await server.seen()).connections).toBeGreaterThan(connections)
    await delay(settlingMs)
    return { read }
  }
})

const phases: Readonly<Record<string, Phase>> = {
  'while the connection is made': waiting('mute'),
  'while the head is waited for': waiting('no-head'),
  'before the first content': waiting('no-content'),
  'in the middle, during a read': waiting('no-more'),
  'in the middle, while the reader is busy': {
    path: 'no-more',
    async reach(iterator) {
      await untilText(iterator)
      return {}
    }
  },
  'in a flood, while the reader is busy': {
    path: 'flood',
    async reach(iterator) {
      await untilText(iterator)
      await delay(settlingMs)
      return {}
    }
  },
  'behind the finish': waiting('no-done')
}

/** The middle of several tries: one alone may meet a moment in which the machine does something else. */
async function median(tries: () => Promise<number>): Promise<number> {
  const all: number[] = []
  for (let index = 0; index < 5; index++) all.push(await tries())
  return all.toSorted((a, b) => a - b)[2] as number
}

/**
 * How much later than a bare timer of so many milliseconds, started at the same moment, `work` settles; 0 when it is not
 * later. In a process that does not get its turn the timer is late too.
 */
async function lateness(work: Promise<unknown>, ms: number): Promise<number> {
  let firedAt = Number.POSITIVE_INFINITY
  const timer = setTimeout(() => {
    firedAt = now()
  }, ms)
  await work.then(
    () => {},
    () => {}
  )
  clearTimeout(timer)
  return Math.max(0, now() - firedAt)
}

function originOf({ path }: Phase): string {
  return path === 'mute' ? server.muteUrl.replace('http:', 'https:') : `${server.url}/${path}`
}

describe('an abort', () => {
  test.each(Object.keys(phases).flatMap((phase) => Object.keys(surroundings).map((around) => ({ phase, around }))))(
    'is over within 10 ms, and seen by the provider within 50: $phase, $around around',
    async ({ phase: name, around }) => {
      const phase = phases[name] as Phase
      await using adapter = adapterAt(originOf(phase), { operators: surroundings[around], transport: { breaker: false } })
      const late: number[] = []
      const beyond = await median(async () => {
        const controller = new AbortController()
        const reason = new Error('enough')
        const iterator = adapter.stream(request, { signal: controller.signal })[Symbol.asyncIterator]()
        const { read } = await phase.reach(iterator)
        const before = await server.seen()
        expect(before.open).toBeGreaterThan(0)
        const at = now()
        controller.abort(reason)
        const settled = read ?? iterator.next()
        late.push(await lateness(settled, settledWithinMs))
        await expect(settled).rejects.toBe(reason)
        return (await server.untilClosed(before, at)) - (await server.bare())
      })
      expect(late.toSorted((a, b) => a - b)[2]).toBe(0)
      expect(beyond).toBeLessThan(closedWithinMs)
      expect(adapter.stats().running).toBe(0)
    }
  )

  test.each(['before the stream is read', 'in the same turn as the first read'])(
    'is over within 10 ms, and the provider sees no request: %s',
    async (when) => {
      await using adapter = adapterAt(`${server.url}/no-more`)
      const before = await server.seen()
      const late = await median(async () => {
        const controller = new AbortController()
        const stream = adapter.stream(request, { signal: controller.signal })
        if (when === 'before the stream is read') controller.abort('enough')
        const read = stream.next()
        controller.abort('enough')
        const lateMs = await lateness(read, settledWithinMs)
        await expect(read).rejects.toBe('enough')
        return lateMs
      })
      expect(late).toBe(0)
      await delay(settlingMs)
      const after = await server.seen()
      expect(after.sent).toBe(before.sent)
      expect(after.open).toBe(before.open)
      expect(adapter.stats().running).toBe(0)
    }
  )

  test('by the operator of that name ends the call too', async () => {
    await using adapter = adapterAt(`${server.url}/no-more`)
    const late: number[] = []
    const beyond = await median(async () => {
      const controller = new AbortController()
      const iterator = abortable(controller.signal)(adapter.stream(request))[Symbol.asyncIterator]()
      const { read } = await waiting('no-more').reach(iterator)
      const before = await server.seen()
      const at = now()
      controller.abort('enough')
      late.push(await lateness(read as Promise<unknown>, settledWithinMs))
      await expect(read).rejects.toBe('enough')
      return (await server.untilClosed(before, at)) - (await server.bare())
    })
    expect(late.toSorted((a, b) => a - b)[2]).toBe(0)
    expect(beyond).toBeLessThan(closedWithinMs)
    await expect.poll(() => adapter.stats().running).toBe(0)
  })

  /** A generator takes no `return()` while it waits, and this one listens to nothing. */
  const deaf: Provider = async function* () {
    yield { type: 'start', provider: 'deaf', model: 'm' }
    yield { type: 'text', text: 'Well, ' }
    await new Promise(() => {})
  }

  test.each(['nothing', 'operators', 'abortable'])('does not wait for a generator that does: %s around', async (around) => {
    await using adapter: Adapter = createAdapter({ provider: deaf, operators: surroundings[around] ?? [] })
    const late = await median(async () => {
      const controller = new AbortController()
      const stream = adapter.stream(request, around === 'abortable' ? {} : { signal: controller.signal })
      const source = around === 'abortable' ? abortable(controller.signal)(stream) : stream
      const [read] = await waitWith(source[Symbol.asyncIterator]())
      controller.abort('enough')
      const lateMs = await lateness(read as Promise<unknown>, settledWithinMs)
      await expect(read).rejects.toBe('enough')
      return lateMs
    })
    expect(late).toBe(0)
    expect(adapter.stats().running).toBe(0)
  })

  test('leaves its socket to nobody and its transport at rest', async () => {
    await using transport = createTransport({ maxConnections: 1 })
    await using adapter = adapterAt(`${server.url}/no-more`, { transport })
    for (let index = 0; index < 20; index++) {
      const controller = new AbortController()
      const iterator = adapter.stream(request, { signal: controller.signal })[Symbol.asyncIterator]()
      await untilText(iterator)
      controller.abort('enough')
      await expect(iterator.next()).rejects.toBe('enough')
    }
    expect(Object.values(transport.stats().origins)[0]).toMatchObject({ busy: 0 })
    await expect.poll(async () => (await server.seen()).open).toBe(0)
  })
})
