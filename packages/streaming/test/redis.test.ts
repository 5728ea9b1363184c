import { type ChildProcess, fork } from 'node:child_process'
import { getEventListeners, once } from 'node:events'
import { setTimeout as delay } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { isMillraceError } from '@millrace/core'
import { heapAfterGc, probeLeaks, type RedisServer, requireRedis, startRedis } from '@millrace/testkit'
import fc from 'fast-check'
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'
import { createRedisLog, type RedisLog, type RedisLogOptions } from '../src/redis.ts'
import { failureOf, readAll, until } from './log-reading.ts'
import { type Connection, connect } from './redis-connection.ts'
import { digest, itemsOf, type Task } from './redis-main.ts'

const seed = 20_261_123
const { server: shared, skip } = await requireRedis()

let connection: Connection
const opened: (() => unknown)[] = []
let ids = 0

beforeAll(async () => {
  if (shared !== undefined) connection = await connect(shared.url)
})
afterEach(async () => {
  for (const close of opened.splice(0).toReversed()) await close()
})
afterAll(async () => {
  await connection?.close()
  await shared?.stop()
})

const newId = (): string => `log ${++ids}`
const keyOf = (id: string): string => `millrace:log:${id}`

function logs(options: Partial<RedisLogOptions> = {}): RedisLog {
  const log = createRedisLog({ command: connection.command, ...options })
  opened.push(() => log.close())
  return log
}

async function ownServer(port?: number): Promise<RedisServer> {
  const server = await startRedis({ port })
  if (server === undefined) throw new Error('Redis did not start a second time')
  opened.push(() => server.stop())
  return server
}

/** A log over a Redis of the test's own. */
async function apart(options: Partial<RedisLogOptions> = {}): Promise<{ server: RedisServer; log: RedisLog; own: Connection }> {
  const server = await ownServer()
  const own = await connect(server.url, 250)
  opened.push(() => own.close())
  return { server, own, log: logs({ command: own.command, ...options }) }
}

function start(task: Task): { child: ChildProcess; message: () => Promise<Record<string, unknown>> } {
  const child = fork(fileURLToPath(new URL('./redis-main.ts', import.meta.url)), [JSON.stringify(task)], {
    execArgv: ['--conditions=@millrace/source'],
    stdio: 'inherit'
  })
  opened.push(() => child.kill('SIGKILL'))
  const ended = once(child, 'exit')
  const message = async (): Promise<Record<string, unknown>> => {
    const [told] = await Promise.race([once(child, 'message'), ended.then(() => ['it ended'])])
    return told as Record<string, unknown>
  }
  return { child, message }
}

async function commandCalls(name: string): Promise<number> {
  const info = String(await connection.command(['INFO', 'commandstats']))
  return Number(new RegExp(`cmdstat_${name}:calls=(\\d+)`).exec(info)?.[1] ?? 0)
}

describe('createRedisLog', () => {
  it('refuses wrong options with the cure', () => {
    const command = async (): Promise<unknown> => null
    const wrong: [unknown, RegExp][] = [
      [undefined, /takes an object of options/],
      [{}, /command must be a function.*createRedis/],
      [{ url: 'redis://127.0.0.1' }, /takes no url: write createRedisLog\(\{ command: createRedis\(\{ url \}\)\.command \}\)/],
      [{ command: 'PING' }, /command must be a function/],
      [{ command, namespace: '' }, /namespace must be a non-empty string/],
      [{ command, ttlMs: 0 }, /ttlMs must be a whole number from 1 to 2147483647, not 0/],
      [{ command, ttlMs: Number.POSITIVE_INFINITY }, /ttlMs/],
      [{ command, keepMs: 1.5 }, /keepMs/],
      [{ command, maxBytes: -1 }, /maxBytes/],
      [{ command, patienceMs: Number.NaN }, /patienceMs/],
      [{ command, maxByte: 1 }, /no option "maxByte"; it has command/]
    ]
    for (const [options, message] of wrong) {
      expect(() => createRedisLog(options as RedisLogOptions)).toThrow(TypeError)
      expect(() => createRedisLog(options as RedisLogOptions)).toThrow(message)
    }
    const log = createRedisLog({ command })
    for (const offset of [-1, 0.5, Number.NaN, '1' as never]) expect(() => log.follow('id', { offset })).toThrow(/offset/)
    for (const id of ['', undefined as never]) {
      expect(() => log.follow(id)).toThrow(/id of a log/)
      expect(() => log.write(id)).toThrow(/id of a log/)
    }
  })
})

