import { Ahead } from './ahead.ts'
import { Item } from './item.ts'

/** The input, pulled one at a time and only when it is asked. */
export interface Source<I> {
  readonly pulled: number
  /** Nothing more comes: the input has ended or failed, or was closed. */
  readonly ended: boolean
  /** A pull is under way and nothing is at hand: there is nothing to take before the next `onNews`. */
  readonly busy: boolean
  /** The next item if it is at hand; otherwise it is pulled, and `onNews` called when it has come, or the end. */
  take(): Item<I> | undefined
  /** Items that were pulled and never taken. */
  rest(): Item<I>[]
  /** Ends the input, once. A pull that is pending is not waited for, and what it brings is dropped. */
  close(): void | Promise<unknown>
}

export interface SourceEvents {
  readonly onNews: () => void
  readonly onFailure: (error: unknown) => void
}

/** An item for each value the input gives. */
export function createSource<I>(items: Iterable<I> | AsyncIterable<I>, events: SourceEvents): Source<I> {
  return Symbol.asyncIterator in items
    ? asyncSource(items[Symbol.asyncIterator](), events)
    : syncSource(items[Symbol.iterator](), events)
}

function syncSource<I>(input: Iterator<I>, { onFailure }: SourceEvents): Source<I> {
  let pulled = 0
  let ended = false
  return {
    get pulled() {
      return pulled
    },
    get ended() {
      return ended
    },
    busy: false,
    take() {
      if (ended) return undefined
      try {
        const result = input.next()
        if (result.done !== true) return new Item(pulled++, result.value)
        ended = true
      } catch (error) {
        ended = true
        onFailure(error)
      }
      return undefined
    },
    rest: () => [],
    close() {
      if (ended) return
      ended = true
      input.return?.()
    }
  }
}

function asyncSource<I>(input: AsyncIterator<I>, { onNews, onFailure }: SourceEvents): Source<I> {
  let pulled = 0
  let ended = false
  let pulling = false
  let arrived: Item<I> | undefined

  // Two functions for all pulls: what a pull brings needs no closure of its own.
  function arrive(result: IteratorResult<I>): void {
    pulling = false
    if (ended) return
    if (result.done === true) ended = true
    else arrived = new Item(pulled++, result.value)
    onNews()
  }
  function fail(error: unknown): void {
    pulling = false
    if (ended) return // closed meanwhile: whoever closed it has a reason of their own to tell
    ended = true
    onFailure(error)
    onNews()
  }

  return {
    get pulled() {
      return pulled
    },
    get ended() {
      return ended
    },
    get busy() {
      return pulling
    },
    take() {
      const item = arrived
      arrived = undefined
      if (item !== undefined || ended || pulling) return item
      pulling = true
      try {
        input.next().then(arrive, fail)
      } catch (error) {
        fail(error)
      }
      return undefined
    },
    rest() {
      const item = arrived
      arrived = undefined
      return item === undefined ? [] : [item]
    },
    close() {
      if (ended) return undefined
      ended = true
      const closed = input.return?.()
      if (!pulling) return closed
      // Behind a pull that is pending it would wait for as long as the input is silent; how it ends is nobody's business now.
      closed?.then(undefined, () => {})
      return undefined
    }
  }
}

/** Reads up to `lookahead` items ahead and gives the longest of them first. */
export function longestFirst<I>(
  items: Iterable<I> | AsyncIterable<I>,
  length: (item: I) => number,
  lookahead: number,
  { onNews, onFailure }: SourceEvents
): Source<I> {
  const ahead = new Ahead<I>()
  const source = createSource(items, {
    onNews() {
      read()
      onNews()
    },
    onFailure
  })
  // At the start of an input that is read in turns of its own, what has come in this turn is looked at together.
  let waiting: NodeJS.Immediate | undefined
  let begun = false

  function read(): void {
    while (ahead.size < lookahead) {
      const item = source.take()
      if (item === undefined) return
      item.length = length(item.value)
      ahead.push(item)
    }
  }

  return {
    get pulled() {
      return source.pulled
    },
    get ended() {
      return source.ended && ahead.size === 0
    },
    get busy() {
      return source.busy && ahead.size === 0
    },
    take() {
      read()
      if (!begun && !source.ended && ahead.size < lookahead) {
        waiting ??= setImmediate(() => {
          begun = true
          onNews()
        })
        return undefined
      }
      begun = true
      clearImmediate(waiting)
      const item = ahead.pop()
      read()
      return item
    },
    rest() {
      const rest = source.rest()
      for (let item = ahead.pop(); item !== undefined; item = ahead.pop()) rest.push(item)
      return rest
    },
    close() {
      clearImmediate(waiting)
      return source.close()
    }
  }
}

/** The reason of the stop is what the loop throws: an input that cannot even be ended does not hide it. */
export async function closeQuietly(source: Source<unknown>): Promise<void> {
  try {
    await source.close()
  } catch {
    // As `for await` has it.
  }
}
