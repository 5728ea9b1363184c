import type { FileHandle } from 'node:fs/promises'
import { open } from 'node:fs/promises'
import { Exit } from './exit.ts'

/** A file of lines that is written as they come, so that `tail -f` shows them. */
export interface ResultFile {
  /** Waits while much is unwritten, so that a slow disk slows the batch down. */
  write(line: string): Promise<void>
  /** All of it is on the disk, also after a loss of power. */
  close(): Promise<void>
}

/** So much is gathered before a write is waited for. */
const maxHeldChars = 1024 * 1024

/**
 * @throws {Exit} 3 when it cannot be opened or written
 */
export async function openResultFile(path: string): Promise<ResultFile> {
  let file: FileHandle
  try {
    file = await open(path, 'w')
  } catch (error) {
    throw unwritable(path, error)
  }
  let held: string[] = []
  let heldChars = 0
  let failure: Exit | undefined
  let writing: Promise<void> | undefined

  async function drain(): Promise<void> {
    while (held.length > 0) {
      const text = held.join('')
      held = []
      heldChars = 0
      await file.appendFile(text)
    }
  }

  /** One write at a time; lines that come meanwhile go out together. */
  function flush(): Promise<void> {
    writing ??= drain()
      .catch((error: unknown) => {
        failure = unwritable(path, error)
      })
      .finally(() => {
        writing = undefined
      })
    return writing
  }

  return {
    async write(line) {
      if (failure !== undefined) throw failure
      held.push(line)
      heldChars += line.length
      const written = flush()
      if (heldChars > maxHeldChars) await written
    },
    async close() {
      while (held.length > 0 && failure === undefined) await flush()
      await writing
      try {
        // A pipe or a terminal cannot be synced.
        if (failure === undefined && (await file.stat()).isFile()) await file.sync()
        await file.close()
      } catch (error) {
        failure ??= unwritable(path, error)
      }
      if (failure !== undefined) throw failure
    }
  }
}

function unwritable(path: string, error: unknown): Exit {
  const { code } = error as NodeJS.ErrnoException
  const cure =
    code === 'ENOSPC' || code === 'EFBIG' || code === 'EDQUOT'
      ? 'make room there'
      : 'see that its folder is there and may be written'
  return new Exit(3, `${path} cannot be written (${String(code)}): ${cure}`, error)
}
