import { MillraceError, onAbort } from '@millrace/core'
import type { Batch } from './batch.ts'
import type { RunOptions, Work } from './batch-options.ts'
import { createHooks } from './hooks.ts'
import { Context, type Item, RunningItems } from './item.ts'
import type { Recorded } from './journal.ts'
import { createMeter } from './meter.ts'
import { isThenable, type Outcome, outcomeOf } from './outcome.ts'
import { completionOutlet, inputOutlet } from './outlet.ts'
import { createPause } from './pause.ts'
import { done, Readers } from './readers.ts'
import { Ring } from './ring.ts'
import { closeQuietly, createSource, longestFirst, type Source } from './source.ts'
import { createTimeLimit } from './time-limit.ts'

/** One batch, from the first pull to the last outcome. */
export function createRun<I, O>(items: Iterable<I> | AsyncIterable<I>, work: Work<I, O>, options: RunOptions<I>): Batch<O> {
  const { concurrency, itemTimeoutMs, maxBuffered, maxPauses, journal, signal, length } = options
  const outlet = options.order === 'input' ? inputOutlet<O>(maxBuffered) : completionOutlet<O>()
  const running = new RunningItems<I>()
  const retries = new Ring<Item<I>>()
  const readers = new Readers<O>()
  const pause = createPause(concurrency, advance)
  const timeLimit =
    itemTimeoutMs === Number.POSITIVE_INFINITY ? undefined : createTimeLimit(itemTimeoutMs, running, expire, advance)
  const meter = createMeter(options.onProgress, () => ({ running: running.size, pausedMs: pause.pausedMs }))
  const hooks = createHooks(options, () => void meter.failedHooks++)
  let source: Source<I> | undefined
  let failure: { readonly error: unknown } | undefined
  let held = 0 // started, and not yet taken
  let taken = 0
  let lastWasSync = false
  let filling = false
  let everPaused = false // until then, no item pays for pauses
  let stopped = false // nothing new starts
  let over = false
  let off: (() => void) | undefined
  let endJournal: (() => void) | undefined

  function begin(): void {
    if (source !== undefined || failure !== undefined) return
    meter.begin()
    if (signal?.aborted === true) return void (failure = { error: signal.reason })
    try {
      endJournal = journal?.begin()
      const events = { onNews: advance, onFailure: (error: unknown) => void (failure ??= { error }) }
      source = length === undefined ? createSource(items, events) : longestFirst(items, hooks.lengthOf, options.lookahead, events)
    } catch (error) {
      return void (failure = { error })
    }
    off = onAbort(signal, stop)
  }

  function fill(): void {
    // Asked several times an item, and mostly there is nothing to start.
    if (filling || (source?.busy === true && retries.size === 0)) return
    filling = true
    startAll()
    filling = false
  }

  function startAll(): void {
    while (running.size < concurrency) {
      if (stopped) return
      // What settles at once gains nothing by running ahead of the reader, who is about to take what is ready.
      if (lastWasSync && outlet.ready) return
      if (retries.size > 0) {
        if (!pause.admit()) return
        start(retries.shift() as Item<I>)
        continue
      }
      if (held >= maxBuffered || source === undefined || source.ended || (everPaused && !pause.admit())) return
      const item = source.take()
      if (item === undefined) return
      meter.pulled = source.pulled
      held++
      start(item)
    }
  }

  function start(item: Item<I>): void {
    lastWasSync = false
    running.add(item)
    timeLimit?.start(item)
    let result: O | PromiseLike<O> | Recorded | Promise<Recorded>
    try {
      if (journal !== undefined) item.entry ??= journal.enter(item.value)
      if (journal !== undefined && item.entry?.recorded === true) {
        result = journal.replay(item.entry)
      } else {
        item.context = new Context(item.index, ++item.attempt, item.entry?.idempotencyKey)
        result = work(item.value, item.context)
      }
    } catch (error) {
      finish(item, 'rejected', error)
      lastWasSync = true
      return
    }
    if (isThenable(result)) return void follow(item, result)
    finish(item, 'fulfilled', result)
    lastWasSync = true
  }

  // To await costs less than `then` with a closure for each end.
  async function follow(item: Item<I>, result: PromiseLike<O | Recorded>): Promise<void> {
    let status: Outcome<O>['status'] = 'fulfilled'
    let value: unknown
    try {
      value = await result
    } catch (error) {
      status = 'rejected'
      value = error
    }
    finish(item, status, value)
    advance()
  }

  function finish(item: Item<I>, status: Outcome<O>['status'], value: unknown): void {
    if (!item.open) return late(item, status, value)
    running.remove(item)
    if (item.attempt === 0 && item.entry !== undefined) return finishReplay(item, status, value)
    if (status === 'rejected') {
      const ms = item.attempt <= maxPauses ? hooks.pauseOf(value) : undefined
      if (ms !== undefined) {
        meter.retried++
        everPaused = true
        pause.begin(ms)
        hold(readers.size > 0 ? 'ref' : 'unref')
        retries.push(item)
        return
      }
    }
    settle(item, outcomeOf(item.index, status, value))
  }

  function finishReplay(item: Item<I>, status: Outcome<O>['status'], value: unknown): void {
    item.open = false
    if (status === 'rejected') {
      // The journal cannot be read: going on would pay again for what is in it.
      stop(value)
      return put(outcomeOf(item.index, status, value))
    }
    const recorded = value as Recorded
    meter.replayed++
    put({ index: item.index, ...recorded, replayed: true } as Outcome<O>)
  }

  /** The outcome is known; it is yielded once it is safe. */
  function settle(item: Item<I>, outcome: Outcome<O>): void {
    item.open = false
    if (journal === undefined || item.entry === undefined) return put(outcome)
    try {
      journal.record(item.entry, outcome).then(
        () => {
          put(outcome)
          advance()
        },
        (error) => {
          stop(error)
          put(outcomeOf(item.index, 'rejected', error))
          advance()
        }
      )
    } catch (error) {
      put(outcomeOf(item.index, 'rejected', error)) // no JSON; not recorded, so that it runs again
    }
  }

  /** Its outcome was decided without it, by an abort or its time limit. What was paid for is kept for the next run. */
  function late(item: Item<I>, status: Outcome<O>['status'], value: unknown): void {
    if (status === 'rejected' || journal === undefined || item.entry === undefined || item.entry.recorded) return
    try {
      journal.record(item.entry, { status, value }).catch(() => {})
    } catch {
      // The journal counts what it refused; nobody waits for this outcome any more.
    }
  }

  function put(outcome: Outcome<O>): void {
    if (over) return
    meter[outcome.status]++
    // In order of completion nothing is kept while a reader waits: this one is the next.
    if (readers.size > 0 && options.order === 'completion') give(outcome)
    else outlet.put(outcome)
    if (options.onProgress !== undefined) meter.changed()
  }

  function give(outcome: Outcome<O>): void {
    held--
    taken++
    readers.give(outcome)
    if (readers.size === 0) hold('unref')
  }

  /** Something has changed: starts what may start, and hands out what is ready. */
  function advance(): void {
    for (;;) {
      fill()
      if (readers.size === 0) return
      const outcome = outlet.take()
      if (outcome === undefined) break
      give(outcome)
    }
    if (!isDone()) return
    end()
    readers.end(failure)
  }

  function isDone(): boolean {
    return source === undefined || (source.ended && taken === source.pulled)
  }

  function end(): void {
    over = true
    stopped = true
    off?.()
    timeLimit?.stop()
    pause.stop()
    endJournal?.()
    meter.end()
  }

  /** Ends the work on everything that was pulled; those outcomes that are on their way to the journal still come. */
  function stop(error: unknown): void {
    if (stopped || source === undefined) return
    stopped = true
    failure ??= { error }
    const open = [...drop(error), ...source.rest()]
    meter.pulled = source.pulled
    void closeQuietly(source)
    for (const item of open) put(outcomeOf(item.index, 'rejected', error))
    advance()
  }

  /** Lets go of all that runs or waits to run again. */
  function drop(reason: unknown): Item<I>[] {
    const dropped: Item<I>[] = []
    for (let item = running.first; item !== undefined; item = running.first) {
      running.remove(item)
      dropped.push(item)
    }
    const ran = dropped.length
    for (let item = retries.shift(); item !== undefined; item = retries.shift()) dropped.push(item)
    for (const item of dropped) item.open = false
    // After that, for whoever hears it may look at the batch.
    for (let at = 0; at < ran; at++) Context.abort(dropped[at]?.context, reason)
    return dropped
  }

  function expire(item: Item<I>, reason: MillraceError): void {
    running.remove(item)
    settle(item, outcomeOf(item.index, 'rejected', reason))
    Context.abort(item.context, reason)
  }

  /** Timers keep the process alive only while somebody waits for an outcome. */
  function hold(as: 'ref' | 'unref'): void {
    timeLimit?.hold(as)
    if (everPaused) pause.hold(as)
  }

  return {
    next() {
      if (over) return Promise.resolve(done)
      if (source === undefined) begin()
      if (readers.size === 0) {
        fill()
        const value = outlet.take()
        if (value !== undefined) {
          held--
          taken++
          fill()
          return Promise.resolve({ done: false, value })
        }
      }
      const next = readers.wait()
      hold('ref')
      if (isDone()) advance()
      return next
    },
    async return() {
      if (over) return done
      end()
      drop(new MillraceError('closed', 'the batch was left', { details: {} }))
      readers.end()
      await source?.close()
      return done
    },
    async [Symbol.asyncDispose]() {
      await this.return()
    },
    [Symbol.asyncIterator]() {
      return this
    },
    get progress() {
      return meter.read()
    }
  }
}
