import { type Chunk, type ChunkIterator, hasEnded, nextBatch } from '@millrace/core'
import { leave, leaveUnheard } from './leave.ts'
import type { PaceQueue } from './pace-queue.ts'

/** A source that is read into a queue, ahead of the reader. */
export interface PaceSource {
  /** Says that the queue has got more. Ends when the queue is empty and the source over; fails when the source does. */
  readonly news: ChunkIterator<'more'>
  /** To be called when the queue has got shorter. */
  shrunk(): void
}

const more: readonly 'more'[] = ['more']

export function readAhead(source: AsyncIterable<Chunk>, queue: PaceQueue, maxHeldChars: number): PaceSource {
  const iterator = source[Symbol.asyncIterator]()
  const room = createSignal()
  const told = createSignal()
  let state: 'new' | 'open' | 'over' = 'new'
  let failure: { readonly error: unknown } | undefined
  let reading = false
  let fresh = false

  async function pump(): Promise<void> {
    try {
      while (state === 'open') {
        while (queue.size >= maxHeldChars) await room.wait()
        reading = true
        const batch = await nextBatch(iterator)
        reading = false
        const now = performance.now()
        if (batch !== undefined) for (const chunk of batch) queue.add(chunk, now)
        if (batch === undefined || hasEnded(iterator)) state = 'over'
        fresh = true
        told.send()
      }
      queue.close()
    } catch (error) {
      reading = false
      state = 'over'
      failure = { error } // told to the next read; one that has left wants to know nothing
      told.send()
    }
  }

  async function next(): Promise<readonly 'more'[] | undefined> {
    if (state === 'new') {
      state = 'open'
      void pump()
    }
    if (!fresh && state === 'open') await told.wait()
    if (failure !== undefined) throw failure.error
    if (fresh) {
      fresh = false
      return more
    }
    while (queue.size > 0) await room.wait()
    return undefined
  }

  return {
    shrunk: room.send,
    news: {
      nextBatch: next,
      async next() {
        return (await next()) === undefined ? { done: true, value: undefined } : { done: false, value: 'more' }
      },
      get ended() {
        return state === 'over' && failure === undefined && queue.size === 0
      },
      async return() {
        state = 'over'
        if (reading) leaveUnheard(iterator)
        else await leave(iterator)
        return { done: true, value: undefined }
      }
    }
  }
}

interface Signal {
  /** For one who waits. */
  wait(): Promise<void>
  send(): void
}

function createSignal(): Signal {
  let resolve: (() => void) | undefined
  return {
    wait: () =>
      new Promise((waiting) => {
        resolve = waiting
      }),
    send() {
      resolve?.()
      resolve = undefined
    }
  }
}