describe.skipIf(skip !== undefined)('a log on Redis Streams', () => {
  it(`gives any items in order, from every position, however they were appended (seed ${seed})`, async () => {
    const log = logs()
    const item = fc.oneof(fc.string({ unit: 'binary' }), fc.constantFrom('\ud83d', '\ude00', '\u0000', '"', '', '[]', 'end 3'))
    await fc.assert(
      fc.asyncProperty(fc.array(fc.array(item, { maxLength: 5 }), { maxLength: 8 }), fc.boolean(), async (batches, wait) => {
        const id = newId()
        const items = batches.flat()
        const live = readAll(log, id)
        const writer = log.write(id)
        for (const batch of batches) {
          writer.append(batch)
          if (wait) await delay(0)
        }
        await writer.end()
        expect(await live).toEqual(items)
        for (let offset = 0; offset <= items.length + 1; offset++) {
          expect(await readAll(log, id, { offset })).toEqual(items.slice(offset))
        }
      }),
      { seed, numRuns: 40 }
    )
  })

  it('carries 10,000 items from one process to early, middle and late readers in another', async () => {
    const id = newId()
    const items = itemsOf(seed, 10_000)
    const readers = start({ url: (shared as RedisServer).url, id, does: 'follow', delaysMs: [0, 0, 150, 300, 600, 5000] })
    expect(await readers.message()).toBe('reading')
    const writer = start({ url: (shared as RedisServer).url, id, does: 'write', items: items.length, seed })
    expect(await writer.message()).toEqual({ appended: 10_000, writeFailures: 0 })
    const { results } = await readers.message()
    expect(results).toEqual(Array.from({ length: 6 }, () => ({ count: 10_000, digest: digest(items) })))
  })

  it('waits for a log that is not there, and for an offset ahead of it', async () => {
    const log = logs()
    const id = newId()
    const reader = log.follow(id, { offset: 3 })[Symbol.asyncIterator]()
    const first = reader.next()
    await delay(120)
    const writer = log.write(id)
    writer.append(['0', '1'])
    await delay(120)
    writer.append(['2', '3', '4'])
    expect((await first).value).toEqual(['3', '4'])
    void writer.end()
    expect(await reader.next()).toEqual({ done: true, value: undefined })
    expect(await reader.next()).toEqual({ done: true, value: undefined })
  })

  it('sends the first append at once and gathers what comes while it is under way', async () => {
    const sent: (readonly string[])[] = []
    const command = (args: readonly string[]): Promise<unknown> => {
      sent.push(args)
      return connection.command(args)
    }
    const id = newId()
    const log = logs({ command })
    const writer = log.write(id)
    writer.append(['0'])
    expect(sent).toHaveLength(1)
    for (let number = 1; number < 1000; number++) writer.append([`${number}`])
    expect(sent).toHaveLength(1)
    await writer.end()
    expect(sent).toHaveLength(3) // the first, the rest, the end
    expect(await readAll(log, id)).toHaveLength(1000)
  })

  it('gives a late reader the whole prefix in few reads, and a large one in bounded entries', async () => {
    const log = logs()
    const small = newId()
    const writer = log.write(small)
    for (let number = 0; number < 600; number++) {
      writer.append([`${number}`])
      if (number % 3 === 0) await until(() => log.stats().appended > number) // an entry each
    }
    await writer.end()
    expect(Number(await connection.command(['XLEN', keyOf(small)]))).toBeGreaterThan(200)
    const { reads } = log.stats()
    expect(await readAll(log, small)).toHaveLength(600)
    expect(log.stats().reads - reads).toBeLessThanOrEqual(6)

    const large = newId()
    const big = log.write(large)
    const items = Array.from({ length: 150 }, (_, number) => `${number}`.padEnd(20_000, 'ü'))
    items.push('x'.repeat(200_000))
    big.append(items.slice(0, 50))
    big.append(items.slice(50))
    await big.end()
    expect(await readAll(log, large)).toEqual(items)
    const entries = (await connection.command(['XRANGE', keyOf(large), '-', '+'])) as [string, string[]][]
    const sizes = entries.map(([, fields]) => (fields[1] as string).length)
    expect(sizes.filter((size) => size > 70_000)).toHaveLength(1)
  })

  it('expires: soon after its end, later when its writer says no more, not while the writer is only silent', async () => {
    const log = logs({ ttlMs: 1500, keepMs: 400 })
    const [silent, ended] = [newId(), newId()]
    const writer = log.write(silent)
    const other = log.write(ended)
    other.append(['x'])
    await other.end()
    expect(Number(await connection.command(['PTTL', keyOf(ended)]))).toSatisfy((ms: number) => ms > 0 && ms <= 400)
    const reading = readAll(log, silent) // from before there is anything to read
    await delay(2500)
    expect(await connection.command(['EXISTS', keyOf(ended)])).toBe(0)
    expect(Number(await connection.command(['PTTL', keyOf(silent)]))).toSatisfy((ms: number) => ms > 0 && ms <= 1500)
    writer.append(['late'])
    await delay(2500)
    expect(Number(await connection.command(['PTTL', keyOf(silent)]))).toSatisfy((ms: number) => ms > 0 && ms <= 1500)
    await writer.end()
    expect(await reading).toEqual(['late'])
    expect(log.stats()).toMatchObject({ writers: 0, followers: 0, broken: 0, dropped: 0 })
  })

  it('is read ahead for a slow reader, who still gets all of it when it has long expired', async () => {
    const log = logs({ keepMs: 100 })
    const id = newId()
    const writer = log.write(id)
    writer.append(['0'])
    const reader = log.follow(id)[Symbol.asyncIterator]()
    expect((await reader.next()).value).toEqual(['0'])
    for (let number = 1; number < 50; number++) writer.append([`${number}`])
    await writer.end()
    await until(async () => (await connection.command(['EXISTS', keyOf(id)])) === 0)
    expect((await reader.next()).value).toHaveLength(49)
    expect((await reader.next()).done).toBe(true)
  })

  it('gives many new readers of large logs their replies within the time limit of a command', async () => {
    let largest = 0
    const { own } = await apart()
    const log = logs({
      async command(args) {
        const reply = await own.command(args)
        largest = Math.max(largest, JSON.stringify(reply).length)
        return reply
      }
    })
    const items = Array.from({ length: 8 }, () => 'x'.repeat(65_536))
    const large = Array.from({ length: 100 }, newId)
    for (const id of large) {
      const writer = log.write(id, { keepMs: 60_000 })
      writer.append(items)
      await writer.end()
    }
    const all = await Promise.all(large.map((id) => readAll(log, id)))
    expect(all.every((read) => read.length === 8)).toBe(true)
    expect(largest).toBeLessThan(5_000_000) // it was 53 million
    expect(log.stats().readFailures).toBe(0)
  })

  it('lets a reader that keeps up wait for no crowd of readers that catch up', async () => {
    const { log } = await apart()
    const large = newId()
    const writer = log.write(large, { keepMs: 60_000 })
    for (let number = 0; number < 2000; number++) {
      writer.append(['x'.repeat(2000)])
      if (number % 4 === 0) await until(() => log.stats().appended > number) // small entries
    }
    await writer.end()
    const live = newId()
    const teller = log.write(live)
    let longestMs = 0
    const following = (async () => {
      for await (const batch of log.follow(live)) {
        for (const item of batch) longestMs = Math.max(longestMs, performance.now() - Number(item))
      }
    })()
    const crowded = { over: false }
    const telling = (async () => {
      for (; !crowded.over; await delay(10)) teller.append([`${performance.now()}`])
      await teller.end()
    })()
    await delay(100)
    const startedAt = performance.now()
    // Each stands elsewhere in the log: none of their reads can be shared.
    const crowd = Array.from({ length: 100 }, (_, offset) => readAll(log, large, { offset }))
    for (const [offset, read] of (await Promise.all(crowd)).entries()) expect(read).toHaveLength(2000 - offset)
    const tookMs = performance.now() - startedAt
    crowded.over = true
    await Promise.all([telling, following])
    expect(longestMs).toBeLessThan(Math.max(400, tookMs / 3))
  })

  it('leaves a key alone that is none of its logs, or the log of another writer', async () => {
    const log = logs({ ttlMs: 300 })
    const [foreign, used] = [newId(), newId()]
    await connection.command(['SET', keyOf(foreign), 'precious'])
    const first = log.write(used, { keepMs: 60_000 })
    first.append(['a'])
    await first.end()
    const writers = [foreign, used].map((id) => log.write(id, { onWord() {} }))
    await until(() => log.stats().writeFailures >= 2)
    await Promise.all(writers.map((writer) => writer.end()))
    expect(await connection.command(['PTTL', keyOf(foreign)])).toBe(-1)
    expect(Number(await connection.command(['PTTL', keyOf(used)]))).toBeGreaterThan(30_000)
    await connection.command(['DEL', keyOf(foreign)])
  })

  it('says what is wrong with a command that has lost its client', async () => {
    const client = {
      socket: {},
      async sendCommand(): Promise<unknown> {
        return this.socket
      }
    }
    const log = logs({ command: client.sendCommand.bind(undefined as never), patienceMs: 10 })
    const cure = /Cannot read properties of undefined.*\(args\) => client\.sendCommand\(args\)/
    await expect(log.tell('id', '')).rejects.toThrow(cure)
    await expect(readAll(log, 'id')).rejects.toThrow(cure)
  })

  it('reads no further ahead than a bound', async () => {
    const log = logs()
    const id = newId()
    const writer = log.write(id)
    const reader = log.follow(id)[Symbol.asyncIterator]()
    const item = 'x'.repeat(60_000)
    for (let number = 0; number < 100; number++) writer.append([item])
    await until(() => log.stats().appended === 100)
    let count = (await reader.next()).value?.length ?? 0
    expect(count).toBeLessThanOrEqual(16)
    await until(() => log.stats().followers === 0) // although the log goes on
    await writer.end()
    // A mebibyte and one read: of 16 entries of 64 Ki characters.
    for (let batch = await reader.next(); batch.done !== true; batch = await reader.next()) {
      expect(batch.value.length).toBeLessThanOrEqual(34)
      count += batch.value.length
    }
    expect(count).toBe(100)
  })
})

