import { type Chunk, checkOptions, isContent as isContentChunk, startContentClock } from '@millrace/core'
import { checkNoSource, shown } from './check-source.ts'
import { type Operator, operate } from './operate.ts'

/** The two content clocks, by the names and with the defaults they have in `timeouts` of a call. */
export interface IdleTimeoutOptions {
  /** To the first content, in milliseconds. @default Infinity: a model that reasons is silent for minutes */
  readonly firstChunkMs?: number | undefined
  /** Between two contents, in milliseconds. @default 60000 */
  readonly idleMs?: number | undefined
}

/**
 * Ends a stream that has fallen silent. Only content breaks the silence: notes, heartbeats and empty deltas do not, however
 * many come. Time counts while a read waits, so a slow reader trips nothing. The source is returned at once, although it
 * may be busy reading.
 *
 * A stream of other things than chunks takes `isContent`, which says what breaks the silence.
 *
 * @throws {TypeError} at creation, when an option is wrong. The stream throws `timeout`, whose `details.clock` is
 * `first-chunk` or `idle`
 *
 * @example
 * for await (const chunk of idleTimeout({ firstChunkMs: 30_000, idleMs: 10_000 })(stream)) console.log(chunk)
 *
 * @example
 * const events = idleTimeout<ServerSentEvent>({ idleMs: 10_000, isContent: (event) => event.data !== '' })(parseSSE(body))
 */
export function idleTimeout(options?: IdleTimeoutOptions): Operator<Chunk>
export function idleTimeout<T>(options: IdleTimeoutOptions & { readonly isContent: (item: T) => boolean }): Operator<T>
export function idleTimeout<T>(
  options: IdleTimeoutOptions & { readonly isContent?: ((item: T) => boolean) | undefined } = {}
): Operator<T> {
  checkNoSource('idleTimeout', options)
  checkOptions<typeof options>('idleTimeout', options, { firstChunkMs: 1, idleMs: 1, isContent: 1 })
  const { firstChunkMs = Number.POSITIVE_INFINITY, idleMs = 60_000 } = options
  checkLimit('firstChunkMs', firstChunkMs)
  checkLimit('idleMs', idleMs)
  const isContent = options.isContent ?? (isContentChunk as (item: never) => boolean as (item: T) => boolean)
  if (typeof isContent !== 'function') {
    throw new TypeError(`isContent must be a function that says what breaks the silence, not ${typeof isContent}`)
  }
  return operate(({ fail }) => {
    const clock = startContentClock({ firstChunkMs, idleMs }, fail)
    let heard = false // said once for a batch: the clock asks for the time
    return {
      waiting: clock.waiting,
      resting() {
        if (heard) clock.content()
        heard = false
        clock.resting()
      },
      close: () => clock[Symbol.dispose](),
      take(item, emit) {
        heard ||= isContent(item)
        emit(item)
        return undefined
      }
    }
  })
}

function checkLimit(name: string, limitMs: number): void {
  if (typeof limitMs === 'number' && limitMs >= 0) return
  throw new TypeError(`${name} must be a number of milliseconds from 0 up, or Infinity for no limit, not ${shown(limitMs)}`)
}
