import { setTimeout as delay } from 'node:timers/promises'
import { isMillraceError, MillraceError } from '@millrace/core'

export interface Frames {
  /**
   * The frames from the last one on, until the signal or the gateway ends it. A reader that is slow misses some.
   *
   * @throws {MillraceError} `queue-full`
   */
  follow(signal: AbortSignal): ReadableStream<Uint8Array>
}

interface Listener {
  /** There is a new frame. */
  wake(): void
  end(): void
}

/** More open pages than this are nobody's. */
const maxListeners = 100
const everyMs = 1000
/** When the gateway closes it waits for its open answers, and these should not be the last. */
const lookMs = 100

/** One frame for all who listen, taken while there are some. */
export function createFrames(take: () => Promise<string>, isClosing: () => boolean): Frames {
  const listeners = new Set<Listener>()
  const encoder = new TextEncoder()
  let latest: Uint8Array | undefined
  let isRunning = false

  async function run(): Promise<void> {
    isRunning = true
    try {
      while (listeners.size > 0 && !isClosing()) {
        const next = performance.now() + everyMs
        latest = encoder.encode(await take())
        for (const listener of listeners) listener.wake()
        while (listeners.size > 0 && !isClosing() && performance.now() < next) await delay(lookMs)
      }
    } catch (error) {
      // The pages come again, and see it if it lasts.
      if (!isMillraceError(error, 'closed')) console.error('millrace: a snapshot failed', error)
    } finally {
      isRunning = false
      latest = undefined
      for (const listener of listeners) listener.end()
    }
  }

  function follow(signal: AbortSignal): ReadableStream<Uint8Array> {
    if (listeners.size >= maxListeners) {
      throw new MillraceError('queue-full', `${maxListeners} pages are open already: close one`, {
        details: { limit: maxListeners }
      })
    }
    let seen: Uint8Array | undefined
    let tell: (() => void) | undefined
    let listener: Listener | undefined

    function join(controller: ReadableStreamDefaultController<Uint8Array>): Listener {
      const joined: Listener = {
        wake: () => tell?.(),
        end() {
          if (!listeners.has(joined)) return
          leave()
          controller.close()
          tell?.()
        }
      }
      listener = joined
      // Others may have taken the last place since: this page comes again, and is told.
      if (signal.aborted || listeners.size >= maxListeners) {
        controller.close()
        return joined
      }
      listeners.add(joined)
      signal.addEventListener('abort', joined.end)
      if (!isRunning) void run()
      return joined
    }

    function leave(): void {
      if (listener === undefined) return
      signal.removeEventListener('abort', listener.end)
      listeners.delete(listener)
    }

    return new ReadableStream<Uint8Array>(
      {
        // Asked only by a reader that has taken what it had: it gets the latest then, and no queue grows meanwhile. An
        // answer that nobody reads, to HEAD for one, takes no place.
        async pull(controller) {
          const self = listener ?? join(controller)
          if (listeners.has(self) && (latest === undefined || latest === seen)) {
            await new Promise<void>((resolve) => {
              tell = resolve
            })
          }
          if (!listeners.has(self) || latest === undefined) return
          seen = latest
          controller.enqueue(latest)
        },
        cancel() {
          leave()
          tell?.()
        }
      },
      { highWaterMark: 0 }
    )
  }

  return { follow }
}