describe.skipIf(skip !== undefined)('a log that cannot be read to its end', () => {
  it('fails with too-large for each reader when its writer goes over the bound, and takes no space', async () => {
    const log = logs({ maxBytes: 100_000 })
    const id = newId()
    const writer = log.write(id)
    writer.append(['x'.repeat(50_000)])
    const reader = log.follow(id)[Symbol.asyncIterator]()
    expect((await reader.next()).value).toHaveLength(1)
    writer.append(['x'.repeat(50_001)])
    writer.append(['more'])
    await expect(reader.next()).rejects.toMatchObject({ code: 'protocol', details: { reason: 'too-large' } })
    expect(await reader.next()).toEqual({ done: true, value: undefined })
    await writer.end()
    await expect(readAll(log, id, { offset: 1 })).rejects.toMatchObject({ details: { reason: 'too-large' } })
    expect(await connection.command(['XLEN', keyOf(id)])).toBe(1)
    expect(Number(await connection.command(['PTTL', keyOf(id)]))).toBeGreaterThan(0)
    expect(log.stats()).toMatchObject({ broken: 1, dropped: 1, writers: 0 })
  })

  it('keeps the word of a failure for as long as its writer is open', async () => {
    const log = logs({ maxBytes: 1, ttlMs: 600 })
    const id = newId()
    log.write(id).append(['too long'])
    await delay(1500)
    await expect(readAll(log, id)).rejects.toMatchObject({ details: { reason: 'too-large' } })
  })

  it('is incomplete when entries are missing, at the beginning, in the middle or before the end', async () => {
    const log = logs()
    for (const missing of [0, 1, 2]) {
      const id = newId()
      const writer = log.write(id)
      for (const item of ['0', '1', '2']) {
        writer.append([item])
        await until(async () => Number(await connection.command(['XLEN', keyOf(id)])) > Number(item))
      }
      await writer.end()
      expect(await connection.command(['XDEL', keyOf(id), `${missing + 1}-0`])).toBe(1)
      const items: string[] = []
      const reading = (async () => {
        for await (const batch of log.follow(id)) items.push(...batch)
      })()
      expect(await failureOf(reading)).toMatchObject({ code: 'protocol', details: { reason: 'incomplete' }, retryable: true })
      expect(items).toEqual(['0', '1', '2'].slice(0, missing))
      expect(await readAll(log, id, { offset: missing + 1 })).toEqual(['0', '1', '2'].slice(missing + 1))
    }
  })

  it('is refused to its reader alone when somebody else has written to the key', async () => {
    const log = logs()
    const add = (id: string, ...fields: string[]): Promise<unknown> => connection.command(['XADD', keyOf(id), ...fields])
    const poisons: ((id: string) => Promise<unknown>)[] = [
      (id) => add(id, '1-0', 'writer', '{"a":1}'),
      (id) => add(id, '1-0', 'writer', '["cut'),
      (id) => add(id, '1-0', 'writer', '[1]'),
      (id) => add(id, '1-0', 'writer', '[null]'),
      (id) => add(id, '1-0', 'writer', '[["nested"]]'),
      (id) => add(id, '1-0', 'writer', '['.repeat(200_000)),
      (id) => add(id, '1-0', 'writer', '["a","b"]'), // more items than there can be
      (id) => add(id, '1-0', 'writer', '["a"]', 'second', 'field'),
      (id) => add(id, '1-5', 'writer', '["a"]'),
      (id) => add(id, '18446744073709551615-0', 'writer', '["a"]'),
      (id) => add(id, '7-0', 'writer', 'end 0'), // not where the end stands
      (id) => add(id, `${Number.MAX_SAFE_INTEGER}-0`, 'writer', 'end'),
      (id) => add(id, `${Number.MAX_SAFE_INTEGER}-0`, 'writer', 'end -1'),
      (id) => connection.command(['SET', keyOf(id), '["a"]']),
      (id) => connection.command(['RPUSH', keyOf(id), '["a"]'])
    ]
    const healthy = newId()
    const other = readAll(log, healthy)
    const readings = poisons.map(async (poison) => {
      const id = newId()
      await poison(id)
      return failureOf(readAll(log, id))
    })
    for (const [number, error] of (await Promise.all(readings)).entries()) {
      expect(error, `poison ${number}`).toMatchObject({ code: 'protocol', details: { reason: 'unexpected' } })
      expect((error as Error).message).not.toMatch(/cut|nested/)
    }
    const writer = log.write(healthy)
    writer.append(['fine'])
    await writer.end()
    expect(await other).toEqual(['fine'])
  })

  it('that Redis keeps to itself costs its own reader the patience, and the others nothing', async () => {
    const { server, own } = await apart()
    await own.command(['ACL', 'SETUSER', 'limited', 'on', '>word', '+@all', '~millrace:log:open*'])
    const limited = await connect(server.url.replace('//', '//limited:word@'))
    opened.push(() => limited.close())
    const log = logs({ command: limited.command, patienceMs: 300 })
    const writer = log.write('open')
    const refused = failureOf(readAll(log, 'shut'))
    const others = [readAll(log, 'open'), readAll(log, 'open')]
    const error = await refused
    expect(isMillraceError(error, 'network')).toBe(true)
    writer.append(['a'])
    await writer.end()
    expect(await Promise.all(others)).toEqual([['a'], ['a']])
  })

  it('is refused when command answers in another shape', async () => {
    for (const reply of ['OK', 1, {}, [1], [['key']], [[1, []]], [['key', {}]]]) {
      const log = createRedisLog({ command: async () => reply })
      expect(await failureOf(readAll(log, 'id'))).toMatchObject({ code: 'protocol', details: { reason: 'unexpected' } })
    }
  })

  it('never mixes two writers of one id, and leaves the first one alone', async () => {
    const log = logs({ patienceMs: 200 })
    const id = newId()
    const first = log.write(id)
    first.append(['a', 'b'])
    await until(() => log.stats().appended === 2)
    const second = log.write(id)
    second.append(['x'])
    await second.end()
    first.append(['c'])
    await first.end()
    expect(await readAll(log, id)).toEqual(['a', 'b', 'c'])
    expect(log.stats()).toMatchObject({ broken: 1, appended: 3 })

    const mixed = newId()
    const one = log.write(mixed)
    one.append(['a'])
    await until(() => log.stats().appended === 4)
    const two = log.write(mixed)
    two.append(['x', 'y'])
    await two.end()
    await expect(readAll(log, mixed)).rejects.toMatchObject({ details: { reason: 'unexpected' } })
  })

  it('costs a writer nothing when its key holds another type', async () => {
    const log = logs({ patienceMs: 100 })
    const id = newId()
    await connection.command(['SET', keyOf(id), 'precious'])
    const writer = log.write(id)
    writer.append(['a'])
    await writer.end()
    expect(await connection.command(['GET', keyOf(id)])).toBe('precious')
    expect(log.stats()).toMatchObject({ appended: 0, broken: 1, writers: 0 })
    expect(log.stats().writeFailures).toBeGreaterThan(0)
  })

  it('ends with network soon after its writer was killed, when asked whether it lives', async () => {
    const id = newId()
    const log = logs({ ttlMs: 5000 })
    const { child, message } = start({ url: (shared as RedisServer).url, id, does: 'write', items: 2000, seed, stopAt: 1000 })
    const items: string[] = []
    let asked = 0
    const isAlive = async (): Promise<boolean> => {
      asked++
      if (asked === 1) throw new Error('it did not say')
      return child.exitCode === null && child.signalCode === null
    }
    const reading = failureOf(
      (async () => {
        for await (const batch of log.follow(id, { isAlive })) items.push(...batch)
      })()
    )
    const { appended } = await message()
    await until(() => asked > 2)
    child.kill('SIGKILL')
    await once(child, 'exit')
    const killedAt = performance.now()
    const error = await reading
    expect(performance.now() - killedAt).toBeLessThan(3000)
    expect(isMillraceError(error, 'network')).toBe(true)
    expect((error as Error).message).toMatch(/writer of the log is gone/)
    expect(items).toEqual(itemsOf(seed, 2000).slice(0, appended as number))
    expect(Number(await connection.command(['PTTL', keyOf(id)]))).toSatisfy((ms: number) => ms > 0 && ms <= 60_000)
    expect(log.stats().readFailures).toBe(1)
  })

  it('ends with network once it has been gone for ttlMs, when nobody can be asked', async () => {
    const log = logs({ ttlMs: 700 })
    const id = newId()
    await connection.command(['XADD', keyOf(id), '1-0', 'writer', '["a"]'])
    await connection.command(['PEXPIRE', keyOf(id), '700'])
    const startedAt = performance.now()
    const errors = await Promise.all([failureOf(readAll(log, id)), failureOf(readAll(log, newId()))])
    expect(performance.now() - startedAt).toBeGreaterThan(690)
    for (const error of errors) {
      expect(isMillraceError(error, 'network')).toBe(true)
      expect((error as Error).message).toMatch(/no such log/)
    }
  })

  it('gives what was written last before the writer went, although it was gone when asked', async () => {
    let gate: Promise<void> | undefined
    let holding = false
    const log = logs({
      async command(args) {
        const reply = await connection.command(args)
        if (gate !== undefined && args[0] === 'XREAD') {
          holding = true
          await gate
        }
        return reply
      }
    })
    const id = newId()
    const isAlive = async (): Promise<boolean> => {
      // Written behind a read that found nothing, and whose reply comes when the writer is known to be gone.
      let open = (): void => {}
      gate = new Promise<void>((resolve) => {
        open = resolve
      })
      await until(() => holding)
      await connection.command(['XADD', keyOf(id), '1-0', 'writer', '["last"]'])
      await connection.command(['XADD', keyOf(id), `${Number.MAX_SAFE_INTEGER}-0`, 'writer', 'end 1'])
      setTimeout(open, 20)
      return false
    }
    expect(await readAll(log, id, { isAlive })).toEqual(['last'])
  })
})

