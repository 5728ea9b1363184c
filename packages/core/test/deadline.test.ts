import { once } from 'node:events'
import { connect } from 'node:net'
import { setTimeout as delay, setImmediate as turn } from 'node:timers/promises'
import { Worker } from 'node:worker_threads'
import { describe, expect, it, vi } from 'vitest'
import { isMillraceError, type MillraceError, startContentClock, startDeadline, timeoutError } from '../src/index.ts'

type Timeout = MillraceError<'timeout'>

/** Blocks the event loop, as a slow handler would. */
function block(ms: number): void {
  const until = performance.now() + ms
  while (performance.now() < until);
}

describe('startDeadline', () => {
  it('expires once, not early, with the clock named', async () => {
    const heard: Timeout[] = []
    using deadline = startDeadline('connect', 30, (error) => heard.push(error))
    expect(deadline.remainingMs()).toBeLessThanOrEqual(30)
    expect(deadline.remainingMs()).toBeGreaterThan(0)
    await delay(200)
    expect(heard).toHaveLength(1)
    expect(isMillraceError(heard[0], 'timeout') && heard[0].details).toMatchObject({ clock: 'connect', limitMs: 30 })
    expect(heard[0]?.details.elapsedMs).toBeGreaterThanOrEqual(30)
    expect(heard[0]?.message).toContain('timeouts.connectMs')
    expect(deadline.remainingMs()).toBe(0)
  })

  it('lets what arrived in time be seen first after a blocked event loop', async () => {
    const heard: Timeout[] = []
    using deadline = startDeadline('total', 20, (error) => heard.push(error))
    const late = startDeadline('total', 20, (error) => heard.push(error))
    // Before the timers' turn to be heard, as a socket that was readable all along.
    setTimeout(() => setImmediate(() => deadline[Symbol.dispose]()), 1)
    block(100)
    await delay(50)
    expect(heard).toHaveLength(1)
    late[Symbol.dispose]()
  })

  it('never expires once disposed', async () => {
    const heard: Timeout[] = []
    const deadline = startDeadline('total', 10, (error) => heard.push(error))
    deadline[Symbol.dispose]()
    deadline[Symbol.dispose]()
    await delay(50)
    expect(heard).toEqual([])
  })

  it('has no timer without a limit, and keeps no process alive with one', () => {
    for (const limit of [undefined, Number.POSITIVE_INFINITY]) {
      const before = process.getActiveResourcesInfo().length
      using deadline = startDeadline('total', limit, () => {})
      expect(deadline.remainingMs()).toBe(Number.POSITIVE_INFINITY)
      expect(process.getActiveResourcesInfo()).toHaveLength(before)
    }
    const before = process.getActiveResourcesInfo().length
    const deadline = startDeadline('total', 60_000, () => {})
    expect(process.getActiveResourcesInfo()).toHaveLength(before)
    deadline[Symbol.dispose]()
  })

  it('does not expire early where the limit is longer than a timer can be', () => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'performance'] })
    try {
      const heard: Timeout[] = []
      const limitMs = 3 * 2 ** 31
      using deadline = startDeadline('total', limitMs, (error) => heard.push(error))
      vi.advanceTimersByTime(limitMs - 1)
      expect(heard).toEqual([])
      expect(deadline.remainingMs()).toBe(1)
      vi.advanceTimersByTime(1)
      expect(heard).toHaveLength(1)
      vi.advanceTimersByTime(limitMs)
      expect(heard).toHaveLength(1)
    } finally {
      vi.useRealTimers()
    }
  })

  it('says what to write instead of a wrong limit', () => {
    for (const limit of [-1, Number.NaN]) {
      expect(() => startDeadline('total', limit, () => {})).toThrow(
        `timeouts.totalMs must be a number of milliseconds from 0 up, or Infinity for no limit, not ${limit}`
      )
      expect(() => startContentClock({ idleMs: limit }, () => {})).toThrow(TypeError)
      expect(() => startContentClock({ firstChunkMs: limit }, () => {})).toThrow('timeouts.firstChunkMs')
    }
  })
})

describe('timeoutError', () => {
  it('names the clock, the option and the time for every clock', () => {
    for (const clock of ['queue', 'connect', 'headers', 'first-chunk', 'idle', 'total'] as const) {
      const error = timeoutError(clock, 10, 11.6)
      expect(error.details).toEqual({ clock, limitMs: 10, elapsedMs: 12 })
      expect(error.message).toMatch(/^the [a-z-]+ clock fired after 10 ms \(.*timeouts\.[a-zA-Z]+Ms\)$/)
      expect(error.retryable).toBe(true)
    }
  })
})

