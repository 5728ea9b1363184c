import { checkOptions } from '@millrace/core'
import { shown } from './check-source.ts'

/** How much may be held for a reader that is behind. */
export interface QueueOptions<T> {
  /** Most items held for one reader. @default 1024 */
  readonly maxItems?: number | undefined
  /** Most of their sizes together, in the unit of `sizeOf`. @default 1048576 */
  readonly maxSize?: number | undefined
  /** The size of an item. @default the characters of its texts and the bytes of its buffers, its fields' included */
  readonly sizeOf?: ((item: T) => number) | undefined
  /** @default 'wait' */
  readonly whenFull?: 'wait' | 'fail' | undefined
}

export type QueueBound<T> = { readonly [K in keyof QueueOptions<T>]-?: NonNullable<QueueOptions<T>[K]> }

/** @throws {TypeError} that says what to write instead */
export function checkQueueBound<T>(of: string, options: QueueOptions<T>): QueueBound<T> {
  checkOptions<QueueOptions<T>>(of, options, { maxItems: 1, maxSize: 1, sizeOf: 1, whenFull: 1 })
  const { maxItems = 1024, maxSize = 1_048_576, sizeOf = charsOf, whenFull = 'wait' } = options
  if (!(Number.isSafeInteger(maxItems) && maxItems > 0)) {
    throw new TypeError(`maxItems must be a whole number above 0, not ${shown(maxItems)}`)
  }
  if (!(typeof maxSize === 'number' && maxSize > 0)) {
    throw new TypeError(`maxSize must be a number above 0, not ${shown(maxSize)}`)
  }
  if (typeof sizeOf !== 'function')
    throw new TypeError(`sizeOf must be a function from an item to its size, not ${typeof sizeOf}`)
  if (whenFull !== 'wait' && whenFull !== 'fail') throw new TypeError(`whenFull must be 'wait' or 'fail', not ${shown(whenFull)}`)
  return { maxItems, maxSize, sizeOf, whenFull }
}

/** Deep enough for the value of an `extra` chunk; a bound, for an item may hold itself. */
const maxDepth = 5

function charsOf(item: unknown, depth: number = 0): number {
  if (typeof item === 'string') return item.length
  if (typeof item !== 'object' || item === null || depth === maxDepth) return 0
  if (ArrayBuffer.isView(item) || item instanceof ArrayBuffer) return item.byteLength
  let chars = 0
  for (const key in item) chars += charsOf((item as Readonly<Record<string, unknown>>)[key], depth + 1)
  return chars
}
