import type { FileHandle } from 'node:fs/promises'
import { MillraceError } from '@millrace/core'

/** What is read at once: the lines of neighbours, which are replayed next. */
const blockBytes = 262_144

/** Lines that are appended and made safe together. */
export interface JournalFile {
  /** Where the line will stand (its break not counted), and what resolves once it is on disk. After a failure it rejects, always. */
  append(line: string): { readonly offset: number; readonly length: number; readonly safe: Promise<void> }
  /** Bytes that were appended before; at once where they were read with others. */
  read(offset: number, length: number): Buffer | Promise<Buffer>
  readonly bytes: number
  readonly syncs: number
  /** Writes what was appended and closes. */
  close(): Promise<void>
}

interface Group {
  readonly lines: Buffer[]
  readonly safe: PromiseWithResolvers<void>
}

/** `size`: where the file ends, and the next line begins. */
export function createJournalFile(path: string, file: FileHandle, size: number, durability: 'synced' | 'written'): JournalFile {
  let bytes = size
  let writtenBytes = size
  let syncs = 0
  let next: Group | undefined
  let written: Group[] = []
  let writing: Promise<void> | undefined
  let syncing: Promise<void> | undefined
  let failure: MillraceError | undefined
  let block: { readonly offset: number; readonly data: Buffer } | undefined

  // Written without waiting for the disk, so that a killed process loses next to nothing.
  async function write(): Promise<void> {
    for (let group = next; group !== undefined; group = next) {
      next = undefined
      try {
        if (failure !== undefined) throw failure
        const data = Buffer.concat(group.lines)
        for (let at = 0; at < data.length; ) {
          at += (await file.write(data, at, data.length - at, writtenBytes + at)).bytesWritten
        }
        writtenBytes += data.length
        if (durability === 'written') {
          group.safe.resolve()
        } else {
          written.push(group)
          syncing ??= sync()
        }
      } catch (error) {
        failure ??= writeFailure(path, error)
        group.safe.reject(failure)
      }
    }
    writing = undefined
  }

  /** What is written while the disk is waited for goes with the next wait: one serves them all. */
  async function sync(): Promise<void> {
    while (written.length > 0) {
      const groups = written
      written = []
      try {
        await file.datasync()
        syncs++
        for (const { safe } of groups) safe.resolve()
      } catch (error) {
        failure ??= writeFailure(path, error)
        for (const { safe } of groups) safe.reject(failure)
      }
    }
    syncing = undefined
  }

  async function load(offset: number, length: number): Promise<Buffer> {
    const data = Buffer.allocUnsafe(Math.max(length, blockBytes))
    let filled = 0
    while (filled < length) {
      const { bytesRead } = await file.read(data, filled, data.length - filled, offset + filled)
      if (bytesRead === 0) break
      filled += bytesRead
    }
    // Not what is being written at this moment.
    block = { offset, data: data.subarray(0, Math.min(filled, writtenBytes - offset)) }
    return data.subarray(0, length)
  }

  return {
    append(line) {
      const data = Buffer.from(line)
      const offset = bytes
      bytes += data.length
      next ??= { lines: [], safe: Promise.withResolvers<void>() }
      next.lines.push(data)
      const { safe } = next
      // Begun in a microtask of its own: what settles in this turn goes along.
      writing ??= Promise.resolve().then(write)
      return { offset, length: data.length - 1, safe: safe.promise }
    },
    read(offset, length) {
      if (block !== undefined && offset >= block.offset && offset + length <= block.offset + block.data.length) {
        return block.data.subarray(offset - block.offset, offset - block.offset + length)
      }
      return load(offset, length)
    },
    get bytes() {
      return writtenBytes
    },
    get syncs() {
      return syncs
    },
    async close() {
      await writing
      await syncing
      // A line that a failed write has torn: the next run would cut it off anyway.
      if (failure !== undefined) await file.truncate(writtenBytes).catch(() => {})
      await file.close()
    }
  }
}

function writeFailure(path: string, error: unknown): MillraceError {
  const { code = 'unknown error' } = error as NodeJS.ErrnoException
  return new MillraceError('unavailable', `the journal ${path} could not be written: ${code}`, {
    details: {},
    cause: error,
    retryable: false
  })
}
