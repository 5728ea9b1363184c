import type { FileHandle } from 'node:fs/promises'
import { Ring } from './ring.ts'

/** What is read at once where lines are asked for in their order: those of the neighbours, which come next. */
const aheadBytes = 262_144
/** And where they are asked for in another order: the page they stand in. */
const pageBytes = 16_384

/** Lines of a file by their place, read into one buffer, one read at a time for all that wait. */
export interface LineReader {
  read<T>(offset: number, length: number, use: (line: Buffer) => T): T | Promise<T>
  /** Resolves when nothing is being read. */
  idle(): Promise<void>
}

interface Wanted {
  readonly offset: number
  readonly length: number
  readonly use: () => void
  readonly reject: (error: unknown) => void
}

/** `stableBytes`: how much of the file is written, and does not change any more. */
export function createLineReader(file: FileHandle, stableBytes: () => number): LineReader {
  let buffer: Buffer | undefined
  let block: { readonly offset: number; readonly data: Buffer } | undefined
  let aheadFrom = 0 // a miss not far behind this is one in order
  let loading: Promise<void> | undefined
  const wanted = new Ring<Wanted>()

  function lineAt(offset: number, length: number): Buffer | undefined {
    if (block === undefined || offset < block.offset || offset + length > block.offset + block.data.length) return undefined
    return block.data.subarray(offset - block.offset, offset - block.offset + length)
  }

  async function load(): Promise<void> {
    for (let next = wanted.shift(); next !== undefined; next = wanted.shift()) {
      try {
        if (lineAt(next.offset, next.length) === undefined) await fetch(next.offset, next.length)
        next.use()
      } catch (error) {
        next.reject(error)
      }
    }
    loading = undefined
  }

  async function fetch(offset: number, length: number): Promise<void> {
    block = undefined // its bytes are overwritten from now on
    const inOrder = offset >= aheadFrom && offset - aheadFrom <= aheadBytes
    const from = inOrder ? offset : offset - (offset % pageBytes)
    const size = inOrder ? Math.max(aheadBytes, length) : Math.ceil((offset + length - from) / pageBytes) * pageBytes
    if (size <= aheadBytes) buffer ??= Buffer.allocUnsafeSlow(aheadBytes)
    const target = size <= aheadBytes && buffer !== undefined ? buffer.subarray(0, size) : Buffer.allocUnsafeSlow(size)
    const stable = Math.max(0, Math.min(size, stableBytes() - from))
    let filled = 0
    while (filled < stable) {
      const { bytesRead } = await file.read(target, filled, stable - filled, from + filled)
      if (bytesRead === 0) break
      filled += bytesRead
    }
    aheadFrom = offset + length
    block = { offset: from, data: target.subarray(0, filled) }
  }

  return {
    read<T>(offset: number, length: number, use: (line: Buffer) => T): T | Promise<T> {
      const line = loading === undefined ? lineAt(offset, length) : undefined
      if (line !== undefined) return use(line)
      return new Promise<T>((resolve, reject) => {
        // What is not in the block even now is not in the file: `use` is given what there is.
        wanted.push({ offset, length, reject, use: () => resolve(use(lineAt(offset, length) ?? Buffer.alloc(0))) })
        loading ??= load()
      })
    },
    async idle() {
      await loading
    }
  }
}