describe('startContentClock', () => {
  function clockOf(limits: { firstChunkMs?: number; idleMs?: number }) {
    const heard: string[] = []
    const clock = startContentClock(limits, (error) => heard.push(error.details.clock))
    return { clock, heard }
  }

  it('fires first-chunk while a read is pending and nothing has come, once', async () => {
    const { clock, heard } = clockOf({ firstChunkMs: 30, idleMs: 1 })
    clock.waiting()
    await delay(150)
    expect(heard).toEqual(['first-chunk'])
    clock.resting()
    clock.waiting()
    await delay(100)
    expect(heard).toEqual(['first-chunk'])
    clock[Symbol.dispose]()
  })

  it('fires idle after silence behind content, and content starts it over', async () => {
    const { clock, heard } = clockOf({ firstChunkMs: 10_000, idleMs: 300 })
    for (let piece = 0; piece < 8; piece++) {
      clock.waiting()
      await delay(60)
      clock.resting()
      clock.content()
    }
    expect(heard).toEqual([]) // 480 ms, none of them silent for 300
    clock.waiting()
    await delay(700)
    expect(heard).toEqual(['idle'])
    clock[Symbol.dispose]()
  })

  it('starts over at content that is told while the read is still pending', async () => {
    const { clock, heard } = clockOf({ idleMs: 300 })
    clock.content()
    clock.waiting()
    for (let piece = 0; piece < 8; piece++) {
      await delay(60)
      clock.content()
    }
    expect(heard).toEqual([])
    clock[Symbol.dispose]()
  })

  it('counts heartbeats as silence: reads that bring no content add up', async () => {
    const { clock, heard } = clockOf({ firstChunkMs: 100 })
    const until = performance.now() + 2000
    while (heard.length === 0 && performance.now() < until) {
      clock.waiting()
      await delay(10)
      clock.resting()
    }
    expect(heard).toEqual(['first-chunk'])
    expect(performance.now()).toBeLessThan(until)
    clock[Symbol.dispose]()
  })

  it('counts what is spent between reads, for that is spent on what the provider sent', async () => {
    const { clock, heard } = clockOf({ firstChunkMs: 100 })
    const until = performance.now() + 5000
    while (heard.length === 0 && performance.now() < until) {
      clock.waiting()
      await turn()
      block(10) // parsing of a flood that holds no content
    }
    expect(heard).toEqual(['first-chunk'])
    expect(performance.now()).toBeLessThan(until)
    clock[Symbol.dispose]()
  })

  it('fires in a flood without content that never lets a timer run, with and without chunks handed to the reader', async () => {
    for (const handsOut of [false, true]) {
      const { clock, heard } = clockOf({ firstChunkMs: 1000, idleMs: 50 })
      clock.content()
      const until = performance.now() + 5000
      while (heard.length === 0 && performance.now() < until) {
        clock.waiting()
        await Promise.resolve()
        block(0.1)
        if (handsOut) clock.resting()
      }
      expect(performance.now()).toBeLessThan(until)
      clock.waiting()
      await delay(100)
      expect(heard).toEqual(['idle'])
      clock[Symbol.dispose]()
    }
  })

  it('fires though timers only ever find the reader at work', async () => {
    const { clock, heard } = clockOf({ firstChunkMs: 50 })
    const until = performance.now() + 5000
    while (heard.length === 0 && performance.now() < until) {
      clock.waiting()
      block(2) // parsing
      clock.resting()
      await delay(2) // the reader
    }
    expect(heard).toEqual(['first-chunk'])
    expect(performance.now()).toBeLessThan(until)
    clock[Symbol.dispose]()
  })

  it('lets the head, the start and heartbeats be read after a blocked event loop, before it judges', async () => {
    const { clock, heard } = clockOf({ firstChunkMs: 50 })
    clock.waiting()
    block(200)
    for (let read = 0; read < 8; read++) {
      clock.waiting()
      await Promise.resolve()
      clock.resting()
    }
    clock.waiting()
    clock.content()
    clock.resting()
    await delay(20)
    expect(heard).toEqual([])
    clock[Symbol.dispose]()
  })

  it('does not count the time of a slow reader', async () => {
    const { clock, heard } = clockOf({ firstChunkMs: 100, idleMs: 100 })
    for (let piece = 0; piece < 3; piece++) {
      clock.waiting()
      await turn()
      clock.resting()
      clock.content()
      await delay(200)
    }
    clock.waiting()
    await turn()
    expect(heard).toEqual([])
    clock[Symbol.dispose]()
  })

  it('sees content that arrived while the event loop was blocked before it judges', async () => {
    const { clock, heard } = clockOf({ firstChunkMs: 50, idleMs: 50 })
    // Another thread answers while this one is blocked; the bytes then wait in the socket, which is read after the timers.
    const answered = new Int32Array(new SharedArrayBuffer(4))
    const speaker = new Worker(
      `const { parentPort, workerData } = require('node:worker_threads')
       const written = () => Atomics.store(workerData, 0, 1)
       const server = require('node:net').createServer((socket) => socket.on('data', () => socket.write('x', written)))
       server.listen(0, '127.0.0.1', () => parentPort.postMessage(server.address().port))`,
      { eval: true, workerData: answered }
    )
    const [port] = (await once(speaker, 'message')) as [number]
    const socket = connect(port, '127.0.0.1')
    await once(socket, 'connect')
    const arrived = new Promise<void>((resolve) =>
      socket.once('data', () => {
        clock.resting()
        clock.content()
        resolve()
      })
    )
    clock.waiting()
    socket.write('go')
    await turn()
    block(100)
    while (Atomics.load(answered, 0) === 0) block(10)
    block(100)
    await arrived
    expect(heard).toEqual([])
    clock[Symbol.dispose]()
    socket.destroy()
    await speaker.terminate()
  })

  it('still fires after a blocked event loop when nothing arrived', async () => {
    const { clock, heard } = clockOf({ firstChunkMs: 20 })
    clock.waiting()
    block(100)
    await delay(100)
    expect(heard).toEqual(['first-chunk'])
    clock[Symbol.dispose]()
  })

  it('fires nothing after dispose, even if it is told of another read', async () => {
    const { clock, heard } = clockOf({ firstChunkMs: 10, idleMs: 10 })
    clock.waiting()
    clock[Symbol.dispose]()
    clock.content()
    clock.waiting()
    await delay(60)
    expect(heard).toEqual([])
  })

  it('has no limit where none is given', async () => {
    const { clock, heard } = clockOf({})
    clock.waiting()
    await delay(30)
    clock.content()
    clock.waiting()
    await delay(30)
    expect(heard).toEqual([])
    clock[Symbol.dispose]()
  })
})