describe.skipIf(skip !== undefined)('a log whose Redis fails', () => {
  it('only pauses while Redis is frozen for less than the patience', async () => {
    const { server, log } = await apart({ patienceMs: 8000 })
    const id = newId()
    const items = itemsOf(seed, 300)
    const reading = readAll(log, id)
    const writer = log.write(id)
    for (let at = 0; at < items.length; at += 3) {
      writer.append(items.slice(at, at + 3))
      if (at === 99) server.pause()
      if (at === 210) server.resume()
      await delay(20)
    }
    await writer.end()
    expect(await reading).toEqual(items)
    expect(await readAll(log, id)).toEqual(items)
    expect(log.stats()).toMatchObject({ broken: 0, appended: 300 })
    expect(log.stats().writeFailures).toBeGreaterThan(0)
    expect(log.stats().readFailures).toBeGreaterThan(0)
  })

  it('counts the patience anew each time', async () => {
    let away = false
    const command = (args: readonly string[]): Promise<unknown> =>
      away ? Promise.reject(new Error('away')) : connection.command(args)
    const log = logs({ command, patienceMs: 1000 })
    const id = newId()
    const reading = readAll(log, id)
    for (const _ of [1, 2, 3]) {
      away = true
      await delay(300)
      away = false
      await delay(700)
    }
    const writer = log.write(id)
    writer.append(['0'])
    await writer.end()
    expect(await reading).toEqual(['0'])
  })

  it('is told to be incomplete by a Redis that comes back empty and late, while its writer goes on', async () => {
    const { server, log } = await apart({ patienceMs: 200 })
    const id = newId()
    const writer = log.write(id)
    await server.kill()
    writer.append(['0'])
    await until(() => log.stats().broken === 1)
    await ownServer(server.port)
    await until(
      async () =>
        (await failureOf(readAll(log, id)).then((error) => isMillraceError(error, 'protocol') && error.details.reason)) ===
        'incomplete'
    )
    await writer.end()
  })

  it('goes on after a restart that lost it for those who had read it, and is incomplete for the others', async () => {
    const { server, log, own } = await apart({ patienceMs: 10_000 })
    const id = newId()
    const writer = log.write(id)
    writer.append(['0', '1'])
    const reader = log.follow(id)[Symbol.asyncIterator]()
    expect((await reader.next()).value).toEqual(['0', '1'])
    const next = reader.next()
    await server.kill()
    writer.append(['2'])
    await delay(300)
    await ownServer(server.port)
    expect((await next).value).toEqual(['2'])
    await until(async () => (await own.command(['XLEN', keyOf(id)])) === 1)
    const late = failureOf(readAll(log, id))
    await writer.end()
    expect((await reader.next()).done).toBe(true)
    expect(await late).toMatchObject({ code: 'protocol', details: { reason: 'incomplete' } })
  })

  it('fails for readers after their patience, never for the writer, and says so when Redis is back', async () => {
    const { server, log } = await apart({ patienceMs: 600 })
    const id = newId()
    const writer = log.write(id)
    writer.append(['0'])
    const reader = log.follow(id)[Symbol.asyncIterator]()
    expect((await reader.next()).value).toEqual(['0'])
    server.pause()
    const startedAt = performance.now()
    for (let number = 1; number < 100; number++) writer.append([`${number}`])
    const error = await failureOf(reader.next())
    const tookMs = performance.now() - startedAt
    expect(isMillraceError(error, 'network')).toBe(true)
    expect((error as Error).message).toMatch(/600 ms \(patienceMs\)/)
    expect(tookMs).toBeGreaterThan(590)
    expect(tookMs).toBeLessThan(3000)
    await until(() => log.stats().broken === 1)
    writer.append(['dropped'])
    expect(log.stats().dropped).toBe(1)
    server.resume()
    expect(await failureOf(readAll(log, id))).toMatchObject({ code: 'protocol', details: { reason: 'incomplete' } })
    await writer.end()
  })

  it('lets end and close return when Redis is gone for good, with no timer or socket left', async () => {
    const probe = probeLeaks()
    const server = await ownServer()
    const own = await connect(server.url, 250)
    const log = createRedisLog({ command: own.command, patienceMs: 300 })
    const [ending, open] = [log.write(newId()), log.write(newId())]
    const reading = failureOf(readAll(log, newId()))
    ending.append(['a'])
    await until(() => log.stats().appended === 1)
    await server.kill()
    ending.append(['b'])
    open.append(['c'])
    const startedAt = performance.now()
    await Promise.all([ending.end(), ending.end()])
    await Promise.all([log.close(), log.close(), open.end()])
    expect(performance.now() - startedAt).toBeLessThan(5000)
    expect(isMillraceError(await reading)).toBe(true)
    expect(log.stats()).toMatchObject({ writers: 0, followers: 0 })
    await own.close()
    await probe.check()
  })

  it('holds no more than maxBytes for a Redis that does not answer', async () => {
    const before = await heapAfterGc()
    const stuck: (() => void)[] = []
    const log = createRedisLog({
      command: () => new Promise((_, reject) => stuck.push(() => reject(new Error('late')))),
      maxBytes: 1_000_000,
      patienceMs: 0
    })
    const writer = log.write('id')
    for (let number = 0; number < 200_000; number++) writer.append([`${number}`.padEnd(1000, 'x')])
    expect((await heapAfterGc()) - before).toBeLessThan(4_000_000)
    expect(log.stats()).toMatchObject({ broken: 1, writers: 1 })
    expect(log.stats().dropped).toBeGreaterThan(190_000)
    const ended = writer.end()
    await until(() => {
      for (const fail of stuck.splice(0)) fail()
      return log.stats().writers === 0
    })
    await ended
    await log.close()
  })
})

