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
  let pulling = false

  function next(): Item<I> | undefined {
    const result = checkedResult(input.next())
    if (result.done) {
      ended = true
      return undefined
    }
    const item = new Item(pulled, result.value)
    pulled++
    if (ended) endLate()
    return item
  }

  /** It was closed by its own step, in which it cannot be ended. Whoever closed it has a reason of their own to tell. */
  function endLate(): void {
    try {
      input.return?.()
    } catch {
      // As `for await` has it.
    }
  }

  return {
    get pulled() {
      return pulled
    },
    get ended() {
      return ended
    },
    busy: false,
    take() {
      if (ended || pulling) return undefined
      pulling = true
      try {
        return next()
      } catch (error) {
        ended = true
        onFailure(error)
        return undefined
      } finally {
        pulling = false
      }
    },
    rest: () => [],
    close() {
      if (ended) return
      ended = true
      if (!pulling) input.return?.()
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
    try {
      if (checkedResult(result).done) ended = true
      else arrived = new Item(pulled, result.value)
    } catch (error) {
      return fail(error)
    }
    if (arrived !== undefined) pulled++
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
        Promise.resolve(input.next()).then(arrive, fail)
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
      Promise.resolve(closed).catch(() => {})
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
  /** Of which `length` is asked just now: it may abort the batch, which then has this one, too. */
  let asked: Item<I> | undefined

  function read(): void {
    while (asked === undefined && ahead.size < lookahead) {
      const item = source.take()
      if (item === undefined) return
      asked = item
      item.length = length(item.value)
      if (asked !== undefined) ahead.push(item)
      asked = undefined
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
      if (asked !== undefined) rest.push(asked)
      asked = undefined
      for (let item = ahead.pop(); item !== undefined; item = ahead.pop()) rest.push(item)
      return rest
    },
    close() {
      clearImmediate(waiting)
      return source.close()
    }
  }
}

/** As `for await` has it, for an input that breaks the rules of iterators. */
function checkedResult<I>(result: IteratorResult<I>): IteratorResult<I> {
  if (typeof result === 'object' && result !== null) return result
  throw new TypeError(`next() of the items gave ${String(result)}, where { value, done } should be`)
}

/** The reason of the stop is what the loop throws: an input that cannot even be ended does not hide it. */
export async function closeQuietly(source: Source<unknown>): Promise<void> {
  try {
    await source.close()
  } catch {
    // As `for await` has it.
  }
}
