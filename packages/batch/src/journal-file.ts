import type { FileHandle } from 'node:fs/promises'
import { MillraceError } from '@millrace/core'
import { createLineReader } from './line-reader.ts'

/** Lines that are appended and made safe together. */
export interface JournalFile {
  /** Where the line will stand (its break not counted), and what resolves once it is on disk. After a failure it rejects, always. */
  append(line: string): { readonly offset: number; readonly length: number; readonly safe: Promise<void> }
  /** What `use` makes of bytes that are safe; at once where they were read with others. They are its own while it runs. */
  read<T>(offset: number, length: number, use: (line: Buffer) => T): T | Promise<T>
  /** Why nothing can be written any more. */
  readonly failure: MillraceError | undefined
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
  let unsynced = false
  const reader = createLineReader(file, () => writtenBytes)

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
        // After a failure the system may forget what it could not write, and say that all is well.
        if (unsynced) throw failure
        await file.datasync()
        syncs++
        for (const { safe } of groups) safe.resolve()
      } catch (error) {
        unsynced = true
        failure ??= writeFailure(path, error)
        for (const { safe } of groups) safe.reject(failure)
      }
    }
    syncing = undefined
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
    read: reader.read,
    get failure() {
      return failure
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
      await reader.idle()
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
