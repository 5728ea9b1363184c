import { isMillraceError, MillraceError, onAbort } from '@millrace/core'
import type { Batch } from './batch.ts'
import type { RunOptions, Work } from './batch-options.ts'
import { FullWaits } from './full-waits.ts'
import { createHooks } from './hooks.ts'
import { Context, type Item, RunningItems } from './item.ts'
import type { Recorded } from './journal.ts'
import { createMeter } from './meter.ts'
import { isThenable, type Outcome, outcomeOf } from './outcome.ts'
import { completionOutlet, inputOutlet } from './outlet.ts'
import { createPause } from './pause.ts'
import { done, Readers } from './readers.ts'
import { createRecorder, type Recorder } from './recorder.ts'
import { Ring } from './ring.ts'
import { closeQuietly, createSource, longestFirst, type Source } from './source.ts'
import { createTimeLimit } from './time-limit.ts'

/** One batch, from the first pull to the last outcome. */
export function createRun<I, O>(items: Iterable<I> | AsyncIterable<I>, work: Work<I, O>, options: RunOptions<I>): Batch<O> {
  const { concurrency, itemTimeoutMs, maxBuffered, maxPauses, journal, signal, length } = options
  const outlet = options.order === 'input' ? inputOutlet<O>(maxBuffered) : completionOutlet<O>()
  const running = new RunningItems<I>()
  const retries = new Ring<Item<I>>()
  const fullWaits = new FullWaits<I>(advance)
  const readers = new Readers<O>()
  const pause = createPause(concurrency, advance)
  const timeLimit =
    itemTimeoutMs === Number.POSITIVE_INFINITY ? undefined : createTimeLimit(itemTimeoutMs, running, expire, advance)
  const meter = createMeter(options.onProgress, () => ({ running: running.size + fullWaits.size, pausedMs: pause.pausedMs }))
  const hooks = createHooks(options, () => void meter.failedHooks++)
  const recorder = journal && createRecorder<I, O>(journal, { onSafe, onUnsafe })
  let source: Source<I> | undefined
  let failure: { readonly error: unknown } | undefined
  let held = 0 // started, and not yet taken
  let taken = 0
  let lastWasSync = false
  let filling = false
  let everPaused = false // until then, no item pays for pauses
  let halted: { readonly error: unknown } | undefined // nothing new starts, and the loop ends with that
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
    if (over) return void closeQuietly(source) // its iterator was asked for, and left the batch
    off = onAbort(signal, (reason) => stop(reason, 'dropped'))
  }

  /** To be asked again behind everything of the caller's, which may abort the batch, leave it, or ask for an outcome. */
  function isEnding(): boolean {
    return halted !== undefined || over
  }

  function fill(): void {
    // Asked several times an item, and mostly there is nothing to start.
    if (filling || (source?.busy === true && retries.size === 0 && !fullWaits.due)) return
    filling = true
    try {
      startAll()
    } finally {
      filling = false
    }
  }

  function startAll(): void {
    while (running.size + fullWaits.size < concurrency || fullWaits.due) {
      if (isEnding()) return
      // What settles at once gains nothing by running ahead of the reader, who is about to take what is ready.
      if (lastWasSync && outlet.ready) return
      if (fullWaits.size > 0 && fullWaits.due) {
        if (everPaused && !pause.admit()) return
        start(fullWaits.take())
        continue
      }
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
      if (isEnding()) return [item, ...source.rest()].forEach(refuse)
      start(item)
    }
  }

  function start(item: Item<I>): void {
    lastWasSync = false
    running.add(item)
    timeLimit?.start(item)
    let result: O | PromiseLike<O> | Recorded | Promise<Recorded>
    if (recorder !== undefined && item.entry === undefined && !enter(item, recorder)) return
    try {
      if (journal !== undefined && item.entry?.recorded === true) {
        result = journal.replay(item.entry)
      } else {
        item.context = new Context(item.index, ++item.attempt, item.entry?.idempotencyKey)
        result = work(item.value, item.context)
      }
      if (isThenable(result)) return void follow(item, result)
    } catch (error) {
      finish(item, 'rejected', error)
      lastWasSync = true
      return
    }
    finish(item, 'fulfilled', result)
    lastWasSync = true
  }

  /** Looks the item up; false where that has settled it. What cannot be looked up is no case for a pause. */
  function enter(item: Item<I>, { enter: look }: Recorder<I, O>): boolean {
    try {
      look(item)
    } catch (error) {
      lastWasSync = true
      if (!item.open) return false
      running.remove(item)
      reject(item, error)
    }
    return item.open
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
    if (!item.open) return recorder?.late(item, status, value)
    running.remove(item)
    if (item.attempt === 0 && item.entry !== undefined) return finishReplay(item, status, value)
    if (status === 'rejected') return fail(item, value)
    if (fullWaits.size > 0) fullWaits.succeeded()
    settle(item, outcomeOf(item.index, status, value))
  }

  function fail(item: Item<I>, error: unknown): void {
    const ms = hooks.pauseOf(error, item)
    if (ms === undefined) {
      if (isMillraceError(error, 'queue-full') && maxPauses > 0) return waitForPlace(item, error)
      // Of something of ours that was closed or full, which says nothing about the item: the next run tries it again.
      if (isMillraceError(error, 'closed') || isMillraceError(error, 'queue-full')) return reject(item, error)
      return settle(item, outcomeOf(item.index, 'rejected', error))
    }
    if (isEnding()) return refuse(item)
    meter.retried++
    everPaused = true
    pause.begin(ms)
    hold(readers.size > 0 ? 'ref' : 'unref')
    retries.push(item)
  }

  function waitForPlace(item: Item<I>, error: unknown): void {
    if (isEnding()) return refuse(item)
    if (!fullWaits.add(item)) return reject(item, error)
    meter.retried++
    fullWaits.hold(readers.size > 0 ? 'ref' : 'unref')
  }

  /** An outcome that is not recorded. Where something was closed, all items behind it would fail in the same way. */
  function reject(item: Item<I>, error: unknown): void {
    item.open = false
    put(outcomeOf(item.index, 'rejected', error))
    if (isMillraceError(error, 'closed')) stop(error, 'finished')
  }

  /** It was pulled, and the batch has ended before it could start. */
  function refuse(item: Item<I>): void {
    item.open = false
    put(outcomeOf(item.index, 'rejected', halted?.error))
  }

  function finishReplay(item: Item<I>, status: Outcome<O>['status'], value: unknown): void {
    item.open = false
    if (status === 'rejected') {
      // The journal cannot be read: going on would pay again for what is in it.
      put(outcomeOf(item.index, status, value))
      return stop(value, 'dropped')
    }
    const recorded = value as Recorded
    meter.replayed++
    put({ index: item.index, ...recorded, replayed: true } as Outcome<O>)
  }

  /** The outcome is known; it is yielded once it is safe. */
  function settle(item: Item<I>, outcome: Outcome<O>): void {
    item.open = false
    if (recorder === undefined) put(outcome)
    else recorder.record(item, outcome)
  }

  function onSafe(outcome: Outcome<O>): void {
    put(outcome)
    advance()
  }

  function onUnsafe(item: Item<I>, error: unknown): void {
    put(outcomeOf(item.index, 'rejected', error))
    stop(error, 'dropped')
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
    // What is being pulled just now counts once it has come; whoever pulls asks again.
    if (filling || !isDone()) return
    end()
    readers.end(failure)
  }

  function wasLeft(): boolean {
    return over
  }

  function isDone(): boolean {
    return source === undefined || (source.ended && taken === source.pulled)
  }

  function end(): void {
    over = true
    off?.()
    timeLimit?.stop()
    pause.stop()
    fullWaits.stop()
    endJournal?.()
    meter.end()
  }

  /**
   * Nothing more starts. What runs is finished, or dropped; outcomes that are on their way to the journal still come. An
   * abort may come behind a milder stop.
   */
  function stop(error: unknown, rest: 'finished' | 'dropped'): void {
    if (source === undefined || over) return
    halted ??= { error }
    failure ??= halted
    const ran = rest === 'dropped' ? running.takeAll() : []
    const open = [...ran, ...fullWaits.takeAll(), ...retries.takeAll(), ...source.rest()]
    meter.pulled = source.pulled
    void closeQuietly(source)
    for (const item of open) item.open = false
    // After that, for whoever hears it may look at the batch.
    for (const item of ran) Context.abort(item.context, error)
    for (const item of open) put(outcomeOf(item.index, 'rejected', error))
    advance()
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
    if (fullWaits.size > 0) fullWaits.hold(as)
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
          if (readers.size > 0) advance() // who has asked from within work
          return Promise.resolve({ done: false, value })
        }
      }
      if (wasLeft()) return Promise.resolve(done)
      const next = readers.wait()
      hold('ref')
      if (readers.size > 1 || isDone()) advance()
      return next
    },
    async return() {
      if (over) return done
      end()
      const ran = running.takeAll()
      for (const item of ran) item.open = false
      const reason = new MillraceError('closed', 'the batch was left', { details: {} })
      for (const item of ran) Context.abort(item.context, reason)
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
