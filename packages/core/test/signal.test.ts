import { getEventListeners } from 'node:events'
import { describe, expect, it } from 'vitest'
import { abortable, clampTimer, linkAbort, onAbort, sleep } from '../src/index.ts'

const listeners = (signal: AbortSignal): number => getEventListeners(signal, 'abort').length
const reason = new Error('enough')

describe('linkAbort', () => {
  it('follows its source, with the reason', () => {
    const source = new AbortController()
    using linked = linkAbort(source.signal)
    expect(linked.signal.aborted).toBe(false)
    source.abort(reason)
    expect(linked.signal.reason).toBe(reason)
  })

  it('is aborted at once by a source that is, and adds no listener', () => {
    const source = AbortSignal.abort(reason)
    using linked = linkAbort(source)
    expect(linked.signal.reason).toBe(reason)
    expect(listeners(source)).toBe(0)
  })

  it('aborts itself without touching its source; the first reason stays', () => {
    const source = new AbortController()
    using linked = linkAbort(source.signal)
    linked.abort(reason)
    linked.abort(new Error('later'))
    source.abort(new Error('latest'))
    expect(linked.signal.reason).toBe(reason)
    using alone = linkAbort(undefined)
    alone.abort(reason)
    expect(alone.signal.reason).toBe(reason)
  })

  it('has one listener on its source, none after dispose, and then follows no more', () => {
    const source = new AbortController()
    const linked = linkAbort(source.signal)
    expect(listeners(source.signal)).toBe(1)
    linked[Symbol.dispose]()
    linked[Symbol.dispose]()
    expect(listeners(source.signal)).toBe(0)
    source.abort(reason)
    expect(linked.signal.aborted).toBe(false)
  })

  it('keeps its abort under garbage collection', async () => {
    const source = new AbortController()
    const heard: unknown[] = []
    const links = Array.from({ length: 100 }, () => linkAbort(source.signal))
    for (const link of links) link.signal.addEventListener('abort', () => heard.push(link.signal.reason))
    gc?.()
    await sleep(5)
    gc?.()
    source.abort(reason)
    expect(heard).toEqual(Array.from({ length: 100 }, () => reason))
  })

  it('serves 10 000 calls under one signal with no listener left and no warning', async () => {
    const warnings: Error[] = []
    const hear = (warning: Error): number => warnings.push(warning)
    process.on('warning', hear)
    const source = new AbortController()
    const work = Array.from({ length: 10_000 }, async () => {
      using linked = linkAbort(source.signal)
      await sleep(1, linked.signal)
    })
    expect(listeners(source.signal)).toBe(10_000)
    await Promise.all(work)
    await sleep(1)
    process.off('warning', hear)
    expect(listeners(source.signal)).toBe(0)
    expect(warnings).toEqual([])
  })
})

describe('onAbort', () => {
  it('calls once, at once where the signal is aborted already, and never after it was taken off', () => {
    const heard: unknown[] = []
    const source = new AbortController()
    const off = onAbort(source.signal, () => heard.push('off'))
    onAbort(source.signal, (why) => heard.push(why))
    onAbort(undefined, () => heard.push('never'))()
    off()
    source.abort(reason)
    expect(heard).toEqual([reason])
    onAbort(source.signal, (why) => heard.push(why))()
    expect(heard).toEqual([reason, reason])
    expect(listeners(source.signal)).toBe(0)
  })
})

describe('abortable', () => {
  it('settles as the work does and leaves no listener', async () => {
    const { signal } = new AbortController()
    expect(await abortable(Promise.resolve(1), signal)).toBe(1)
    await expect(abortable(Promise.reject(reason), signal)).rejects.toBe(reason)
    expect(await abortable(Promise.resolve(1), undefined)).toBe(1)
    expect(listeners(signal)).toBe(0)
  })

  it('rejects with the reason at an abort, whatever becomes of the work, which may fail unheard later', async () => {
    const source = new AbortController()
    const work = Promise.withResolvers<void>()
    const waiting = abortable(work.promise, source.signal)
    source.abort(reason)
    await expect(waiting).rejects.toBe(reason)
    expect(listeners(source.signal)).toBe(0)
    work.reject(new Error('an unhandled rejection would fail this test run'))
    await sleep(5)
  })
})

describe('sleep', () => {
  it('waits about as long as asked', async () => {
    const startedAt = performance.now()
    await sleep(30)
    expect(performance.now() - startedAt).toBeGreaterThanOrEqual(28)
  })

  it('is cut by an abort, with the reason, no listener and no timer left', async () => {
    const source = new AbortController()
    const timers = activeTimers()
    const sleeping = sleep(60_000, source.signal)
    expect(activeTimers()).toBe(timers + 1)
    source.abort(reason)
    await expect(sleeping).rejects.toBe(reason)
    expect(activeTimers()).toBe(timers)
    expect(listeners(source.signal)).toBe(0)
    await expect(sleep(60_000, AbortSignal.abort(reason))).rejects.toBe(reason)
    expect(activeTimers()).toBe(timers)
  })
})

describe('clampTimer', () => {
  it('gives only delays that setTimeout takes', () => {
    expect([-1, 0, Number.NaN, 1.5, 2 ** 31, Number.POSITIVE_INFINITY].map(clampTimer)).toEqual([
      0,
      0,
      0,
      1.5,
      2 ** 31 - 1,
      2 ** 31 - 1
    ])
  })
})

function activeTimers(): number {
  return process.getActiveResourcesInfo().filter((kind) => kind === 'Timeout').length
}
