import type { Chunk } from '@millrace/core'

/** A source that a test feeds by hand, and that tells what was done to it. It never answers a read by itself. */
export interface Fed extends AsyncIterable<Chunk> {
  give(chunk: Chunk): void
  end(): void
  fail(error: unknown): void
  readonly returned: number
  readonly reads: number
}

export function fed(): Fed {
  const arrived: (() => Promise<IteratorResult<Chunk>>)[] = []
  let reader: ((result: Promise<IteratorResult<Chunk>>) => void) | undefined
  let returned = 0
  let reads = 0
  const put = (make: () => Promise<IteratorResult<Chunk>>): void => {
    if (reader === undefined) return void arrived.push(make)
    reader(make())
    reader = undefined
  }
  return {
    give: (value) => put(async () => ({ done: false, value })),
    end: () => put(async () => ({ done: true, value: undefined })),
    fail: (error) =>
      put(async () => {
        throw error
      }),
    get returned() {
      return returned
    },
    get reads() {
      return reads
    },
    [Symbol.asyncIterator]: () => ({
      next() {
        reads++
        const make = arrived.shift()
        if (make !== undefined) return make()
        return new Promise((resolve) => {
          reader = resolve
        })
      },
      async return() {
        returned++
        return { done: true, value: undefined }
      }
    })
  }
}

export const text = (value: string): Chunk => ({ type: 'text', text: value })
export const start: Chunk = { type: 'start', provider: 'test', model: 'test' }
export const finish: Chunk = { type: 'finish', reason: 'stop' }

export async function* from(chunks: Iterable<Chunk>): AsyncGenerator<Chunk, void, undefined> {
  yield* chunks
}

export async function gather<T>(stream: AsyncIterable<T>): Promise<T[]> {
  const all: T[] = []
  for await (const item of stream) all.push(item)
  return all
}

/** Timers alive in this process. */
export function timers(): number {
  return process.getActiveResourcesInfo().filter((kind) => kind === 'Timeout').length
}