describe.skipIf(skip !== undefined)('what is said to a log', () => {
  it('is read by one command in 200 ms for all writers of a process, and by none when nobody listens', async () => {
    const log = logs()
    const before = await commandCalls('xread')
    const writers = Array.from({ length: 500 }, () => log.write(newId(), { onWord: () => {} }))
    const startedAt = performance.now()
    await delay(1500)
    const calls = (await commandCalls('xread')) - before
    expect(calls).toBeLessThanOrEqual((performance.now() - startedAt) / 200 + 1)
    expect(calls).toBeGreaterThan(2)
    await Promise.all(writers.map((writer) => writer.end()))
    await delay(250)
    const after = await commandCalls('xread')
    await delay(500)
    expect(await commandCalls('xread')).toBe(after)
  })

  it('rejects in time while Redis is away, and is heard when it is back, restarted and empty', async () => {
    const { server, log } = await apart({ ttlMs: 900, patienceMs: 300 })
    const id = newId()
    const heard: string[] = []
    const writer = log.write(id, { onWord: (word) => heard.push(word) })
    await until(async () => (await log.tell(id, 'before'))?.open === true)
    await until(() => heard.length === 1)
    for (const fail of ['pause', 'kill'] as const) {
      void server[fail]()
      const startedAt = performance.now()
      const error = await failureOf(log.tell(id, 'lost'))
      expect(performance.now() - startedAt).toBeLessThan(1500)
      expect(isMillraceError(error, 'network')).toBe(true)
      expect((error as { cause?: unknown }).cause).toBeDefined()
    }
    await server.kill()
    await ownServer(server.port)
    await until(async () => (await log.tell(id, 'after').catch(() => undefined))?.open === true)
    await until(() => heard.includes('after'))
    expect(log.stats()).toMatchObject({ broken: 0, writers: 1 })
    await writer.end()
  })

  it('to a key that holds something else is refused, and nobody hears it', async () => {
    const log = logs()
    const [text, foreign, evil] = [newId(), newId(), newId()]
    await connection.command(['SET', keyOf(text), 'x'])
    await connection.command(['XADD', keyOf(foreign), '7-7', 'a', 'b'])
    await connection.command(['XADD', keyOf(evil), '1-0', '../../words:x.y', '["a"]'])
    expect(await failureOf(log.tell(text, 'x'))).toMatchObject({ code: 'network' })
    expect(await failureOf(log.tell(foreign, 'x'))).toMatchObject({ code: 'protocol', details: { reason: 'unexpected' } })
    expect(await log.tell(evil, 'x')).toEqual({ open: true, broken: false, length: 1 })
    expect(await connection.command(['KEYS', '*words:x*'])).toEqual([])
    for (const reply of ['OK', 1, {}, [1], ['1-0', 1, 2]]) {
      const odd = createRedisLog({ command: async () => reply })
      expect(await failureOf(odd.tell('id', ''))).toMatchObject({ code: 'protocol' })
    }
  })

  it('is dropped from an inbox whose process is gone', async () => {
    const log = logs()
    const id = newId()
    const dead = createRedisLog({ command: connection.command })
    const writer = dead.write(id, { onWord: () => {} })
    await until(async () => (await log.tell(id, '')) !== undefined)
    await log.tell(id, 'cancel')
    const [inbox] = (await connection.command(['KEYS', 'millrace:log:words:*'])) as string[]
    expect(Number(await connection.command(['PTTL', inbox ?? '']))).toSatisfy((ms: number) => ms > 0 && ms <= 60_000)
    await writer.end()
    await dead.close()
  })
})

describe.skipIf(skip !== undefined)('the readers of a log', () => {
  it('share one loop of reads: 200 on 200 logs, and 200 on one', async () => {
    const log = logs()
    const own = Array.from({ length: 200 }, newId)
    const one = newId()
    const writer = log.write(one)
    writer.append(['0'])
    const stop = new AbortController()
    const firsts: Promise<unknown>[] = []
    const readings = [...own, ...Array.from({ length: 200 }, () => one)].map((id) => {
      const reader = log.follow(id, { signal: stop.signal })[Symbol.asyncIterator]()
      if (id === one) firsts.push(reader.next().then(() => reader.next()))
      else firsts.push(reader.next())
      return reader
    })
    await delay(500) // all are silent now
    expect(log.stats().followers).toBe(400)
    const [before, startedAt] = [await commandCalls('xread'), performance.now()]
    await delay(1000)
    const calls = (await commandCalls('xread')) - before
    // 201 keys in two commands, every 50 ms; 400 loops would make 8000.
    expect(calls).toBeLessThanOrEqual(2 * ((performance.now() - startedAt) / 45 + 2))
    expect(calls).toBeGreaterThan(2)
    writer.append(['1'])
    for (const result of await Promise.all(firsts.slice(200))) expect(result).toEqual({ done: false, value: ['1'] })
    stop.abort()
    await Promise.allSettled(firsts)
    for (const reader of readings) await reader.return?.()
    expect(getEventListeners(stop.signal, 'abort')).toHaveLength(0)
    await delay(60)
    const { reads } = log.stats()
    await delay(200)
    expect(log.stats().reads).toBe(reads)
    await writer.end()
  })

  it('end at once with the reason of their signal, waiting or not, and leave no listener', async () => {
    const log = logs()
    const id = newId()
    const writer = log.write(id)
    writer.append(['0'])
    const reason = new Error('enough')
    const [waiting, resting, early] = [new AbortController(), new AbortController(), AbortSignal.abort(reason)]
    const one = log.follow(id, { signal: waiting.signal })[Symbol.asyncIterator]()
    const two = log.follow(id, { signal: resting.signal })[Symbol.asyncIterator]()
    await one.next()
    await two.next()
    writer.append(['1', '2'])
    await delay(100) // read ahead for both
    resting.abort(reason)
    expect(await failureOf(two.next())).toBe(reason)
    expect((await one.next()).value).toEqual(['1', '2'])
    const pending = failureOf(one.next())
    await delay(20)
    const abortedAt = performance.now()
    waiting.abort(reason)
    expect(await pending).toBe(reason)
    expect(performance.now() - abortedAt).toBeLessThan(10)
    expect(await failureOf(readAll(log, id, { signal: early }))).toBe(reason)
    for (const { signal } of [waiting, resting]) expect(getEventListeners(signal, 'abort')).toHaveLength(0)
    expect(log.stats().followers).toBe(0)
    await writer.end()
  })

  it('can leave while they wait, and read twice at a time in order', async () => {
    const log = logs()
    const id = newId()
    const writer = log.write(id)
    const { signal } = new AbortController()
    const reader = log.follow(id, { signal })[Symbol.asyncIterator]()
    const [first, second] = [reader.next(), reader.next()]
    writer.append(['0'])
    expect((await first).value).toEqual(['0'])
    expect(getEventListeners(signal, 'abort')).toHaveLength(1)
    await reader.return?.()
    expect(getEventListeners(signal, 'abort')).toHaveLength(0)
    expect(await second).toEqual({ done: true, value: undefined })
    expect(await reader.next()).toEqual({ done: true, value: undefined })
    const unread = log.follow(id)[Symbol.asyncIterator]()
    await unread.return?.()
    expect(await unread.next()).toEqual({ done: true, value: undefined })
    await writer.end()
    expect(await readAll(log, id, { signal })).toEqual(['0'])
    expect(getEventListeners(signal, 'abort')).toHaveLength(0)
  })

  it('end with closed, here; elsewhere an open log is incomplete; and what is begun later is refused', async () => {
    const log = createRedisLog({ command: connection.command })
    const elsewhere = logs()
    const id = newId()
    const writer = log.write(id)
    writer.append(['0'])
    const [here, there] = [log, elsewhere].map((each) => each.follow(id)[Symbol.asyncIterator]())
    await here?.next()
    await there?.next()
    const waiting = failureOf(here?.next() ?? Promise.resolve())
    await log.close()
    expect(await waiting).toMatchObject({ code: 'closed' })
    await expect(there?.next()).rejects.toMatchObject({ code: 'protocol', details: { reason: 'incomplete' } })
    await expect(readAll(log, id)).rejects.toMatchObject({ code: 'closed' })
    const after = log.write(newId())
    after.append(['1'])
    await after.end()
    await writer.end()
    expect(log.stats()).toMatchObject({ dropped: 1, broken: 2, writers: 0, followers: 0 })
  })

  it('keep their process alive while they wait, and not when they are forgotten', async () => {
    for (const reads of [1, 2] as const) {
      const id = newId()
      const log = logs()
      const writer = log.write(id)
      writer.append(['0'])
      const { child, message } = start({ url: (shared as RedisServer).url, id, does: 'forget', reads })
      const exit = once(child, 'exit')
      expect(await message()).toEqual({ read: ['0'] })
      if (reads === 2) {
        await delay(300)
        expect(child.exitCode).toBeNull()
        const second = message()
        writer.append(['1'])
        expect(await second).toEqual({ read: ['1'] })
      }
      expect(await exit).toEqual([0, null])
      await writer.end()
    }
  })

  it('leave nothing behind: 2,000 logs written and followed, some left and some aborted', async () => {
    const log = logs()
    async function rounds(count: number): Promise<void> {
      for (let round = 0; round < count; round++) await Promise.all(Array.from({ length: 50 }, (_, number) => use(number)))
    }
    async function use(number: number): Promise<void> {
      const id = newId()
      const stop = new AbortController()
      const reader = log.follow(id, { signal: stop.signal })[Symbol.asyncIterator]()
      const first = reader.next()
      const writer = log.write(id)
      writer.append(['a'.repeat(1000)])
      await first
      if (number % 3 === 0) await reader.return?.()
      if (number % 3 === 1) stop.abort()
      await writer.end()
      if (number % 3 === 2) expect((await reader.next()).done).toBe(true)
    }
    await rounds(10)
    const before = await heapAfterGc()
    await rounds(30)
    expect((await heapAfterGc()) - before).toBeLessThan(500_000)
    expect(log.stats()).toMatchObject({ writers: 0, followers: 0, broken: 0, readFailures: 0, writeFailures: 0 })
  })
})
